//! Requests of an HTTP/1 connection, read and answered by hyper, until one is answered with events: these are taken
//! out of hyper, with the connection, for [`super::chunks`] to write. Called by [`super::connection`].

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::http::{HeaderMap, Request, Version, header, response};
use axum::response::Response;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::{Limits, MAX_HEAD_BYTES};
use crate::simulator::events::{self, Events};

/// An answer that is still to be written, head and events.
pub struct Answer {
    /// Its head.
    pub head: response::Parts,
    /// Its events.
    pub events: Box<dyn Events>,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
}

/// What comes next on a connection.
pub enum Next {
    /// These events.
    Events(Connection, Box<Answer>),
    /// Nothing.
    Over,
}

/// Answers requests; where there is a slot, answers with events go there.
pub struct Routes {
    router: Router,
    slot: Option<Arc<Mutex<Option<Answer>>>>,
}

impl Routes {
    /// All answers are written by hyper.
    pub fn new(router: Router) -> Self {
        Routes { router, slot: None }
    }
}

impl Service<Request<Incoming>> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // HTTP/1.0 knows no chunks.
        let slot = self
            .slot
            .clone()
            .filter(|_| request.version() == Version::HTTP_11);
        let keep_alive = !wants_close(request.headers());
        let answer = tower_service::Service::call(&mut self.router.clone(), request);
        Box::pin(async move {
            let mut response = answer.await?;
            let Some(slot) = slot else {
                return Ok(response);
            };
            let Some(events) = events::take(&mut response) else {
                return Ok(response);
            };
            let (head, _) = response.into_parts();
            *slot.lock() = Some(Answer {
                head,
                events,
                keep_alive,
            });
            // The slot is looked into as soon as this waits; then hyper is left, and this is dropped.
            std::future::pending().await
        })
    }
}

fn wants_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("close"))
}

/// Serves requests until one is answered with events, or the connection ends.
///
/// # Errors
/// The connection broke, or its client does not speak HTTP.
pub async fn serve(
    io: Connection,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<Next, hyper::Error> {
    let slot = Arc::default();
    let routes = Routes {
        router,
        slot: Some(Arc::clone(&slot)),
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(io), routes);
    let mut stopping = pin!(stop.cancelled());
    let mut stopped = false;
    let answer = std::future::poll_fn(|cx| {
        if !stopped && stopping.as_mut().poll(cx).is_ready() {
            stopped = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended.map(|()| None)),
            Poll::Pending => match slot.lock().take() {
                Some(answer) => Poll::Ready(Ok(Some(answer))),
                None => Poll::Pending,
            },
        }
    })
    .await?;
    let Some(answer) = answer else {
        return Ok(Next::Over);
    };
    // The request was read to its end and nothing of the answer was written: hyper holds only what was read ahead.
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    io.put_back(parts.read_buf);
    Ok(Next::Events(io, Box::new(answer)))
}
