//! An inference request as scheduling sees it: no bytes of the wire protocol, no gRPC.

use super::headers::Headers;
use super::prompt::Prompt;

/// Which API a request speaks, chosen by its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// `/v1/completions`, and any other path.
    #[default]
    Completions,
    /// `/v1/chat/completions`.
    ChatCompletions,
    /// `/v1/responses`.
    Responses,
    /// `/v1/conversations`.
    Conversations,
}

/// A request with its place in the pool's order resolved.
#[derive(Clone, Debug, Default)]
pub struct InferenceRequest {
    /// `x-request-id`, or one we made.
    pub id: String,
    /// Headers as they came.
    pub headers: Headers,
    /// API spoken.
    pub api: Api,
    /// Model in the client's body.
    pub incoming_model: String,
    /// Model after rewrites.
    pub target_model: String,
    /// Fairness id, never empty.
    pub fairness_id: String,
    /// Priority of its objective; below 0 is sheddable.
    pub priority: i32,
    /// Prompt text.
    pub prompt: Prompt,
    /// Did the client ask for a stream?
    pub streaming: bool,
    /// Body size, bytes.
    pub size: usize,
}
