//! Spans of exchanges, sent to an OpenTelemetry collector over OTLP/gRPC (runtime.md §3.6; decision 25).
//!
//! `app` reads [`TracingSettings`] and starts an [`Exporter`]; its [`Tracer`] goes to the director, which begins an
//! [`ExchangeSpan`] for each request and tells it what happened. A tracer that is off, and a span that is not
//! sampled, cost one branch at each place that would record.
//!
//! Nothing here waits for the collector: ended spans go into a bounded queue, and what does not fit is counted and
//! dropped. A thread of its own sends them.

mod exchange;
mod exporter;
mod queue;
mod settings;

pub use exchange::{Child, ExchangeSpan, Tracer, continued};
pub use exporter::{ExportError, Exporter};
pub use opentelemetry::Value;
pub use settings::TracingSettings;

/// Names of spans and of their attributes; `docs/user-guide/observability.md` lists them.
pub mod names {
    /// The whole exchange.
    pub const REQUEST: &str = "gateway.request";
    /// Is the pool full?
    pub const ADMISSION: &str = "gateway.admission";
    /// One scheduling profile.
    pub const PROFILE: &str = "gateway.profile";
    /// The picker of a profile.
    pub const PICK: &str = "gateway.pick";

    /// Path of the request.
    pub const PATH: &str = "url.path";
    /// Model the client asked for.
    pub const MODEL: &str = "gen_ai.request.model";
    /// Model after rewrites.
    pub const TARGET_MODEL: &str = "gateway.target_model";
    /// Request id.
    pub const REQUEST_ID: &str = "gateway.request_id";
    /// Objective named by the client.
    pub const OBJECTIVE: &str = "gateway.objective";
    /// Priority.
    pub const PRIORITY: &str = "gateway.priority";
    /// Fairness id.
    pub const FAIRNESS_ID: &str = "gateway.fairness_id";
    /// Did the client ask for a stream?
    pub const STREAMING: &str = "gateway.streaming";
    /// Bytes of the request's body.
    pub const REQUEST_BYTES: &str = "http.request.body.size";
    /// Bytes of the response's body.
    pub const RESPONSE_BYTES: &str = "http.response.body.size";
    /// Status of the response, or of the rejection.
    pub const STATUS: &str = "http.response.status_code";
    /// Where the request went: `ip:port`.
    pub const ENDPOINT: &str = "gateway.endpoint";
    /// Name of that endpoint.
    pub const ENDPOINT_NAME: &str = "gateway.endpoint.name";
    /// Blocks of the prompt that were hashed.
    pub const PROMPT_BLOCKS: &str = "gateway.prompt.blocks";
    /// Of these, leading ones the endpoint is known to hold.
    pub const CACHED_BLOCKS: &str = "gateway.prompt.cached_blocks";
    /// Prompt tokens, as the model server counted them.
    pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Generated tokens.
    pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Prompt tokens taken from the engine's cache.
    pub const CACHED_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
    /// Code of the error.
    pub const ERROR: &str = "error.type";
    /// How the exchange ended: `natural`, `disconnected` or `error`.
    pub const END: &str = "gateway.end";
    /// `admitted` or `shed`.
    pub const ADMITTED: &str = "gateway.admission.result";
    /// Endpoints to choose among.
    pub const CANDIDATES: &str = "gateway.candidates";
    /// Name of a profile.
    pub const PROFILE_NAME: &str = "gateway.profile.name";
    /// Endpoints left after the filters of a profile.
    pub const PROFILE_LEFT: &str = "gateway.profile.candidates";
    /// Endpoints a profile picked, best first, joined by commas.
    pub const PICKED: &str = "gateway.picked";
    /// Name of the picker.
    pub const PICKER: &str = "gateway.picker";
}
