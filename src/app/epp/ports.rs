//! The three listening ports, opened before anything is served.

use tokio::net::TcpListener;

use crate::net::listen::{self, Reach};

use super::errors::RunError;
use super::settings::Settings;

/// The listening ports.
pub struct Ports {
    /// ext_proc.
    pub grpc: TcpListener,
    /// gRPC health.
    pub health: TcpListener,
    /// Metrics.
    pub metrics: TcpListener,
}

impl Ports {
    /// Opens them. `reviewed`: there is a cluster to ask who may read metrics.
    ///
    /// # Errors
    /// One is taken or not allowed.
    pub fn bind(settings: &Settings, reviewed: bool) -> Result<Self, RunError> {
        let reach = settings.bind.map_or(Reach::Everyone, Reach::Address);
        let grpc_reach = settings.grpc_bind.map_or(Reach::Everyone, Reach::Address);
        // With authorization on and no cluster to ask, the page is for this host alone.
        let metrics_reach = match reach {
            Reach::Address(ip) if ip.is_loopback() => reach,
            _ if settings.metrics_auth && !reviewed => Reach::Loopback,
            _ => reach,
        };
        let open = |reach, port, flag| -> Result<TcpListener, RunError> {
            Ok(TcpListener::from_std(listen::bind(reach, port, flag)?)?)
        };
        Ok(Ports {
            grpc: open(grpc_reach, settings.grpc_port, "grpc-port")?,
            health: open(reach, settings.health_port, "grpc-health-port")?,
            metrics: open(metrics_reach, settings.metrics_port, "metrics-port")?,
        })
    }
}
