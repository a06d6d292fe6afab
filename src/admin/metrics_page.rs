//! `GET /metrics` over plain HTTP/1.1. Called by `app`, which binds the port: to loopback only while access is
//! to be reviewed and there is nobody to ask (decision 24).
//!
//! Nothing a client does holds the process: heads are limited in size and time, connections in number and
//! life. The page is not compressed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::net::accept::{self, Socket, WORKER_BACKLOG};
use crate::telemetry::metrics::Metrics;
use crate::wire::prom_text::Format;

const PATH: &str = "/metrics";

/// Largest request head in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for a whole request head, on a fresh connection and between two scrapes.
    pub head: Duration,
    /// Life of a connection; past it the answer under way is finished, for as long as `head`, and that is all.
    pub life: Duration,
    /// Connections at once; more wait in the kernel.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: Duration::from_secs(30),
            life: Duration::from_secs(300),
            connections: 64,
        }
    }
}

/// What a review of a bearer token came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token's owner may read the page.
    Allowed,
    /// Nobody knows the token: 401.
    UnknownToken,
    /// The owner may not: 403.
    Denied {
        /// Name of the owner.
        user: String,
    },
    /// The question could not be asked: 503.
    Unreachable,
}

/// Decides who may read the page.
pub trait Reviewer: Send + Sync + 'static {
    /// Reviews `token` for `verb` (lower-case method) on `path`. Must end within a bounded time.
    fn review<'a>(&'a self, token: &'a str, verb: &'a str, path: &'a str) -> BoxFuture<'a, Verdict>;
}

/// The page and who may read it.
#[derive(Clone)]
pub struct MetricsPage {
    metrics: Arc<Metrics>,
    reviewer: Option<Arc<dyn Reviewer>>,
}

impl MetricsPage {
    /// A page for everybody who reaches the port.
    pub fn open(metrics: Arc<Metrics>) -> Self {
        MetricsPage {
            metrics,
            reviewer: None,
        }
    }

    /// A page for those the reviewer allows.
    pub fn reviewed(metrics: Arc<Metrics>, reviewer: Arc<dyn Reviewer>) -> Self {
        MetricsPage {
            metrics,
            reviewer: Some(reviewer),
        }
    }

    /// Answers one request.
    async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if path != PATH {
            return plain(StatusCode::NOT_FOUND, "not found; the metrics are at /metrics\n");
        }
        if method != Method::GET && method != Method::HEAD {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        if let Some(reviewer) = &self.reviewer
            && let Err(refused) = review(reviewer.as_ref(), method, path, headers).await
        {
            return refused;
        }
        let accept: Vec<&str> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        let format = Format::from_accept(&accept.join(","));
        let page = format.render(self.metrics.encode());
        // The transport leaves the body out of the answer to HEAD and keeps its length.
        respond(StatusCode::OK, format.content_type(), page.into())
    }
}

async fn review(
    reviewer: &dyn Reviewer,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), Response<Full<Bytes>>> {
    let verdict = match bearer(headers) {
        Some(token) => {
            let verb = method.as_str().to_ascii_lowercase();
            reviewer.review(token, &verb, path).await
        }
        None => Verdict::UnknownToken,
    };
    Err(match verdict {
        Verdict::Allowed => return Ok(()),
        Verdict::UnknownToken => {
            let mut refused = plain(StatusCode::UNAUTHORIZED, "Unauthorized\n");
            let scheme = HeaderValue::from_static("Bearer");
            refused.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            refused
        }
        Verdict::Denied { user } => {
            let text = format!("Authorization denied for user {user}\n");
            plain(StatusCode::FORBIDDEN, text)
        }
        Verdict::Unreachable => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "the access review API cannot be reached\n",
        ),
    })
}

/// The token of `Authorization: Bearer`, scheme in any case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Serves the page until `stop`; answers under way are cut then, a scraper asks again.
pub async fn serve(listener: TcpListener, page: MetricsPage, limits: Limits, stop: CancellationToken) {
    let (to_us, sockets) = mpsc::channel(WORKER_BACKLOG);
    tokio::join!(
        accept::run(listener, vec![to_us], stop.clone()),
        connections(sockets, page, limits, stop),
    );
}

async fn connections(
    mut sockets: mpsc::Receiver<Socket>,
    page: MetricsPage,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            socket = sockets.recv(), if open.len() < limits.connections => {
                let Some(socket) = socket else { return };
                open.spawn(connection(socket, page.clone(), limits));
            }
        }
    }
}

async fn connection(socket: Socket, page: MetricsPage, limits: Limits) {
    let Ok(tcp) = TcpStream::from_std(socket) else {
        return;
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let page = page.clone();
        async move {
            let (head, _body) = request.into_parts();
            let answer = page.answer(&head.method, head.uri.path(), &head.headers).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(tcp), service);
    tokio::pin!(connection);
    let ended = match tokio::time::timeout(limits.life, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.head, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "Metrics connection ended");
    }
}
