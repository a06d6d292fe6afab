//! A model server behind Envoy in end-to-end tests: a metrics page, and paths that show what arrived.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response};
use axum::routing::{get, post};
use futures::StreamExt;

use super::model_server;

/// What one upstream received.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bodies of POSTs.
    pub bodies: Vec<Bytes>,
    /// Headers of all requests.
    pub headers: Vec<HeaderMap>,
}

/// A running upstream; ends with its runtime.
#[derive(Clone)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Upstream {
    /// Starts one on `127.0.0.<host>:<port>`, whose metrics say `queue` requests wait.
    pub async fn start(host: u8, port: u16, queue: u32) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let page = model_server::State {
            queue,
            ..Default::default()
        }
        .page();
        let app = Router::new()
            .route("/metrics", get(move || async move { page }))
            .route("/v1/models", get(models))
            .route("/v1/completions", post(echo))
            .route("/v1/chat/completions", post(stream))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state(seen.clone());
        let address = SocketAddr::from(([127, 0, 0, host], port));
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Upstream { address, seen }
    }

    /// Requests it has received.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().headers.len()
    }

    /// Looks at what it has received.
    pub fn seen<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.seen.lock().unwrap())
    }
}

async fn models(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap) -> &'static str {
    seen.lock().unwrap().headers.push(headers);
    "{\"object\":\"list\",\"data\":[]}"
}

/// Answers with the length of the body, as JSON with usage.
async fn echo(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let text = format!(
        "{{\"object\":\"text_completion\",\"received\":{},\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}}}",
        body.len()
    );
    let mut seen = seen.lock().unwrap();
    seen.headers.push(headers);
    seen.bodies.push(body);
    Response::builder()
        .header("content-type", "application/json")
        .body(Body::from(text))
        .unwrap()
}

/// Answers with 100 events and the end.
async fn stream(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    {
        let mut seen = seen.lock().unwrap();
        seen.headers.push(headers);
        seen.bodies.push(body);
    }
    let events = (0..100)
        .map(|i| format!("data: {{\"n\":{i}}}\n\n"))
        .chain(["data: [DONE]\n\n".to_owned()]);
    let events = futures::stream::iter(events).then(|e| async {
        tokio::task::yield_now().await;
        Ok::<_, std::io::Error>(e)
    });
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_stream(events))
        .unwrap()
}
