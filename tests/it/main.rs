//! The one integration test binary: black-box tests over real sockets against the real binaries.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod floors;
mod poller;
#[path = "../support/mod.rs"]
mod support;
