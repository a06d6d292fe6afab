//! Envoy's `envoy.service.ext_proc.v3` messages: read from a gRPC message without copying bodies, written
//! straight into the outgoing buffer. Field numbers are those of the published `.proto` files; tests compare
//! with the published Rust types. Written by hand because it is the hot path: see
//! `docs/developer-guide/performance.md`.

mod decode;
mod encode;
mod outbox;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::model::headers::Headers;
use crate::model::metadata::Metadata;

pub use decode::decode;
pub use encode::{
    HeaderChanges, buffered_request_body, immediate, request_headers, response_headers, trailers,
    unchanged_body,
};
pub use outbox::{CHUNK, Outbox};

/// How Envoy sends a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// Not sent.
    None,
    /// Chunks, each answered.
    Streamed,
    /// One message with the whole body.
    Buffered,
    /// One message with at most a buffer's worth.
    BufferedPartial,
    /// Chunks, answered with chunks of ours at any time.
    #[default]
    FullDuplexStreamed,
}

impl BodyMode {
    pub(self) fn from_number(n: u64) -> Self {
        match n {
            0 => BodyMode::None,
            1 => BodyMode::Streamed,
            2 => BodyMode::Buffered,
            3 => BodyMode::BufferedPartial,
            _ => BodyMode::FullDuplexStreamed,
        }
    }
}

/// Body modes, sent by Envoy in the first message of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// Mode of the request body.
    pub request: BodyMode,
    /// Mode of the response body.
    pub response: BodyMode,
}

/// A side of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Client to model server.
    Request,
    /// Model server to client.
    Response,
}

/// What a message is about.
#[derive(Clone, Debug)]
pub enum Message {
    /// Headers; `end` means that no body follows.
    Headers(Side, Headers, bool),
    /// A piece of the body; `end` marks the last one.
    Body(Side, Bytes, bool),
    /// Trailers, which end the body.
    Trailers(Side),
    /// Nothing we know: a newer kind of message.
    Unknown,
}

/// One `ProcessingRequest`.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// Filter metadata, where the message carries any.
    pub metadata: Option<Metadata>,
    /// Body modes, in the first message.
    pub protocol: Option<Protocol>,
}
