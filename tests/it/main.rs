//! The one integration test binary: black-box tests over real sockets against the real binaries.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod admin;
mod cli;
mod config;
mod discovery;
mod envoy_wire;
mod floors;
mod net;
mod poller;
mod routing;
mod sim;
mod sim_engine;
mod sim_events;
#[path = "../support/mod.rs"]
mod support;
