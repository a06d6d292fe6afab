//! One connection to the metrics port. Run by [`super::metrics_page`].

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::metrics_page::{Limits, MetricsPage};
use crate::net::accept::Guest;
use crate::net::http2::Counted;
use crate::net::incoming::establish;
use crate::net::patient::Patient;
use crate::net::places::{Place, Use};
use crate::telemetry::metrics::connections::Failure;

/// Largest request head in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Serves it until one side ends it, its life is over, or its place is needed.
pub async fn run(guest: Guest, page: MetricsPage, limits: Limits) {
    let place = Arc::new(guest.place);
    let Ok(tcp) = establish(guest.socket, None).await else {
        return;
    };
    let io = Taken {
        io: Patient::new(tcp, limits.stalled),
        used: place.used().clone(),
    };
    tokio::select! {
        () = place.used().dropped() => {}
        ended = serve(io, &place, page, limits) => if let Err(error) = ended {
            let io = std::error::Error::source(&error).is_some_and(|e| e.is::<io::Error>());
            let why = if io || error.is_timeout() { Failure::Io } else { Failure::Protocol };
            place.places().failed(why);
            tracing::debug!(%error, "Metrics connection ended");
        }
    }
}

async fn serve(
    io: Taken<impl AsyncRead + AsyncWrite + Unpin>,
    place: &Arc<Place>,
    page: MetricsPage,
    limits: Limits,
) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let (page, place) = (page.clone(), place.clone());
        async move {
            let open = place.stream();
            let (head, _body) = request.into_parts();
            let answer = page.answer(&head).await;
            let bytes = answer.body().size_hint().lower();
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            place.places().hold(place.used(), bytes, limits.pages);
            Ok::<_, Infallible>(answer.map(|body| Counted::new(body, open)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    if let Ok(ended) = timeout(limits.life, connection.as_mut()).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    timeout(limits.head, connection).await.unwrap_or(Ok(()))
}

/// A connection that tells when all of an answer has been taken.
struct Taken<T> {
    io: T,
    used: Arc<Use>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Taken<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Taken<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Called when everything has been written.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        if flushed.is_ready() {
            this.used.released();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
