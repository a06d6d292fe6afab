//! Serves HTTP/2 on the connections of one port: handshake, limits, and what is said of a connection that fails. Called by
//! `extproc` on each worker, and by `admin` for the health port.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2::Builder;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;

use super::accept::Guest;
use super::incoming::establish;
use super::paced::Paced;
use super::places::{OpenStream, Order, Place};
use super::tls::ServerTls;
use crate::telemetry::metrics::connections::Failure;

/// What a stream may send beyond what was read of it, bytes. Smaller than the connection's, so that a stream that is not
/// read leaves the others theirs: filled with messages of 10 bytes it takes 6 MiB of the budget below.
const STREAM_WINDOW: u32 = 256 * 1024;

/// What a connection may send beyond what was read of it, and to how many connections of a port that is granted. HTTP/2's
/// budget for small DATA frames is half of it, and each such frame that waits to be read costs 256 bytes less its
/// length: 8 MiB are 33,000 frames. The connections beyond those have the smaller window, which still gives twice what
/// one turn of reading can bring.
const WIDE_WINDOW: (u32, usize) = (16 * 1024 * 1024, 64);
const WINDOW: u32 = 4 * 1024 * 1024;

/// Streams that were reset before they were accepted. One turn of reading brings fewer than 2,000.
const RESET_UNSEEN: usize = 16 * 1024;

/// How the connections of a port are served.
#[derive(Clone, Debug)]
pub struct Http2 {
    builder: Builder<TokioExecutor>,
    tls: Option<Arc<ServerTls>>,
}

impl Http2 {
    /// Streams are not limited in number, peers that are gone are noticed by TCP alone.
    pub fn new(tls: Option<Arc<ServerTls>>) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .max_concurrent_streams(None)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_pending_accept_reset_streams(RESET_UNSEEN)
            // Counted over the life of a connection, which for a proxy is as long as its own. What these resets could pile
            // up is bounded where they would: nothing is read while they are not taken.
            .max_local_error_reset_streams(None);
        Http2 { builder, tls }
    }

    /// Limits the streams of a connection, and pings it.
    pub fn limited(mut self, streams: u32, ping: Duration) -> Self {
        self.builder
            .max_concurrent_streams(streams)
            .timer(TokioTimer::new())
            .keep_alive_interval(ping)
            .keep_alive_timeout(ping);
        self
    }

    /// Serves `guests` side by side on this thread until there are no more; `service` makes the service of each.
    pub async fn serve<S, B>(self, mut guests: mpsc::Receiver<Guest>, service: impl Fn(Arc<Place>) -> S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        while let Some(Guest { socket, place }) = guests.recv().await {
            let place = Arc::new(place);
            let service = service(place.clone());
            tokio::spawn(self.clone().connection(socket, place, service));
        }
    }

    async fn connection<S, B>(mut self, socket: super::accept::Socket, place: Arc<Place>, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let used = place.used();
        let peer = socket.peer_addr().ok();
        // Boxed: a handshake is large, and the connection that follows need not carry it.
        let shaken = Box::pin(establish(socket, self.tls.take()));
        let io = tokio::select! {
            () = used.dropped() => return,
            shaken = shaken => shaken,
        };
        let io = match io {
            Ok(io) => io,
            Err(error) => {
                place.places().failed(Failure::Handshake);
                tracing::debug!(%error, ?peer, "Connection dropped before it was served");
                return;
            }
        };
        let (wide, first) = WIDE_WINDOW;
        let few = place.places().connections() <= first;
        self.builder
            .initial_connection_window_size(if few { wide } else { WINDOW });
        let io = TokioIo::new(Paced::new(io, used.clone()));
        let mut served = pin!(self.builder.serve_connection(io, service));
        let mut finishing = false;
        let ended = poll_fn(|cx| {
            match used.poll_order(cx) {
                Order::Drop => return Poll::Ready(Ok(())),
                Order::Finish if !finishing => {
                    finishing = true;
                    served.as_mut().graceful_shutdown();
                }
                _ => {}
            }
            used.begin_turn();
            served.as_mut().poll(cx)
        });
        if let Err(error) = ended.await {
            ended_badly(&place, &error, peer);
        }
    }
}

/// A response body that counts its stream as open while it is sent.
pub struct Counted<B> {
    body: B,
    _open: OpenStream,
}

impl<B> Counted<B> {
    /// `open` ends with `body`.
    pub fn new(body: B, open: OpenStream) -> Self {
        Counted { body, _open: open }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts and says that a connection failed: loudly when it took streams with it for breaking the rules.
fn ended_badly(place: &Place, error: &hyper::Error, peer: Option<std::net::SocketAddr>) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.unwrap_or_else(|| error.to_string());
    let io = std::error::Error::source(error).is_some_and(|e| e.is::<std::io::Error>());
    if io || error.is_timeout() {
        place.places().failed(Failure::Io);
        tracing::debug!(error = cause, ?peer, "Connection broke");
    } else {
        place.places().failed(Failure::Protocol);
        let port = place.places().port().name();
        tracing::warn!(
            port,
            error = cause,
            ?peer,
            "Connection ended by an HTTP/2 error, with all its streams"
        );
    }
}
