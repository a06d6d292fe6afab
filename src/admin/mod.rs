//! F7: the metrics page and the gRPC health service.

pub mod health;
pub mod metrics_page;
