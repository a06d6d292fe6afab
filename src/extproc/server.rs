//! Serves ext_proc on connections handed to it: HTTP/2 under our service.

use tokio::sync::mpsc;

use super::ExtProcService;
use super::service::Connection;
use crate::net::accept::Guest;
use crate::net::http2::Http2;

/// Serves connections on this thread until there are no more. Streams per connection are not limited: Envoy puts all of
/// a worker's exchanges on one connection. Peers that are gone are noticed by TCP keepalive (`net`), not by HTTP/2 pings,
/// whose bookkeeping costs every frame.
pub async fn serve(service: ExtProcService, http2: Http2, guests: mpsc::Receiver<Guest>) {
    http2
        .serve(guests, move |place| Connection::new(service.clone(), place))
        .await;
}
