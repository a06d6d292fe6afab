//! The grammar, against serde_json, and what it costs to leave it.

use proptest::prelude::*;

use super::*;

fn whole(text: &str) -> Result<Value, JsonError> {
    let mut scan = Scan::new(text);
    let value = scan.value()?;
    scan.end()?;
    Ok(value)
}

/// A strict reader's word: is this JSON?
fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

#[test]
fn values_are_told_apart_and_found() {
    for (text, kind, span) in [
        (" {\"a\":[1]} ", Kind::Object, 1..10),
        ("[]", Kind::Array, 0..2),
        ("\"a\\\"b\"", Kind::String, 0..6),
        ("-1.5e+3\n", Kind::Number, 0..7),
        ("true", Kind::True, 0..4),
        ("false", Kind::False, 0..5),
        ("\tnull", Kind::Null, 1..5),
    ] {
        assert_eq!(whole(text), Ok(Value { kind, span }), "{text}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "[1}",
        "{\"a\":1]",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "tru",
        "nul",
        "True",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"\u{0}\"",
        "'a'",
        "1 2",
        "{} {}",
        "\u{feff}1",
        "\u{a0}1",
        "[1]]",
        "//x\n1",
        "\u{b}1",
        "\u{c}1",
    ] {
        assert!(!is_json(text), "{text:?}");
        assert_eq!(whole(text), Err(JsonError::Malformed), "{text:?}");
    }
}

#[test]
fn nesting_is_limited() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nest = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        assert!(whole(&nest(MAX_DEPTH)).is_ok());
        assert_eq!(whole(&nest(MAX_DEPTH + 1)), Err(JsonError::TooDeep));
        // The containers around a value count, whoever walks them.
        let inside = |n: usize| {
            let text = format!("[{}]", nest(n));
            Scan::new(&text).array(|scan| scan.value().map(|_| ()))
        };
        assert_eq!(
            (inside(MAX_DEPTH - 1), inside(MAX_DEPTH)),
            (Ok(()), Err(JsonError::TooDeep))
        );
    }
    let wide = format!("[{}[]]", "[[]],{\"a\":{}},".repeat(10_000));
    assert!(whole(&wide).is_ok(), "depth is not the number of containers");
}

#[test]
fn the_number_of_values_is_limited() {
    let limit = MAX_VALUES as usize;
    let refused = Err(JsonError::TooManyValues);
    for (unit, each) in [("1", 1), ("\"\"", 1), ("{}", 2), ("[[]]", 3), ("{\"\":0}", 2)] {
        let list = |n: usize| format!("[{unit}{}]", format!(",{unit}").repeat(n - 1));
        // The list itself is one more, and there is one comma less than values.
        assert!(whole(&list(limit / each)).is_ok(), "{unit}");
        assert_eq!(whole(&list(limit / each + 1)).map(|_| ()), refused, "{unit}");
    }
    let text = ",{[".repeat(limit);
    assert!(
        whole(&format!("\"{text}\"")).is_ok(),
        "what is in a string is no value"
    );
}

#[test]
fn numbers_are_told_from_token_ids() {
    for (text, expected) in [
        ("0", true),
        ("4294967295", true),
        ("4294967296", false),
        ("99999999999", false),
        ("-1", false),
        ("-0", false),
        ("1.0", false),
        ("1e2", false),
    ] {
        assert_eq!(Scan::new(text).is_u32(), Ok(expected), "{text}");
    }
}

#[test]
fn names_are_decoded_while_they_fit() {
    let of = |text: &str| {
        let text = Scan::new(text).string().unwrap();
        text.name(&mut Room::default())
            .map(|n| String::from_utf8_lossy(n).into_owned())
    };
    let long = "x".repeat(100);
    for (text, expected) in [
        (r#""""#, Some("")),
        (r#""model""#, Some("model")),
        (r#""mo\u0064el""#, Some("model")),
        (r#""\"\/\ud83d\ude00é""#, Some("\"/😀é")),
        (&format!("\"{long}\""), Some(&*long)),
        (&format!("\"\\n{long}\""), None),
        (
            r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\u00e9""#,
            Some("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxé"),
        ),
        (r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\u00e9""#, None),
    ] {
        assert_eq!(of(text).as_deref(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_json_is_what_serde_says(text in r#"[\[\]{}":,0-9eE.\-+ \\/untrfals\n\t\u{1}é]{0,24}"#) {
        prop_assert_eq!(whole(&text).is_ok(), is_json(&text), "{}", text);
    }

    #[test]
    fn strings_end_where_they_end(text in r#"[a-z"\\/ué0\n\u{1f} ]{0,40}"#, after in 0_usize..20) {
        let text = format!("\"{text}\"{}", " ".repeat(after));
        prop_assert_eq!(whole(&text).is_ok(), is_json(&text), "{}", text);
    }
}
