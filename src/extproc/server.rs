//! Serves ext_proc on connections handed to it: tonic's transport under our service.

use std::future::Future;
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::server::Connected;

use super::ExtProcService;

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    /// A silent peer is pinged after this long, and given up when it does not answer in `keepalive_timeout`.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// Serves connections until `stop`, then sends GOAWAY and lets open streams finish. Streams per connection are
/// not limited: Envoy puts all of a worker's exchanges on one connection.
///
/// # Errors
/// The transport failed as a whole; a broken connection is not an error.
pub async fn serve<I, IO, E>(
    service: ExtProcService,
    settings: ServerSettings,
    connections: I,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<IO, E>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        .serve_with_incoming_shutdown(service, connections, stop)
        .await
}
