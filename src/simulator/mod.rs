//! F6: a vLLM look-alike with no GPU: the same API, the same metrics, a latency model. Started by `app::sim`.
//!
//! [`http`] reads a request -> [`text`] makes the tokens of its answer -> [`machine`] hashes its blocks and hands a
//! job to the [`engine`], which gives it a slot or a place in the queue, its blocks of the [`kv_cache`] and its times
//! from [`latency`], counts it into [`metrics`] and tells others through [`kv_events`] -> [`api`] shapes the answer as
//! its tokens come due.

pub mod api;
pub mod engine;
pub mod failure;
pub mod http;
pub mod kv_cache;
pub mod kv_events;
pub mod latency;
pub mod machine;
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
    /// Context length, tokens.
    pub max_model_len: usize,
    /// Answer with the prompt instead of random text.
    pub echo: bool,
    /// One seed: all texts, lengths and latencies are reproducible for requests in the same order.
    pub seed: u64,
    /// Engine, cache, events, failures.
    pub machine: machine::Settings,
    /// Headers every response carries.
    pub headers: Vec<(String, String)>,
    /// Answer with `x-request-id`.
    pub request_id_headers: bool,
    /// Largest request body, bytes.
    pub max_body: usize,
}
