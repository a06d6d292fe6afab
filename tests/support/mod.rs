//! What integration tests share: the real binaries as processes, model servers and clients that speak the real
//! protocols.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "each test binary uses a part; tests fail by panicking"
)]

pub mod envoy;
pub mod epp;
pub mod ext_proc;
pub mod model_server;
pub mod ports;
pub mod process;
pub mod sim_process;
pub mod upstream;

pub mod metrics_server;
pub mod wait;
