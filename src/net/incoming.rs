//! A worker's end of the acceptor: ties a connection to the worker's runtime and shakes hands there. [`incoming`] does so
//! for a server that takes a stream of connections, side by side and with a deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::accept::Socket;
use super::io::Io;
use super::tls::ServerTls;

/// Silence after which the system asks whether a peer is still there, the time between such questions, and how many stay
/// without an answer before the connection is closed: a peer that is gone is noticed within a minute. What was sent and
/// not acknowledged is given as long.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Longest TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes under way at once; the connections of a port are limited to fewer.
const HANDSHAKES: usize = 65_536;

/// The connections of a worker, ready to serve; ends when the acceptor does. Never yields an error: a
/// connection that fails its handshake is dropped and logged.
pub fn incoming(
    sockets: mpsc::Receiver<Socket>,
    tls: Option<Arc<ServerTls>>,
    handshake_timeout: Duration,
) -> impl Stream<Item = Result<Io, io::Error>> + Send {
    let sockets = stream::unfold(sockets, |mut sockets| async {
        sockets.recv().await.map(|socket| (socket, sockets))
    });
    sockets
        .map(move |socket| in_time(socket, tls.clone(), handshake_timeout))
        .buffer_unordered(HANDSHAKES)
        .filter_map(|done| std::future::ready(done.map(Ok)))
}

async fn in_time(socket: Socket, tls: Option<Arc<ServerTls>>, limit: Duration) -> Option<Io> {
    let peer = socket.peer_addr().ok();
    let shaken = tokio::time::timeout(limit, establish(socket, tls)).await;
    let error = match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(io) => return Some(io),
        Err(error) => error,
    };
    tracing::debug!(%error, ?peer, "Connection dropped before it was served");
    None
}

/// Ties a connection to the runtime this is called on, and shakes hands where there is TLS.
///
/// # Errors
/// The connection broke, or the handshake failed.
pub async fn establish(socket: Socket, tls: Option<Arc<ServerTls>>) -> io::Result<Io> {
    let (silence, between, times) = KEEPALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(silence)
        .with_interval(between)
        .with_retries(times);
    let system = SockRef::from(&socket);
    system.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    system.set_tcp_user_timeout(Some(silence + between * times))?;
    let tcp = TcpStream::from_std(socket)?;
    Ok(match tls {
        None => Io::Plain(tcp),
        Some(tls) => Io::Tls(Box::new(TlsAcceptor::from(tls.load()).accept(tcp).await?)),
    })
}
