//! A document as a tree that knows where each of its values stands, and typed readers over it that collect
//! every mistake instead of stopping at the first.

use std::fmt;
use std::time::Duration;

use crate::base::duration::GoDuration;
use crate::base::suggest;

/// Where something stands: line and column, both from 1; 0 when unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub at: Place,
    /// What it is.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, or nothing after the colon.
    Null,
    /// `true`, `false` and YAML 1.1's other words for them.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their places, in order; keys may repeat.
    Map(Vec<(String, Place, Node)>),
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub at: Place,
    /// Path in the document, such as `plugins[2].parameters`; empty for the document itself.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// All mistakes of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// The document's name: a path, or the flag that carried it.
    pub document: String,
    /// The mistakes.
    pub list: Vec<Mistake>,
}

impl Mistakes {
    /// No mistakes yet in the document called `document`.
    pub fn of(document: impl Into<String>) -> Self {
        Mistakes {
            document: document.into(),
            list: Vec::new(),
        }
    }

    /// Adds one.
    pub fn add(&mut self, at: Place, path: impl Into<String>, message: impl Into<String>) {
        self.list.push(Mistake {
            at,
            path: path.into(),
            message: message.into(),
        });
    }
}

/// One line per mistake, in document order: `file:line:column: path: message`.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list: Vec<&Mistake> = self.list.iter().collect();
        list.sort_by_key(|m| m.at);
        for (i, m) in list.into_iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.document)?;
            if m.at.line > 0 {
                write!(f, ":{}:{}", m.at.line, m.at.column)?;
            }
            if !m.path.is_empty() {
                write!(f, ": {}", m.path)?;
            }
            write!(f, ": {}", m.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// A value being read: a node, and its path for messages.
#[derive(Clone, Debug)]
pub struct At<'a> {
    /// The node.
    pub node: &'a Node,
    /// Its path.
    pub path: String,
}

impl<'a> At<'a> {
    /// The root of a document.
    pub fn root(node: &'a Node) -> Self {
        At {
            node,
            path: String::new(),
        }
    }

    /// Adds a mistake at this value.
    pub fn wrong(&self, m: &mut Mistakes, message: impl Into<String>) {
        m.add(self.node.at, self.path.clone(), message);
    }

    fn expected<T>(&self, m: &mut Mistakes, what: &str) -> Option<T> {
        let hint = match (&self.node.value, what) {
            (Value::Int(_) | Value::Float(_) | Value::Bool(_), "a string") => " (put it in quotes)",
            _ => "",
        };
        self.wrong(m, format!("must be {what}, not {}{hint}", self.node.value.kind()));
        None
    }

    /// The fields of an object; `null` reads as an empty one. Unknown and repeated keys are mistakes.
    pub fn object(&self, known: &[&str], m: &mut Mistakes) -> Object<'a> {
        let mut object = Object {
            at: self.node.at,
            path: self.path.clone(),
            fields: Vec::new(),
        };
        let map = match &self.node.value {
            Value::Map(map) => map,
            Value::Null => return object,
            _ => return self.expected(m, "an object").unwrap_or(object),
        };
        for (key, place, node) in map {
            let path = join(&self.path, shown(key));
            if !known.contains(&key.as_str()) {
                m.add(
                    *place,
                    path,
                    format!(
                        "unknown field \"{}\"{}",
                        shown(key),
                        suggest::hint(key, known.iter().copied())
                    ),
                );
            } else if object.fields.iter().any(|(k, _)| k == key) {
                m.add(*place, path, format!("field \"{key}\" is given twice"));
            } else {
                object.fields.push((key, At { node, path }));
            }
        }
        object
    }

    /// The entries of a list; `null` reads as an empty one.
    pub fn list(&self, m: &mut Mistakes) -> Vec<At<'a>> {
        match &self.node.value {
            Value::List(nodes) => {
                let entry = |(i, node)| At {
                    node,
                    path: format!("{}[{i}]", self.path),
                };
                nodes.iter().enumerate().map(entry).collect()
            }
            Value::Null => Vec::new(),
            _ => self.expected(m, "a list").unwrap_or_default(),
        }
    }

    /// Text.
    pub fn text(&self, m: &mut Mistakes) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => self.expected(m, "a string"),
        }
    }

    /// A boolean.
    pub fn bool(&self, m: &mut Mistakes) -> Option<bool> {
        match self.node.value {
            Value::Bool(b) => Some(b),
            _ => self.expected(m, "true or false"),
        }
    }

    /// A whole number.
    pub fn int(&self, m: &mut Mistakes) -> Option<i64> {
        match self.node.value {
            Value::Int(i) => Some(i),
            _ => self.expected(m, "a whole number"),
        }
    }

    /// A finite number.
    pub fn number(&self, m: &mut Mistakes) -> Option<f64> {
        match self.node.value {
            Value::Int(i) => Some(i as f64),
            Value::Float(f) if f.is_finite() => Some(f),
            _ => self.expected(m, "a finite number"),
        }
    }

    /// A duration in Go's notation, not negative.
    pub fn duration(&self, m: &mut Mistakes) -> Option<Duration> {
        let text = self.text(m)?;
        match GoDuration::parse(text) {
            Ok(d) => d.to_std().or_else(|| {
                self.wrong(m, format!("must not be negative, not {text}"));
                None
            }),
            Err(e) => {
                self.wrong(m, format!("{e}; write it like 200ms or 5m"));
                None
            }
        }
    }
}

