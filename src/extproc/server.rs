//! Serves ext_proc on connections handed to it: tonic's transport under our service.

use std::future::Future;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::server::Connected;

use super::ExtProcService;

/// Serves connections until `stop`, then sends GOAWAY and lets open streams finish. Streams per connection are
/// not limited: Envoy puts all of a worker's exchanges on one connection. Peers that are gone are noticed by TCP
/// keepalive (`net`), not by HTTP/2 pings, whose bookkeeping costs every frame.
///
/// # Errors
/// The transport failed as a whole; a broken connection is not an error.
pub async fn serve<I, IO, E>(
    service: ExtProcService,
    connections: I,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<IO, E>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tonic::transport::Server::builder()
        .serve_with_incoming_shutdown(service, connections, stop)
        .await
}
