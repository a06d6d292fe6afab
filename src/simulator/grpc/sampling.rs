//! vLLM's sampling parameters, as far as they mean something here. Read by [`super::generate`].

/// How to generate. What vLLM has beside these is skipped unread, so that long lists of it take no memory.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SamplingParams {
    /// Limit of generated tokens, at least 1.
    #[prost(uint32, optional, tag = "8")]
    pub max_tokens: Option<u32>,
    /// Exactly that many.
    #[prost(bool, tag = "14")]
    pub ignore_eos: bool,
    /// Samples of one prompt; 0 is 1.
    #[prost(uint32, tag = "15")]
    pub n: u32,
    /// Alternatives of each generated token; -1: as many as there may be.
    #[prost(int32, optional, tag = "22")]
    pub logprobs: Option<i32>,
}
