//! Typed parameters of a plugin: strict, with every mistake named and a suggestion where one is near.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::suggest;

/// The `parameters` object of one plugin entry, as JSON.
#[derive(Clone, Debug, Default)]
pub struct Params(Option<Value>);

/// Why parameters were refused: one line per mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ParamsError(pub Vec<String>);

impl ParamsError {
    /// One mistake.
    pub fn one(message: impl Into<String>) -> Self {
        ParamsError(vec![message.into()])
    }
}

impl Params {
    /// Parameters from JSON; `null` and absent mean the defaults.
    pub fn new(value: Option<Value>) -> Self {
        Params(value.filter(|v| !v.is_null()))
    }

    /// The raw value.
    pub fn value(&self) -> Option<&Value> {
        self.0.as_ref()
    }

    /// Decodes into `T`, after refusing every key that is not in `known`.
    ///
    /// # Errors
    /// All unknown keys at once, or the first type mistake.
    pub fn decode<T: DeserializeOwned + Default>(&self, known: &[&str]) -> Result<T, ParamsError> {
        let Some(value) = &self.0 else {
            return Ok(T::default());
        };
        let Value::Object(map) = value else {
            return Err(ParamsError::one("parameters must be an object"));
        };
        let (mut named, mut wrong) = (serde_json::Map::new(), Vec::new());
        for (key, value) in map {
            match known.iter().find(|n| n.eq_ignore_ascii_case(key)) {
                None => {
                    let hint = suggest::hint(key, known.iter().copied());
                    wrong.push(format!("unknown parameter \"{key}\"{hint}"));
                }
                Some(name) => {
                    if named.insert((*name).to_owned(), value.clone()).is_some() {
                        wrong.push(format!(
                            "parameter \"{name}\" is given twice, in different spellings"
                        ));
                    }
                }
            }
        }
        if !wrong.is_empty() {
            return Err(ParamsError(wrong));
        }
        serde_json::from_value(Value::Object(named)).map_err(|e| ParamsError::one(e.to_string()))
    }
}
