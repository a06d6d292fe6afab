//! F2: bytes to nouns and back, pure and fuzzed. No I/O, no clock.

pub mod ext_proc;
pub mod grpc;
pub mod json;
pub mod openai;
pub mod prom_text;
pub mod prometheus;
pub(crate) mod protobuf;
pub mod usage;
pub mod yaml;
pub mod zmtp;
