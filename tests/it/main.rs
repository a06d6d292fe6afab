//! The one integration test binary: black-box tests over real sockets against the real binaries.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod admin;
mod bodies;
mod budget;
mod cli;
mod config;
mod connections;
mod deploy;
mod discovery;
mod envoy_wire;
mod explain;
mod fake_certificates;
mod fake_leases;
mod fake_reviews;
mod fake_server;
mod fake_silence;
mod flags;
mod floors;
mod health;
mod kubernetes;
mod logs;
mod net;
mod poller;
mod profiling;
mod reload;
mod routing;
mod shutdown;
mod sim;
mod sim_api;
mod sim_clients;
mod sim_control;
mod sim_dataset;
mod sim_engine;
mod sim_events;
mod sim_faults;
mod sim_grpc;
mod sim_latency;
mod sim_replay;
mod sim_serving;
mod sim_start;
mod sim_tools;
mod sim_wire;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod tracing;

/// What the rows of `kubernetes` run against here.
pub use support::apiserver::ApiServer;
