//! A model server of tests and benches that answers as the request's header `x-answer` asks: at once, when told, or
//! with what a hostile server would send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response};
use axum::routing::{any, get};
use futures::StreamExt;
use tokio::sync::watch;

use super::model_server;

/// The header that says which answer is wanted: [`WAIT`], [`TOKENS`], [`NESTED`], [`NESTED_EVENT`], or none.
pub const ANSWER: &str = "x-answer";
/// A small JSON document, once [`ScriptedServer::release`] is called.
pub const WAIT: &str = "wait";
/// The head of an event stream at once and thirty small events once released.
pub const TOKENS: &str = "tokens";
/// JSON of 10,000 levels.
pub const NESTED: &str = "nested";
/// The same as one event of 195 kB.
pub const NESTED_EVENT: &str = "nested-event";

const USAGE: &str = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;

/// A running model server; ends with its runtime.
#[derive(Clone)]
pub struct ScriptedServer {
    /// Where it listens.
    pub address: SocketAddr,
    release: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    scrapes: Arc<AtomicUsize>,
}

impl ScriptedServer {
    /// Starts one on `127.0.0.<host>:<port>`; `page` follows the usual numbers on its metrics page.
    pub async fn start(host: u8, port: u16, page: &str) -> Self {
        let page = model_server::State::default().page() + page;
        let server = ScriptedServer {
            address: SocketAddr::from(([127, 0, 0, host], port)),
            release: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            scrapes: Arc::default(),
        };
        let scrapes = server.scrapes.clone();
        let app = Router::new()
            .route(
                "/metrics",
                get(move || async move {
                    scrapes.fetch_add(1, Ordering::Relaxed);
                    page
                }),
            )
            .fallback(any(answer))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state(server.clone());
        let listener = tokio::net::TcpListener::bind(server.address).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    /// Lets those who wait have their answers.
    pub fn release(&self) {
        self.release.send_replace(true);
    }

    /// Waits until `count` requests have asked for an answer that waits.
    pub async fn asked(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        waiting.wait_for(|n| *n >= count).await.unwrap();
    }

    /// How often its metrics page has been read.
    pub fn scrapes(&self) -> usize {
        self.scrapes.load(Ordering::Relaxed)
    }

    async fn released(self) {
        self.waiting.send_modify(|n| *n += 1);
        let mut release = self.release.subscribe();
        release.wait_for(|r| *r).await.unwrap();
    }
}

/// A document of 10,000 objects, one in the other.
pub fn nested() -> String {
    format!("{}1{}", r#"{"response":"#.repeat(10_000), "}".repeat(10_000))
}

async fn answer(State(server): State<ScriptedServer>, headers: HeaderMap, _body: Bytes) -> Response<Body> {
    let wanted = headers.get(ANSWER).and_then(|v| v.to_str().ok()).unwrap_or("");
    let (kind, body) = match wanted {
        WAIT => {
            server.released().await;
            ("application/json", Body::from(USAGE))
        }
        TOKENS => {
            let events = futures::stream::once(server.released())
                .flat_map(|()| futures::stream::iter(0..30))
                .then(|i| async move {
                    tokio::task::yield_now().await;
                    Ok::<_, std::io::Error>(format!("data: {{\"n\":{i}}}\n\n"))
                });
            ("text/event-stream", Body::from_stream(events))
        }
        NESTED => ("application/json", Body::from(nested())),
        NESTED_EVENT => {
            let event = format!("data: {}\n\n", r#"{"response":"#.repeat(16_250));
            ("text/event-stream", Body::from(event))
        }
        _ => ("application/json", Body::from(USAGE)),
    };
    Response::builder()
        .header("content-type", kind)
        .body(body)
        .unwrap()
}