/// The known fields of an object.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    /// Where it begins.
    pub at: Place,
    /// Its path.
    pub path: String,
    fields: Vec<(&'a str, At<'a>)>,
}

impl<'a> Object<'a> {
    /// The field called `name`, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&At<'a>> {
        let field = self.fields.iter().find(|(k, _)| *k == name).map(|(_, at)| at);
        field.filter(|at| at.node.value != Value::Null)
    }

    /// The entries of the list `name`; empty when absent.
    pub fn list(&self, name: &str, m: &mut Mistakes) -> Vec<At<'a>> {
        self.get(name).map(|at| at.list(m)).unwrap_or_default()
    }

    /// The text `name`.
    pub fn text(&self, name: &str, m: &mut Mistakes) -> Option<&'a str> {
        self.get(name)?.text(m)
    }

    /// A field that must be there, as text that is not empty.
    pub fn required_text(&self, name: &str, missing: &str, m: &mut Mistakes) -> Option<&'a str> {
        let Some(at) = self.get(name) else {
            m.add(self.at, self.path.clone(), missing);
            return None;
        };
        let text = at.text(m)?;
        if text.is_empty() {
            at.wrong(m, missing);
            return None;
        }
        Some(text)
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

impl Node {
    /// The value as JSON; of repeated keys the last one counts.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Float(f) => Json::from(*f),
            Value::Text(t) => Json::from(t.as_str()),
            Value::List(nodes) => nodes.iter().map(Node::to_json).collect(),
            Value::Map(map) => map.iter().map(|(k, _, v)| (k.clone(), v.to_json())).collect(),
        }
    }
}

/// A key of a document as messages may say it: as it is where it could be the name of a field, else a stand-in. A file
/// given by mistake may hold secrets, and messages go to logs and pages.
pub fn shown(key: &str) -> &str {
    let named = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if (1..=63).contains(&key.len()) && key.chars().all(named) {
        key
    } else {
        "(not shown: no name of a field)"
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_fields_and_nothing_else_of_a_document() {
        for (key, told) in [
            ("schedulingProfile", true),
            ("inference.networking.k8s.io/pool-name", true),
            ("root:$6$salt$hash:19000:0:99999:7::", false),
            ("a key with spaces", false),
            ("", false),
            (&"x".repeat(64), false),
        ] {
            let node = |value| Node {
                at: Place::default(),
                value,
            };
            let value = node(Value::Text("secret".into()));
            let document = node(Value::Map(vec![(key.to_owned(), Place::default(), value)]));
            let mut m = Mistakes::of("f");
            At::root(&document).object(&["known"], &mut m);
            let text = m.to_string();
            assert_eq!(text.contains(key), told || key.is_empty(), "{text}");
            assert!(
                text.contains("unknown field") && !text.contains("secret"),
                "{text}"
            );
        }
    }
}
