//! Request bodies of the OpenAI APIs, read in place and in one pass: the model and where it stands, the prompt as
//! slices, the stream flag. Nothing is copied but the model name, and what is kept is bounded whatever the body.

#[cfg(test)]
mod oracle;
mod prompt;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;

pub use super::json::JsonError;
use super::json::{Kind, Room, Scan, Text, Value};
use crate::model::prompt::Prompt;
use crate::model::request::Api;

use prompt::PromptFields;

/// Longest model name, bytes. It is kept, counted and logged.
pub const MAX_MODEL_BYTES: usize = 1024;

/// Most `model` fields in one body. One is right; each of more is replaced when the model is.
pub const MAX_MODEL_FIELDS: usize = 16;

/// A request body, read.
#[derive(Clone, Debug)]
pub struct RequestBody {
    /// The model, or why there is none.
    pub model: Result<Model, ModelError>,
    /// The prompt, or what is wrong with the fields of this API.
    pub prompt: Result<Prompt, &'static str>,
    /// Did the client ask for a stream?
    pub streaming: bool,
}

/// The model a body asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name, at most [`MAX_MODEL_BYTES`] long. It may be empty.
    pub name: String,
    /// Where it stands.
    pub places: ModelPlaces,
}

/// Where the values of a body's `model` fields lie, quotes included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelPlaces {
    /// Those of fields that a later one overrides, in order.
    earlier: Vec<Range<usize>>,
    /// That of the field that counts.
    last: Range<usize>,
}

impl ModelPlaces {
    /// Is there more than one field, so that readers may disagree on the model?
    pub fn ambiguous(&self) -> bool {
        !self.earlier.is_empty()
    }
}

/// Why a body names no model. The texts are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is no `model`, or the last one is no string.
    #[error("model not found in request body")]
    Missing,
    /// The name is longer than [`MAX_MODEL_BYTES`].
    #[error("model name in request body is longer than {MAX_MODEL_BYTES} bytes")]
    TooLong,
    /// There are more than [`MAX_MODEL_FIELDS`].
    #[error("more than {MAX_MODEL_FIELDS} model fields in request body")]
    Repeated,
}

/// The API a path speaks: the first of these parts that it contains, in this order.
pub fn api_of_path(path: &str) -> Api {
    let path = path.split('?').next().unwrap_or(path);
    [
        ("/v1/conversations", Api::Conversations),
        ("/v1/responses", Api::Responses),
        ("/v1/chat/completions", Api::ChatCompletions),
    ]
    .into_iter()
    .find(|(part, _)| path.contains(part))
    .map_or(Api::Completions, |(_, api)| api)
}

/// Reads `body`. Of duplicate keys the last one counts. The literal `null` reads as an object with no fields.
///
/// # Errors
/// The body is not UTF-8, not JSON or not an object: [`JsonError::Malformed`]; nested too deeply, or of too many
/// values.
pub fn parse(body: &Bytes, api: Api) -> Result<RequestBody, JsonError> {
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Malformed)?;
    let fields = Fields::read(text, api)?;
    Ok(RequestBody {
        model: fields.model(text),
        prompt: fields.prompt.of(body),
        streaming: fields.streaming,
    })
}

/// `body` with every `model` saying `model`, so that no reader sees another one: slices of the original around the
/// new name.
pub fn splice_model(body: &Bytes, places: &ModelPlaces, model: &str) -> Vec<Bytes> {
    let name = Bytes::from(serde_json::Value::from(model).to_string());
    let mut pieces = Vec::with_capacity(3 + 2 * places.earlier.len());
    let mut from = 0;
    for place in places.earlier.iter().chain([&places.last]) {
        pieces.push(body.slice(from..place.start));
        pieces.push(name.clone());
        from = place.end;
    }
    pieces.push(body.slice(from..));
    pieces
}

/// The top-level fields that matter.
struct Fields {
    last_model: Option<Value>,
    earlier_models: Vec<Range<usize>>,
    too_many_models: bool,
    streaming: bool,
    prompt: PromptFields,
}

impl Fields {
    fn read(text: &str, api: Api) -> Result<Self, JsonError> {
        let mut fields = Fields {
            last_model: None,
            earlier_models: Vec::new(),
            too_many_models: false,
            streaming: false,
            prompt: PromptFields::new(api),
        };
        let mut scan = Scan::new(text);
        if scan.kind()? == Kind::Null {
            scan.value()?;
        } else {
            scan.object(|scan, key| fields.field(scan, &key))?;
        }
        scan.end()?;
        Ok(fields)
    }

    fn field(&mut self, scan: &mut Scan<'_>, key: &Text<'_>) -> Result<(), JsonError> {
        let mut room = Room::default();
        match key.name(&mut room) {
            Some(b"model") => {
                let value = scan.value()?;
                if let Some(earlier) = self.last_model.replace(value) {
                    self.too_many_models |= self.earlier_models.len() + 1 >= MAX_MODEL_FIELDS;
                    if !self.too_many_models {
                        self.earlier_models.push(earlier.span);
                    }
                }
            }
            Some(b"stream") => self.streaming = scan.value()?.kind == Kind::True,
            Some(name) => self.prompt.field(scan, name)?,
            None => {
                scan.value()?;
            }
        }
        Ok(())
    }

    fn model(&self, text: &str) -> Result<Model, ModelError> {
        let value = self.last_model.as_ref().filter(|v| v.kind == Kind::String);
        let value = value.ok_or(ModelError::Missing)?;
        let raw = &text[value.span.clone()];
        // One byte of a name is at most the six of an escape.
        if raw.len() > 2 + 6 * MAX_MODEL_BYTES {
            return Err(ModelError::TooLong);
        }
        let name = decode_string(raw).ok_or(ModelError::Missing)?;
        if name.len() > MAX_MODEL_BYTES {
            return Err(ModelError::TooLong);
        }
        if self.too_many_models {
            return Err(ModelError::Repeated);
        }
        let places = ModelPlaces {
            earlier: self.earlier_models.clone(),
            last: value.span.clone(),
        };
        Ok(Model { name, places })
    }
}

/// The characters of a JSON string; `None` when it holds a lone surrogate.
fn decode_string(raw: &str) -> Option<String> {
    match raw.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => raw.get(1..raw.len() - 1).map(str::to_owned),
        _ => serde_json::from_str(raw).ok(),
    }
}
