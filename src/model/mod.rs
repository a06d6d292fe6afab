//! F1: the nouns of the domain, with no I/O: endpoint, sample, pool, request, objective, rewrite, headers.

pub mod active_config;
pub mod body;
pub mod endpoint;
pub mod endpoint_list;
pub mod error;
pub mod exchange;
pub mod headers;
pub mod health;
pub mod metadata;
pub mod objective;
pub mod prompt;
pub mod request;
pub mod rewrite;
pub mod sample;
pub mod usage;
