//! A worker's end of the acceptor: ties each connection to the worker's runtime, shakes hands there, and yields
//! it. Handshakes run side by side and have a deadline, so that a client that says nothing holds up nobody.

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

/// Silence after which the system asks whether a peer is still there, and closes the connection when it is not.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Longest TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes a worker has under way at once; further connections wait.
const HANDSHAKES: usize = 256;

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
        .map(move |socket| establish(socket, tls.clone(), handshake_timeout))
        .buffer_unordered(HANDSHAKES)
        .filter_map(|done| std::future::ready(done.map(Ok)))
}

async fn establish(socket: Socket, tls: Option<Arc<ServerTls>>, limit: Duration) -> Option<Io> {
    let peer = socket.peer_addr().ok();
    let shaken = async {
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        let tcp = TcpStream::from_std(socket)?;
        match tls {
            None => Ok(Io::Plain(tcp)),
            Some(tls) => {
                let tls = TlsAcceptor::from(tls.load()).accept(tcp).await?;
                Ok(Io::Tls(Box::new(tls)))
            }
        }
    };
    let shaken: Result<io::Result<Io>, _> = tokio::time::timeout(limit, shaken).await;
    let error = match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(io) => return Some(io),
        Err(error) => error,
    };
    tracing::debug!(%error, ?peer, "Connection dropped before it was served");
    None
}
