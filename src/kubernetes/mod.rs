//! F4: the cluster's API server: who we are to it, watching objects, the leader's lease, who may read metrics.
//! `discovery` watches through it; `app` connects, elects and reviews.

pub mod client;
pub mod event;
pub mod lease;
pub mod review;
pub mod watch;

pub use client::{ConnectError, connect};
