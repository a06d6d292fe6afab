//! What integration tests share: the real binaries as processes, model servers and clients that speak the real
//! protocols.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "each test binary uses a part; tests fail by panicking"
)]

pub mod apiserver;
pub mod browser;
pub mod collector;
pub mod envoy;
pub mod epp;
pub mod ext_proc;
pub mod frames;
pub mod gate;
pub mod hostile_client;
pub mod http;
pub mod model_server;
pub mod polite;
pub mod ports;
pub mod process;
pub mod raw_h2;
pub mod refused;
pub mod scripted_server;
pub mod sent;
pub mod sim;
pub mod tls;
pub mod upstream;

pub mod metrics_server;
pub mod wait;
