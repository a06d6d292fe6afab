//! YAML and JSON text into a located tree. Called by `config` and `discovery`; refuses documents that are too
//! large, too deep, or grow when their aliases are followed.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Options, Spanned};

use crate::api::document::{Mistakes, Node, Place, Value};

/// Largest document read, bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Deepest nesting followed.
const MAX_DEPTH: usize = 24;

/// Most nodes a document may have once its aliases are followed.
const MAX_NODES: usize = 100_000;

/// Reads `bytes`, the document called `name`. An empty document is `null`.
///
/// # Errors
/// One mistake: the document is too large, not UTF-8, or neither YAML nor JSON.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Node, Mistakes> {
    let refuse = |at: Place, message: String| {
        let mut mistakes = Mistakes::of(name);
        mistakes.add(at, "", message);
        mistakes
    };
    if bytes.len() > MAX_BYTES {
        return Err(refuse(
            Place::default(),
            format!("is larger than {MAX_BYTES} bytes"),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() as u64 + 1;
        refuse(Place { line, column: 1 }, "is not UTF-8".into())
    })?;
    if text.trim().is_empty() {
        return Ok(Node {
            at: Place::default(),
            value: Value::Null,
        });
    }
    let tree: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options()).map_err(|e| {
        let at = e.location().map(|l| place(&l)).unwrap_or_default();
        let text = e.without_snippet().to_string();
        // The location is said in front.
        let text = text
            .split(" at line ")
            .next()
            .unwrap_or(&text)
            .trim_end_matches(':')
            .to_owned();
        refuse(at, format!("failed to decode configuration JSON/YAML: {text}"))
    })?;
    Ok(node(tree))
}

fn options() -> Options {
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES },
    }
}

fn place(location: &Location) -> Place {
    Place {
        line: location.line(),
        column: location.column(),
    }
}

fn node(tree: Spanned<Tree>) -> Node {
    Node {
        at: place(&tree.referenced),
        value: tree.value.0,
    }
}

/// A value as the parser announces it.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E>(self, i: i64) -> Result<Value, E> {
        Ok(Value::Int(i))
    }

    fn visit_u64<E>(self, u: u64) -> Result<Value, E> {
        Ok(i64::try_from(u).map_or(Value::Float(u as f64), Value::Int))
    }

    fn visit_f64<E>(self, f: f64) -> Result<Value, E> {
        Ok(Value::Float(f))
    }

    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::Text(s.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = seq.next_element::<Spanned<Tree>>()? {
            list.push(node(entry));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = node(map.next_value::<Spanned<Tree>>()?);
            fields.push((key.value, place(&key.referenced), value));
        }
        Ok(Value::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_know_their_places_and_repeated_keys_are_kept() {
        let root = parse("f", b"a: 1\nb:\n- yes\n- {c: text, c: 2.5}\n").unwrap();
        let Value::Map(map) = &root.value else {
            panic!("{root:?}")
        };
        assert_eq!(
            (map[0].0.as_str(), map[0].1, &map[0].2.value),
            ("a", Place { line: 1, column: 1 }, &Value::Int(1))
        );
        let Value::List(list) = &map[1].2.value else {
            panic!("{map:?}")
        };
        assert_eq!(
            (list[0].at, &list[0].value),
            (Place { line: 3, column: 3 }, &Value::Bool(true))
        );
        let Value::Map(inner) = &list[1].value else {
            panic!("{list:?}")
        };
        assert_eq!(inner.len(), 2);
        assert_eq!(
            inner[1].2,
            Node {
                at: Place { line: 4, column: 16 },
                value: Value::Float(2.5)
            }
        );
    }

    #[test]
    fn json_is_read_too_and_an_empty_document_is_null() {
        let root = parse("f", br#"{"a": [null, "x"]}"#).unwrap();
        assert_eq!(root.to_json(), serde_json::json!({"a": [null, "x"]}));
        assert_eq!(parse("f", b" \n").unwrap().value, Value::Null);
    }

    #[test]
    fn broken_documents_say_where() {
        let text = parse("f.yaml", b"a: 1\nb: [1,\n").unwrap_err().to_string();
        assert!(text.starts_with("f.yaml:"), "{text}");
        assert!(
            text.contains("failed to decode configuration JSON/YAML: "),
            "{text}"
        );
        assert!(
            parse("f", &vec![b' '; MAX_BYTES + 1])
                .unwrap_err()
                .to_string()
                .contains("larger than")
        );
        assert_eq!(
            parse("f", b"a: 1\nb: \xff").unwrap_err().to_string(),
            "f:2:1: is not UTF-8"
        );
    }

    #[test]
    fn messages_never_say_what_a_document_holds() {
        for text in [
            "a: *SECRET",
            "a: !!SECRET b",
            "a: !SECRET! x",
            "a: !!int SECRET",
            "a: !!float SECRET",
            "a: !!bool SECRET",
            "a: !!binary \"SECRET?\"",
            "a: !!null SECRET",
            "a: \"\\SECRET\"",
            "%SECRET foo\n---\na",
            "SECRET: [1,",
            "@SECRET",
            "`SECRET`",
            "a: b: SECRET",
            "\tSECRET: {",
            "? {SECRET: 1}\n: x",
            "? [SECRET]\n: x",
            "a: 'SECRET",
            "a: |SECRET",
            "--- SECRET\n--- SECRET\n",
            "a: 1\n  SECRET: 2",
            "<<: SECRET",
            "root:SECRET:1::\nuser:SECRET:2::\n",
        ] {
            if let Err(mistakes) = parse("f", text.as_bytes()) {
                let said = mistakes.to_string();
                assert!(!said.contains("SECRET"), "{text}: {said}");
            }
        }
    }

    #[test]
    fn depth_and_aliases_are_bounded() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(parse("f", deep.as_bytes()).is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let last = format!("*a{},", i - 1).repeat(10);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", last.trim_end_matches(',')));
        }
        assert!(parse("f", bomb.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("f", &bytes);
        }

        #[test]
        fn almost_yaml_never_panics(text in "[a-c:\\-\\[\\]{},&*!| \n\"']{0,60}") {
            let _ = parse("f", text.as_bytes());
        }
    }
}
