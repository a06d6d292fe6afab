//! The real `epp` beside a real kube-apiserver, with exactly the rights that the chart gives it: the rows that `it` runs
//! against the fake API server, and those that only a real one can have. `make test-cluster` builds the server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod charts;
mod crds;
#[path = "../it/kubernetes/mod.rs"]
mod kubernetes;
mod objects;
mod outages;
mod rights;
mod server;
mod silence;
#[path = "../support/mod.rs"]
mod support;
mod tokens;

/// What the rows of `kubernetes` run against here.
pub use server::ApiServer;
