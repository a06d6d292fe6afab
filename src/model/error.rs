//! Why a request is turned away, and the reply code of each reason: decided in this one file.
//! Codes, statuses and texts: request.md §6 and §10.1; decision 13.

use std::borrow::Cow;
use std::fmt;

/// Error codes of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request cannot be understood: 400.
    BadRequest,
    /// The body did not come in time: 408.
    RequestTimeout,
    /// The body is over the limit: 413.
    PayloadTooLarge,
    /// The pool cannot take more: 429.
    InferencePoolResourceExhausted,
    /// A fault of ours: 500.
    Internal,
    /// No endpoint can serve this: 503.
    ServiceUnavailable,
}

impl Code {
    /// The name on the wire and in the `error_code` label.
    pub fn name(self) -> &'static str {
        match self {
            Code::BadRequest => "BadRequest",
            Code::RequestTimeout => "RequestTimeout",
            Code::PayloadTooLarge => "PayloadTooLarge",
            Code::InferencePoolResourceExhausted => "InferencePoolResourceExhausted",
            Code::Internal => "Internal",
            Code::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    /// The HTTP status the client sees.
    pub fn http_status(self) -> u16 {
        match self {
            Code::BadRequest => 400,
            Code::RequestTimeout => 408,
            Code::PayloadTooLarge => 413,
            Code::InferencePoolResourceExhausted => 429,
            Code::Internal => 500,
            Code::ServiceUnavailable => 503,
        }
    }
}

/// Values of the `x-llm-d-request-dropped-reason` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The pool is saturated.
    Saturated,
    /// No endpoint is eligible.
    NoEndpoints,
    /// The memory for requests under way is used up.
    BuffersFull,
    /// The body did not come in time.
    BodyTimeout,
}

impl DropReason {
    /// The header value.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Saturated => "rejected-saturated",
            DropReason::NoEndpoints => "rejected-no-endpoints",
            DropReason::BuffersFull => "rejected-buffers-full",
            DropReason::BodyTimeout => "rejected-body-timeout",
        }
    }
}

/// A rejected request: what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The code, which fixes the HTTP status.
    pub code: Code,
    /// The message after `inference gateway: <Code> - `.
    pub message: Cow<'static, str>,
    /// Sent as a header when the request was dropped rather than refused.
    pub reason: Option<DropReason>,
}

impl RequestError {
    /// An error with no drop reason.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        RequestError {
            code,
            message: message.into(),
            reason: None,
        }
    }

    /// The same error with a drop reason.
    pub fn dropped(self, reason: DropReason) -> Self {
        RequestError {
            reason: Some(reason),
            ..self
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inference gateway: {} - {}", self.code.name(), self.message)
    }
}

impl std::error::Error for RequestError {}
