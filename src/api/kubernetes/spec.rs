//! Reads a custom object's `spec` out of a JSON tree, leniently: what is wrong is said and left out.

use serde_json::Value;

/// Mistakes of one object, as `spec.path: what is wrong`.
pub type Mistakes = Vec<String>;

/// `value[key]` as text; nothing when it is absent, null or, with a mistake, something else.
pub fn text<'a>(value: &'a Value, path: &str, key: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
    match value.get(key)? {
        Value::Null => None,
        Value::String(s) => Some(s),
        other => {
            mistakes.push(format!("{path}.{key}: must be a string, not {}", kind(other)));
            None
        }
    }
}

/// `value[key]` as a list; empty when it is absent, null or, with a mistake, something else.
pub fn list<'a>(value: &'a Value, path: &str, key: &str, mistakes: &mut Mistakes) -> &'a [Value] {
    match value.get(key) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items,
        Some(other) => {
            mistakes.push(format!("{path}.{key}: must be a list, not {}", kind(other)));
            &[]
        }
    }
}

/// A port number, or a mistake.
pub fn port(value: Option<&Value>, path: &str, mistakes: &mut Mistakes) -> Option<u16> {
    let number = value.and_then(Value::as_i64);
    let port = number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|port| *port > 0);
    if port.is_none() {
        let got = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        mistakes.push(format!(
            "{path}: must be a port number from 1 to 65535, not {got}"
        ));
    }
    port
}

/// What a value is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whom an objective or a rewrite is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRef {
    /// API group of the pool.
    pub group: String,
    /// Its name.
    pub name: String,
}

impl PoolRef {
    /// Reads `spec.poolRef`; the schema's defaults apply where the server has not applied them.
    pub fn read(spec: &Value, mistakes: &mut Mistakes) -> Option<Self> {
        let Some(reference) = spec.get("poolRef").filter(|v| v.is_object()) else {
            mistakes.push("spec.poolRef: is required: name the pool this is for".into());
            return None;
        };
        let Some(name) = text(reference, "spec.poolRef", "name", mistakes).filter(|n| !n.is_empty()) else {
            mistakes.push("spec.poolRef.name: is required".into());
            return None;
        };
        let group = text(reference, "spec.poolRef", "group", mistakes).unwrap_or(super::GROUP);
        Some(PoolRef {
            group: group.to_owned(),
            name: name.to_owned(),
        })
    }
}
