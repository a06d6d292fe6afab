//! What the CPU benches share: an ext_proc client that plays Envoy, servers as child processes, CPU readings.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by benches that each use a part; benches fail by panicking"
)]

pub mod child;
pub mod client;
pub mod epp;
pub mod pool;
pub mod shapes;
