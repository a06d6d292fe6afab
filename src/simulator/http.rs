//! The HTTP surface: routes, the order in which a request is checked (simulator.md §3), and its life from the
//! queue to the last event. One future per request; nothing is spawned, so a client that leaves drops it all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::api::{Endpoint, Envelope, Refusal, Request, Usage};
use super::engine::{Job, Refused, Ticket};
use super::machine::Machine;
use super::{Config, text};
use crate::wire::prom_text::Format;

/// One simulated server.
pub struct Simulator {
    config: Config,
    machine: Machine,
    requests: AtomicU64,
}

type Shared = State<Arc<Simulator>>;

impl Simulator {
    /// An idle simulator.
    pub fn new(config: Config, machine: Machine) -> Self {
        Simulator {
            machine,
            requests: AtomicU64::new(0),
            config,
        }
    }

    /// Its routes.
    pub fn router(self) -> Router {
        let limit = self.config.max_body;
        Router::new()
            .route(
                "/v1/completions",
                post(
                    |s: Shared, h: HeaderMap, b: Result<Bytes, BytesRejection>| async move {
                        generate(s.0, Endpoint::Text, &h, b).await
                    },
                ),
            )
            .route(
                "/v1/chat/completions",
                post(
                    |s: Shared, h: HeaderMap, b: Result<Bytes, BytesRejection>| async move {
                        generate(s.0, Endpoint::Chat, &h, b).await
                    },
                ),
            )
            .route("/v1/models", get(models))
            .route("/health", get(|| async { axum::Json(json!({})) }))
            .route("/ready", get(|| async { axum::Json(json!({})) }))
            .route("/metrics", get(metrics))
            .layer(DefaultBodyLimit::max(limit))
            .with_state(Arc::new(self))
    }

    /// The model an answer names: the adapter asked for, else the first served name. `None`: unknown.
    fn answered_model(&self, asked: &str) -> Option<(String, Option<String>)> {
        let config = &self.config;
        if config.served_names.iter().any(|n| n == asked) {
            return Some((config.served_names[0].clone(), None));
        }
        config
            .adapters
            .iter()
            .find(|a| *a == asked)
            .map(|a| (a.clone(), Some(a.clone())))
    }
}

async fn models(State(sim): Shared) -> Response {
    let now = unix_seconds();
    let config = &sim.config;
    let entry = |id: &str, parent: Option<&str>| {
        json!({"id": id, "object": "model", "created": now, "owned_by": "vllm", "root": id, "parent": parent,
               "max_model_len": config.max_model_len})
    };
    let base = config.served_names.first().map(String::as_str);
    let names = config.served_names.iter().map(|n| entry(n, None));
    let adapters = config.adapters.iter().map(|a| entry(a, base));
    axum::Json(json!({"object": "list", "data": names.chain(adapters).collect::<Vec<_>>()})).into_response()
}

async fn metrics(State(sim): Shared, headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("");
    let format = Format::from_accept(accept);
    let page = format.render(sim.machine.engine.page());
    ([(header::CONTENT_TYPE, format.content_type())], page).into_response()
}

/// A request in the engine, and what is left to say.
struct Run {
    envelope: Envelope,
    ticket: Ticket,
    tokens: Vec<String>,
    finish_reason: &'static str,
    usage: Usage,
    include_usage: bool,
}

async fn generate(
    sim: Arc<Simulator>,
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let request_id = headers.get("x-request-id").cloned();
    let mut response = match admit(&sim, endpoint, body).await {
        Ok((run, true)) => run.events(),
        Ok((run, false)) => run.whole().await,
        Err(refusal) => refuse(&refusal),
    };
    let own = |(name, value): &(String, String)| {
        Some((
            HeaderName::try_from(name.as_str()).ok()?,
            HeaderValue::from_str(value).ok()?,
        ))
    };
    response
        .headers_mut()
        .extend(sim.config.headers.iter().filter_map(own));
    if sim.config.request_id_headers {
        let made = || HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok();
        if let Some(id) = request_id.or_else(made) {
            response.headers_mut().insert("x-request-id", id);
        }
    }
    response
}

fn refuse(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(refusal.json())).into_response()
}

/// Checks a request in the order of the specification and waits for its slot. Also says whether to stream.
async fn admit(
    sim: &Arc<Simulator>,
    endpoint: Endpoint,
    body: Result<Bytes, BytesRejection>,
) -> Result<(Run, bool), Refusal> {
    let arrived = Instant::now();
    if let Some(failure) = sim.machine.fails() {
        return Err(Refusal::new(failure.status, failure.message));
    }
    let body = body.map_err(|e| {
        let status = e.status().as_u16();
        let limit = sim.config.max_body;
        let text = if status == 413 {
            format!("request body is larger than {limit} bytes")
        } else {
            e.body_text()
        };
        Refusal::new(status, text)
    })?;
    let unreadable = |e: String| Refusal::new(400, format!("Failed to read and parse request body, {e}"));
    let request: Request = serde_json::from_slice(&body).map_err(|e| unreadable(e.to_string()))?;
    let prompt = request.prompt_text(endpoint).map_err(unreadable)?;
    drop(body);
    let (model, adapter) = sim
        .answered_model(&request.model)
        .ok_or_else(|| Refusal::new(404, format!("The model `{}` does not exist.", request.model)))?;
    let max_tokens = match request.limit(endpoint) {
        Some(n) if n <= 0 => {
            return Err(Refusal::new(
                400,
                "Max completion tokens and max tokens should be positive",
            ));
        }
        limit => limit.and_then(|n| usize::try_from(n).ok()),
    };
    if request.ignore_eos && max_tokens.is_none() {
        let text = "Ignore_eos is true but max_completion_tokens (or max_tokens) is not set";
        return Err(Refusal::new(400, text));
    }
    let stream = request.stream;
    let run = Run::start(
        sim,
        endpoint,
        &request,
        &prompt,
        (model, adapter),
        max_tokens,
        arrived,
    )
    .await?;
    Ok((run, stream))
}

