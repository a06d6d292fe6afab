//! The metrics port: `GET /metrics` over plain HTTP/1.1, and beside it the pages below `/debug/`. Called by `app`,
//! which binds the port: to loopback only while access is to be reviewed and there is nobody to ask (decision 24).
//!
//! Nothing a client does holds the process: heads are limited in size and time, connections in number and
//! life, pages that are not taken in bytes and time, and they are written off the thread that serves them, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, HeaderValue, LOCATION};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::{self, Scheme};
use super::answer::{self, plain};
use super::connection;
use super::debug::DebugPages;
use super::host;
use super::profiling::{self, Profiling};
use crate::net::accept::{self, Guest, WORKER_BACKLOG};
use crate::net::places::{self, Places};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::connections::Port;
use crate::wire::prom_text::Format;

pub use super::access::{Reviewer, Verdict};

const PATH: &str = "/metrics";

/// Pages written at once; more wait for their turn.
const WRITERS: usize = 2;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for a whole request head, on a fresh connection and between two scrapes.
    pub head: Duration,
    /// Life of a connection; past it the answer under way is finished, for as long as `head`, and that is all.
    pub life: Duration,
    /// Longest time nothing of an answer is taken.
    pub stalled: Duration,
    /// Connections at once; another one takes the place of the one that has waited longest.
    pub connections: usize,
    /// Bytes of pages that wait to be taken, all connections together; beyond them those that wait longest are cut.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: Duration::from_secs(30),
            life: Duration::from_secs(300),
            stalled: Duration::from_secs(10),
            connections: 64,
            pages: 64 * 1024 * 1024,
        }
    }
}

impl Limits {
    fn places(&self) -> places::Limits {
        places::Limits {
            connections: self.connections,
            spare_busy: false,
            begin: self.head,
            idle: self.life,
        }
    }
}

/// The pages of the port and who may read them.
#[derive(Clone)]
pub struct MetricsPage {
    metrics: Arc<Metrics>,
    reviewer: Option<Arc<dyn Reviewer>>,
    debug: Option<Arc<DebugPages>>,
    profiling: Option<Arc<Profiling>>,
    writers: Arc<Semaphore>,
    /// Only requests meant for this machine are answered.
    loopback: bool,
}

/// What a path names.
enum Route {
    Metrics,
    Debug,
    Profile,
}

impl MetricsPage {
    /// A page for everybody who reaches the port.
    pub fn open(metrics: Arc<Metrics>) -> Self {
        MetricsPage {
            metrics,
            reviewer: None,
            debug: None,
            profiling: None,
            writers: Arc::new(Semaphore::new(WRITERS)),
            loopback: false,
        }
    }

    /// A page for those the reviewer allows.
    pub fn reviewed(metrics: Arc<Metrics>, reviewer: Arc<dyn Reviewer>) -> Self {
        MetricsPage {
            reviewer: Some(reviewer),
            ..MetricsPage::open(metrics)
        }
    }

    /// Adds the explain pages below `/debug/`.
    pub fn with_debug(self, pages: DebugPages) -> Self {
        MetricsPage {
            debug: Some(Arc::new(pages)),
            ..self
        }
    }

    /// Adds profiles below `/debug/pprof/`, if `enabled`.
    pub fn with_profiling(self, enabled: bool) -> Self {
        MetricsPage {
            profiling: enabled.then(Arc::default),
            ..self
        }
    }

    fn route(&self, path: &str) -> Option<Route> {
        if path == PATH {
            return Some(Route::Metrics);
        }
        if path.starts_with(profiling::PREFIX) {
            return self.profiling.is_some().then_some(Route::Profile);
        }
        let debug = self.debug.as_ref()?;
        debug.serves(path).then_some(Route::Debug)
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: &Parts) -> Response<Full<Bytes>> {
        let (method, path, headers) = (&request.method, request.uri.path(), &request.headers);
        if self.loopback && !host::is_loopback(request) {
            let text = "this port is open to this machine only: ask it as localhost or 127.0.0.1\n";
            return plain(StatusCode::MISDIRECTED_REQUEST, text);
        }
        let Some(route) = self.route(path) else {
            return self.elsewhere(path);
        };
        if method != Method::GET && method != Method::HEAD {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        if let Some(reviewer) = &self.reviewer {
            let scheme = match route {
                Route::Debug => Scheme::BearerOrPassword,
                Route::Metrics | Route::Profile => Scheme::Bearer,
            };
            if let Err(refused) = access::review(reviewer.as_ref(), scheme, method, path, headers).await {
                return refused;
            }
        }
        // The transport leaves the body out of the answer to HEAD and keeps its length.
        match (route, &self.debug, &self.profiling) {
            (Route::Profile, _, Some(profiling)) if method == Method::GET => {
                let query = request.uri.query().unwrap_or("");
                profiling.clone().answer(path, query).await
            }
            (Route::Debug, Some(debug), _) => {
                let (debug, uri) = (debug.clone(), request.uri.clone());
                let gzip = answer::takes_gzip(headers);
                self.written(move || debug.answer(&uri, gzip)).await
            }
            (Route::Profile, ..) => plain(StatusCode::OK, ""),
            _ => self.metrics(headers).await,
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let accept: Vec<&str> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        let format = Format::from_accept(&accept.join(","));
        let (metrics, gzip) = (self.metrics.clone(), answer::takes_gzip(headers));
        self.written(move || {
            let text = format.render(metrics.encode());
            let vary = "Accept, Accept-Encoding";
            answer::page(format.content_type(), text.into_bytes(), gzip, vary)
        })
        .await
    }

    /// Writes a page on a thread for such work: scraping and accepting go on meanwhile.
    async fn written(
        &self,
        write: impl FnOnce() -> Response<Full<Bytes>> + Send + 'static,
    ) -> Response<Full<Bytes>> {
        let _turn = self.writers.acquire().await;
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|_| {
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page could not be written\n",
            )
        })
    }

    fn elsewhere(&self, path: &str) -> Response<Full<Bytes>> {
        if path == "/debug" && self.debug.is_some() {
            let mut moved = plain(StatusCode::PERMANENT_REDIRECT, "the pages are at /debug/\n");
            let place = HeaderValue::from_static("debug/");
            moved.headers_mut().insert(LOCATION, place);
            return moved;
        }
        let mut text = "not found; the metrics are at /metrics".to_owned();
        if self.debug.is_some() {
            text.push_str(", the state of the pool at /debug/");
        }
        text.push('\n');
        plain(StatusCode::NOT_FOUND, text)
    }
}

/// Serves the page until `stop`; answers under way are cut then, a scraper asks again. On a loopback address, a page
/// without a reviewer answers only requests that name this machine as their host.
pub async fn serve(listener: TcpListener, mut page: MetricsPage, limits: Limits, stop: CancellationToken) {
    let here = listener
        .local_addr()
        .is_ok_and(|a| a.ip().to_canonical().is_loopback());
    page.loopback = here && page.reviewer.is_none();
    let places = Places::new(Port::Metrics, limits.places(), page.metrics.connections());
    let (to_us, guests) = mpsc::channel(WORKER_BACKLOG);
    tokio::join!(
        accept::admit(listener, places, vec![to_us], stop.clone()),
        connections(guests, page, limits, stop),
    );
}

async fn connections(
    mut guests: mpsc::Receiver<Guest>,
    page: MetricsPage,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            guest = guests.recv() => {
                let Some(guest) = guest else { return };
                open.spawn(connection::run(guest, page.clone(), limits));
            }
        }
    }
}
