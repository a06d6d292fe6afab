//! What is asked of a server beside generating: models, health, metrics, sleep (simulator.md §2.1, §2.4, §10).

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::Shared;
use super::generate::{json, refuse};
use crate::simulator::api::Refusal;
use crate::simulator::server::unix_seconds;
use crate::wire::prom_text::Format;

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    parent: Option<&'a str>,
    max_model_len: usize,
}

/// `GET /v1/models`: the served names, then the adapters.
pub async fn models(State(sim): Shared) -> Response {
    let created = unix_seconds();
    let entry = |id, parent| Model {
        id,
        object: "model",
        created,
        owned_by: "vllm",
        root: id,
        parent,
        max_model_len: sim.config.max_model_len,
    };
    let adapters = sim.adapters();
    let names = sim.config.served_names.iter().map(|n| entry(n.as_str(), None));
    let adapters = adapters.iter().map(|a| entry(a, Some(sim.first_name())));
    let models = Models {
        object: "list",
        data: names.chain(adapters).collect(),
    };
    // Structs of texts and numbers always have a JSON form.
    json(StatusCode::OK, serde_json::to_string(&models).unwrap_or_default())
}

/// `GET /health`.
pub async fn health() -> Response {
    json(StatusCode::OK, "{}".to_owned())
}

/// `GET /ready`, `/health/ready`.
pub async fn ready(State(sim): Shared) -> Response {
    let left = sim.config.startup.saturating_sub(sim.machine.engine.age());
    if left.is_zero() {
        return json(StatusCode::OK, "{}".to_owned());
    }
    let left = left.as_secs_f64();
    refuse(&Refusal::new(
        503,
        format!("The server is starting, for another {left:.1} s."),
    ))
}

/// `GET /query`: by which id others know the engine of each rank, as Mooncake's bootstrap server says.
pub async fn engines(State(sim): Shared) -> Response {
    let engine = |rank: u16| {
        let id = sim.config.engine_id(rank).to_string();
        (rank.to_string(), json!({"engine_id": id}))
    };
    let engines: serde_json::Map<_, _> = (0..sim.config.ranks).map(engine).collect();
    json(StatusCode::OK, Value::Object(engines).to_string())
}

/// `GET /metrics`.
pub async fn metrics(State(sim): Shared, headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("");
    let format = Format::from_accept(accept);
    let page = format.render(sim.machine.engine.page());
    ([(header::CONTENT_TYPE, format.content_type())], page).into_response()
}

/// `POST /sleep`.
pub async fn sleep(State(sim): Shared) -> StatusCode {
    sim.fall_asleep();
    StatusCode::OK
}

/// `POST /wake_up`: all of it, or what `tags` says; only `kv_cache` means something here.
pub async fn wake_up(State(sim): Shared, Query(wake): Query<Vec<(String, String)>>) -> StatusCode {
    let mut tags = wake.iter().filter(|(key, _)| key == "tags").peekable();
    let cache_too = tags.peek().is_none() || tags.any(|(_, tag)| tag.split(',').any(|t| t == "kv_cache"));
    sim.wake_up(cache_too);
    StatusCode::OK
}

/// `GET /is_sleeping`.
pub async fn is_sleeping(State(sim): Shared) -> Response {
    json(StatusCode::OK, format!("{{\"is_sleeping\":{}}}", sim.is_asleep()))
}
