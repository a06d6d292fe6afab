//! What is remembered of a request while its response is on the way: small, owned, pinning no body.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::usage::Usage;

/// A picked request. Fields are empty for exchanges that never had a request phase or a body.
#[derive(Clone, Debug, Default)]
pub struct Picked {
    /// Request id.
    pub request_id: String,
    /// Model in the client's body.
    pub incoming_model: String,
    /// Model after rewrites.
    pub target_model: String,
    /// Fairness id.
    pub fairness_id: String,
    /// Priority.
    pub priority: i32,
    /// First endpoint of the primary profile.
    pub target: Option<Arc<Endpoint>>,
    /// Number of the recorded decision, if it was recorded.
    pub decision: Option<u64>,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The response reached its end.
    Natural,
    /// The client or the proxy left first.
    Disconnected,
    /// Turned away or failed inside.
    Error,
}

/// What is known when an exchange is over.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// How it ended.
    pub end: End,
    /// Tokens, if the response told.
    pub usage: Option<Usage>,
    /// Response body bytes seen.
    pub response_bytes: u64,
}
