//! F4: the cluster's API server: who we are to it, watching objects, the leader's lease, who may read metrics.
//! `discovery` watches through it; `app` connects, elects and reviews.

pub mod client;
pub mod contact;
pub mod event;
pub mod lease;
pub mod review;
mod transport;
pub mod watch;

pub use client::{ConnectError, connect};

/// The innermost cause of an error: a refused connection, a name that is not found.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
