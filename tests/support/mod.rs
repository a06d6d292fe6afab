//! Fakes and conditions shared by the integration tests.

pub mod metrics_server;
pub mod wait;
