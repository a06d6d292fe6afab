//! A request that cannot be served, as OpenAI's and vLLM's clients expect to be told (simulator.md §3.2).

use serde::Serialize;
use serde_json::{Value, json};

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What is wrong.
    pub message: String,
    /// The field that is wrong, where one is.
    pub param: Option<&'static str>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'static str>,
    code: u16,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Refusal {
            status,
            message: message.into(),
            param: None,
        }
    }

    /// The request's body cannot be read.
    pub fn unreadable(error: impl std::fmt::Display) -> Self {
        Refusal::new(400, format!("Failed to read and parse request body, {error}"))
    }

    /// Nobody serves this model.
    pub fn unknown_model(name: &str) -> Self {
        Refusal::new(404, format!("The model `{name}` does not exist."))
    }

    /// The `type` of the error, by status.
    pub fn kind(&self) -> &'static str {
        match self.status {
            400 | 413 => "BadRequestError",
            401 => "AuthenticationError",
            403 => "PermissionDeniedError",
            404 => "NotFoundError",
            422 => "UnprocessableEntityError",
            429 => "RateLimitError",
            500.. => "InternalServerError",
            _ => "APIConnectionError",
        }
    }

    /// The error body.
    pub fn body(&self) -> impl Serialize {
        Body {
            error: Error {
                message: &self.message,
                r#type: self.kind(),
                param: self.param,
                code: self.status,
            },
        }
    }

    /// The error body as text.
    pub fn json(&self) -> String {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_string(&self.body()).unwrap_or_default()
    }

    /// The error body in the shape of Anthropic's Messages API.
    pub fn anthropic(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }
}
