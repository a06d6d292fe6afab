//! F6: a vLLM look-alike with no GPU: the same API, the same metrics, a latency model. Started by `app::sim`.
//!
//! [`http`] reads a request -> [`engine`] gives it a slot or a place in the queue -> [`kv_cache`] says which
//! leading blocks are cached -> [`latency`] says how long prefill and each token take -> [`text`] makes the
//! tokens -> [`api`] shapes the answer -> [`metrics`] counts it.

pub mod api;
pub mod engine;
pub mod http;
pub mod kv_cache;
pub mod latency;
pub mod metrics;
pub mod text;

/// What a simulator is told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the base model.
    pub model: String,
    /// Names the base model is served under; at least one, the first one is in answers and labels.
    pub served_names: Vec<String>,
    /// Names of LoRA adapters that can be asked for.
    pub adapters: Vec<String>,
    /// Requests running at once; at least 1.
    pub max_num_seqs: usize,
    /// Requests waiting at most; at least 1.
    pub max_waiting: usize,
    /// Adapters loaded at once; at least 1.
    pub max_loras: usize,
    /// Context length, tokens.
    pub max_model_len: usize,
    /// Answer with the prompt instead of random text.
    pub echo: bool,
    /// One seed: all texts, lengths and latencies are reproducible for requests in the same order.
    pub seed: u64,
    /// Latencies.
    pub latency: latency::Latency,
    /// KV cache, where it is simulated.
    pub kv_cache: Option<KvCacheConfig>,
    /// Headers every response carries.
    pub headers: Vec<(String, String)>,
    /// Answer with `x-request-id`.
    pub request_id_headers: bool,
    /// Largest request body, bytes.
    pub max_body: usize,
}

/// Size of the simulated KV cache.
#[derive(Clone, Copy, Debug)]
pub struct KvCacheConfig {
    /// Tokens per block.
    pub block_size: usize,
    /// Blocks.
    pub blocks: usize,
}
