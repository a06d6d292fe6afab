//! End to end behind a real Envoy: both configurations of `deploy/envoy/`, the real `epp` with TLS as it is by
//! default, real model servers. Envoy comes from `make venv`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod cluster;
mod edge;
mod faults;
mod hardening;
mod limits;
mod operate;
mod plain;
mod routing;
#[path = "../support/mod.rs"]
mod support;
