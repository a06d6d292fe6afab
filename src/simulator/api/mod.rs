//! What the simulator reads and writes on `/v1/completions` and `/v1/chat/completions`, as vLLM shapes it
//! (simulator.md §3, §4): [`request`] in, [`answer`] out, [`refusal`] when it cannot be served.

pub mod answer;
pub mod bounded;
pub mod lenient;
pub mod refusal;
pub mod request;

pub use answer::{Envelope, Usage};
pub use refusal::Refusal;
pub use request::{Message, Prompt, Request, ToolChoice};

/// Which of the two generating endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`.
    Text,
    /// `/v1/chat/completions`.
    Chat,
}
