//! F7: the metrics port with the metrics page, the explain pages and profiles; and the gRPC health service.

mod access;
mod answer;
mod connection;
pub mod debug;
pub mod health;
mod host;
pub mod metrics_page;
mod profiling;
