//! The HTTP surface: routes, the order in which a request is checked (simulator.md §3), and its life from the
//! queue to the last event. One future per request; nothing is spawned, so a client that leaves drops it all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

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
use super::engine::{Admission, Engine, Slot};
use super::kv_cache::{Held, KvCache};
use super::metrics::{Metrics, Outcome};
use super::{Config, text};
use crate::wire::prom_text::Format;

/// One simulated server.
pub struct Simulator {
    config: Config,
    engine: Engine,
    cache: Option<KvCache>,
    metrics: Metrics,
    requests: AtomicU64,
}

type Shared = State<Arc<Simulator>>;

impl Simulator {
    /// An idle simulator.
    pub fn new(config: Config) -> Self {
        let cache = config.kv_cache.map(KvCache::new);
        let name = config.served_names.first().unwrap_or(&config.model);
        Simulator {
            metrics: Metrics::new(name, config.max_model_len, config.max_loras, cache.as_ref()),
            engine: Engine::new(config.max_num_seqs, config.max_waiting, config.max_loras),
            cache,
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
    let page = format.render(sim.metrics.encode(&sim.engine, sim.cache.as_ref()));
    ([(header::CONTENT_TYPE, format.content_type())], page).into_response()
}

/// A request that runs: what it holds, and what is left to say.
struct Run {
    sim: Arc<Simulator>,
    envelope: Envelope,
    /// Given back, with the slot, when the run is dropped.
    _held: Option<Held>,
    slot: Option<Slot>,
    rng: SmallRng,
    tokens: Vec<String>,
    at_limit: bool,
    usage: Usage,
    max_tokens: Option<usize>,
    include_usage: bool,
    arrived: Instant,
    queued: Option<Duration>,
    started: Instant,
    first_token: Duration,
    load: f64,
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
    let (slot, queued) = match sim.engine.admit(adapter.as_deref()) {
        Admission::Running(slot) => (slot, None),
        Admission::Full => {
            return Err(Refusal::new(
                429,
                "Failed to enqueue request, waiting requests queue is full",
            ));
        }
        Admission::Waiting(place) => {
            let slot = place
                .slot()
                .await
                .ok_or_else(|| Refusal::new(503, "server is shutting down"))?;
            (slot, Some(arrived.elapsed()))
        }
    };
    let stream = request.stream;
    Run::start(
        sim,
        endpoint,
        &request,
        &prompt,
        model,
        max_tokens,
        (slot, queued, arrived),
    )
    .map(|run| (run, stream))
}

impl Run {
    fn start(
        sim: &Arc<Simulator>,
        endpoint: Endpoint,
        request: &Request,
        prompt: &str,
        model: String,
        max_tokens: Option<usize>,
        (slot, queued, arrived): (Slot, Option<Duration>, Instant),
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
        let held = sim
            .cache
            .as_ref()
            .map(|c| c.start(&model, &prompt_tokens))
            .transpose();
        let held = held.map_err(|e| Refusal::new(500, e.to_string()))?;
        let cached = held.as_ref().map(|h| h.cached_tokens);
        let (tokens, at_limit) = if config.echo {
            let tokens: Vec<String> = prompt_tokens.iter().map(|t| (*t).to_owned()).collect();
            let at_limit = max_tokens.is_some_and(|max| max <= tokens.len());
            (tokens, at_limit)
        } else {
            let room = limit.saturating_sub(n);
            let (length, at_limit) = text::answer_length(&mut rng, max_tokens, request.ignore_eos, room);
            let tokens = text::random_tokens(&mut rng, length)
                .into_iter()
                .map(str::to_owned)
                .collect();
            (tokens, at_limit)
        };
        let load = config
            .latency
            .load(sim.engine.counts().running, config.max_num_seqs);
        let first_token = config.latency.first_token(&mut rng, load, n, cached.unwrap_or(0));
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
            sim: sim.clone(),
            envelope: Envelope {
                endpoint,
                id,
                created: unix_seconds(),
                model,
            },
            _held: held,
            slot: Some(slot),
            usage: Usage {
                prompt: n,
                completion: tokens.len(),
                cached,
            },
            rng,
            tokens,
            at_limit,
            max_tokens,
            include_usage: request.include_usage(),
            arrived,
            queued,
            started: Instant::now(),
            first_token,
            load,
        })
    }

    fn finish_reason(&self) -> &'static str {
        if self.at_limit { "length" } else { "stop" }
    }

    fn next_token(&mut self) -> Duration {
        self.sim.config.latency.next_token(&mut self.rng, self.load)
    }

    /// Counts the request and gives its slot back.
    fn succeeded(&mut self, decode: Duration) {
        let prefill = self.started.elapsed().saturating_sub(decode);
        self.sim.metrics.succeeded(&Outcome {
            finish_reason: self.finish_reason(),
            prompt: self.usage.prompt,
            cached: self.usage.cached,
            generated: self.tokens.len(),
            max_tokens: self.max_tokens,
            queued: self.queued,
            prefill,
            decode,
            total: self.arrived.elapsed(),
        });
        self._held = None;
        self.slot = None;
    }

    /// Waits for everything, then answers once.
    async fn whole(mut self) -> Response {
        let decode: Duration = (1..self.tokens.len()).map(|_| self.next_token()).sum();
        pause(self.first_token + decode).await;
        let answer = self
            .envelope
            .answer(&self.tokens.concat(), self.finish_reason(), self.usage);
        self.succeeded(decode);
        axum::Json(answer).into_response()
    }

    /// Answers token by token.
    fn events(self) -> Response {
        let events = stream::unfold(Stage::Token(self, 0, None), |stage| async { stage.next().await });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::from_stream(events)).into_response()
    }
}

/// Where a stream stands.
enum Stage {
    /// Before the token of this number; the instant is that of the first token.
    Token(Run, usize, Option<Instant>),
    /// All tokens are out.
    Closing(Run, Duration),
    /// Nothing is left.
    Done,
}

impl Stage {
    /// The next bytes of the stream, after the wait before them.
    async fn next(self) -> Option<(Result<Bytes, std::convert::Infallible>, Stage)> {
        match self {
            Stage::Done => None,
            Stage::Token(mut run, at, first) => {
                if at >= run.tokens.len() {
                    let closing = Stage::Closing(run, first.map(|f| f.elapsed()).unwrap_or_default());
                    return Box::pin(closing.next()).await;
                }
                let wait = if at == 0 {
                    run.first_token
                } else {
                    run.next_token()
                };
                pause(wait).await;
                let first = first.or_else(|| Some(Instant::now()));
                let last = at + 1 == run.tokens.len();
                let reason = (last && run.at_limit).then_some("length");
                let event = run.envelope.piece(&run.tokens[at], at == 0, reason);
                Some((Ok(frame(&event)), Stage::Token(run, at + 1, first)))
            }
            Stage::Closing(mut run, decode) => {
                let mut out = Vec::new();
                if !run.at_limit || run.tokens.is_empty() {
                    out.extend_from_slice(&frame(&run.envelope.piece("", false, Some(run.finish_reason()))));
                }
                if run.include_usage {
                    out.extend_from_slice(&frame(&run.envelope.usage(run.usage)));
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
                run.succeeded(decode);
                Some((Ok(out.into()), Stage::Done))
            }
        }
    }
}

fn frame(event: &Value) -> Bytes {
    format!("data: {event}\n\n").into()
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
