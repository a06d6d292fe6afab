//! F6: a vLLM look-alike with no GPU: the same API, the same metrics, a latency model. Started by `app::sim`.
//!
//! [`serve`] takes connections -> [`http`] or [`grpc`] reads a request ([`api`], [`tools`]), [`order`] checks it ->
//! [`tokenizer`] cuts the prompt -> [`reply`] decides what to say ([`text`], [`dataset`], [`tools`]) -> [`machine`] hashes its blocks and
//! [`work`] hands a job to the [`engine`], which gives it a slot or a place in the queue, its blocks of the [`kv_cache`]
//! and its times from [`latency`], counts it into [`metrics`] and tells others through [`kv_events`] -> [`choice`] hands
//! the pieces out as they come due ([`pieces`]: those of all choices) -> [`http`] or [`grpc`] shapes them. [`control`]
//! changes settings of a running one.

pub mod api;
pub mod choice;
pub mod control;
pub mod dataset;
pub mod engine;
pub mod events;
pub mod failure;
pub mod grpc;
pub mod http;
pub mod kv_cache;
pub mod kv_events;
pub mod latency;
pub mod logprobs;
pub mod machine;
pub mod metrics;
pub mod order;
pub mod pieces;
pub mod reply;
pub mod routes;
pub mod serve;
pub mod server;
pub mod text;
pub mod tokenizer;
pub mod tools;
pub mod work;

use std::time::Duration;

use uuid::Uuid;

/// Whose shapes and rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// The reference's base version.
    #[default]
    Base,
    /// Its release v0.5.0.
    V050,
}

/// Which messages of a chat echo mode repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EchoChat {
    /// All of them, joined.
    #[default]
    All,
    /// The last one.
    Last,
}

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
    /// Which part of a chat, then.
    pub echo_chat: EchoChat,
    /// One seed: all texts, lengths, latencies and ids are reproducible for requests in the same order.
    pub seed: u64,
    /// Engine, cache, events, failures.
    pub machine: machine::Settings,
    /// Blocks that generated tokens fill are cached too.
    pub cache_generated: bool,
    /// Least share of a prompt that must be cached, where a request says nothing; 0: none.
    pub cache_hit_threshold: f64,
    /// Headers every response carries.
    pub headers: Vec<(String, String)>,
    /// Answer with `x-request-id`, and take the client's.
    pub request_id_headers: bool,
    /// Largest request body, bytes.
    pub max_body: usize,
    /// Port, part of request ids.
    pub port: u16,
    /// What made-up tool calls are like.
    pub tools: tools::Ranges,
    /// `/sleep` has an effect.
    pub sleep_mode: bool,
    /// Length of an embedding, unless a request says another; at least 1.
    pub embedding_dimensions: usize,
    /// Whose shapes and rules.
    pub compat: Compat,
    /// Not ready for so long after the start.
    pub startup: Duration,
    /// Log every request and its answer.
    pub log_http: bool,
    /// Servers in this process.
    pub ranks: u16,
}

impl Config {
    /// By which id others know the engine of this rank.
    pub fn engine_id(&self, rank: u16) -> Uuid {
        let name = format!("{}-engine-{rank}", self.seed.cast_signed());
        Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
    }
}