impl Run {
    async fn start(
        sim: &Arc<Simulator>,
        endpoint: Endpoint,
        request: &Request,
        prompt: &str,
        (model, adapter): (String, Option<String>),
        max_tokens: Option<usize>,
        arrived: Instant,
    ) -> Result<Self, Refusal> {
        let config = &sim.config;
        let number = sim.requests.fetch_add(1, Ordering::Relaxed);
        let mut rng = SmallRng::seed_from_u64(config.seed.wrapping_add(number));
        let prompt_tokens = text::tokenize(prompt);
        let (limit, n, asked) = (config.max_model_len, prompt_tokens.len(), max_tokens.unwrap_or(0));
        if n + asked > limit {
            let total = n + asked;
            return Err(Refusal::new(
                400,
                format!(
                    "This model's maximum context length is {limit} tokens. However, you requested {total} tokens \
                 ({n} in the messages, {asked} in the completion). Please reduce the length of the messages or completion"
                ),
            ));
        }
        let (tokens, at_limit) = if config.echo {
            let tokens: Vec<String> = prompt_tokens.iter().map(|t| (*t).to_owned()).collect();
            let at_limit = max_tokens.is_some_and(|max| max <= tokens.len());
            (tokens, at_limit)
        } else {
            let room = limit.saturating_sub(n);
            let (length, at_limit) = text::answer_length(&mut rng, max_tokens, request.ignore_eos, room);
            let tokens = text::random_tokens(&mut rng, length);
            (tokens.into_iter().map(str::to_owned).collect(), at_limit)
        };
        let finish_reason = if at_limit { "length" } else { "stop" };
        let all = prompt_tokens
            .iter()
            .copied()
            .chain(tokens.iter().map(String::as_str));
        let (blocks, ids) = sim.machine.blocks(adapter.as_deref(), all.map(text::token_id));
        let ticket = sim.machine.engine.submit(Job {
            adapter: adapter.map(Arc::from),
            prompt: n,
            output: tokens.len(),
            finish_reason,
            max_tokens,
            remote_prefill: false,
            blocks,
            ids,
            cache_hit_threshold: None,
            cache_threshold_forced: false,
            instant: false,
            seed: rng.random(),
            arrived,
        });
        let ticket = ticket.map_err(|refused| {
            let status = match refused {
                Refused::QueueFull => 429,
                Refused::TooLarge(_) => 500,
            };
            Refusal::new(status, refused.to_string())
        })?;
        let started = ticket.started().await;
        let prefix = if endpoint == Endpoint::Chat {
            "chatcmpl"
        } else {
            "cmpl"
        };
        let id = format!(
            "{prefix}-{:016x}{:016x}",
            rng.random::<u64>(),
            rng.random::<u64>()
        );
        Ok(Run {
            envelope: Envelope {
                endpoint,
                id,
                created: unix_seconds(),
                model,
            },
            ticket,
            usage: Usage {
                prompt: n,
                completion: tokens.len(),
                cached: started.cached,
            },
            tokens,
            finish_reason,
            include_usage: request.include_usage(),
        })
    }

    /// Waits for everything, then answers once.
    async fn whole(self) -> Response {
        self.ticket.reach(usize::MAX).await;
        let answer = self
            .envelope
            .answer(&self.tokens.concat(), self.finish_reason, self.usage);
        axum::Json(answer).into_response()
    }

    /// Answers token by token.
    fn events(self) -> Response {
        let events = stream::unfold((self, 0), |(run, at)| async move {
            let bytes = run.next(at).await?;
            Some((Ok::<_, std::convert::Infallible>(bytes), (run, at + 1)))
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::from_stream(events)).into_response()
    }

    /// The bytes of the token of this number, after the wait before it; after the last one, the end.
    async fn next(&self, at: usize) -> Option<Bytes> {
        let at_limit = self.finish_reason == "length";
        if at < self.tokens.len() {
            self.ticket.reach(at + 1).await;
            let last = at + 1 == self.tokens.len();
            let reason = (last && at_limit).then_some("length");
            return Some(frame(&self.envelope.piece(&self.tokens[at], at == 0, reason)));
        }
        if at > self.tokens.len() {
            return None;
        }
        self.ticket.reach(usize::MAX).await;
        let mut out = Vec::new();
        if !at_limit || self.tokens.is_empty() {
            out.extend_from_slice(&frame(&self.envelope.piece("", false, Some(self.finish_reason))));
        }
        if self.include_usage {
            out.extend_from_slice(&frame(&self.envelope.usage(self.usage)));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        Some(out.into())
    }
}

fn frame(event: &Value) -> Bytes {
    format!("data: {event}\n\n").into()
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
