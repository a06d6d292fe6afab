//! An inference request as scheduling sees it: no bytes of the wire protocol, no gRPC.

use std::ops::Range;

use bytes::Bytes;

use super::headers::Headers;

/// Which API a request speaks, chosen by its path (request.md §5).
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

/// The text that fills a model's prefix cache, as slices of the body in prompt order. JSON escapes are left as
/// they came: only equality of prefixes matters.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The body the segments point into.
    pub bytes: Bytes,
    /// Byte ranges of `bytes`, in prompt order.
    pub segments: Vec<Range<usize>>,
    /// Separates the caches of tenants; empty when absent.
    pub cache_salt: String,
}

impl Prompt {
    /// The slices in prompt order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().filter_map(|r| self.bytes.get(r.clone()))
    }

    /// Total bytes of the segments.
    pub fn len(&self) -> usize {
        self.segments.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether there is no prompt text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
