//! The HTTP surface (simulator.md §2, §14): routes, and what all of them share. One future per request; nothing is
//! spawned, so a client that leaves drops it all.

mod adapters;
pub(super) mod body;
mod control;
mod embeddings;
mod events;
mod generate;
mod log;
mod messages;
mod on_purpose;
mod pages;
pub(super) mod paths;
mod render;
mod responses;
mod token_ids;
mod tokenize;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Request};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};

use super::api::Endpoint;
use super::order;
use super::server::Simulator;

type Shared = State<Arc<Simulator>>;

/// The routes of a simulator.
pub fn router(sim: Arc<Simulator>) -> Router {
    let text = |s: Shared, r: Request<Body>| generate::answer(s.0, Endpoint::Text, r);
    let chat = |s: Shared, r: Request<Body>| generate::answer(s.0, Endpoint::Chat, r);
    let render_text = |s: Shared, r: Request<Body>| render::answer(s.0, Endpoint::Text, r);
    let render_chat = |s: Shared, r: Request<Body>| render::answer(s.0, Endpoint::Chat, r);
    let log_http = sim.config.log_http;
    let router = Router::new()
        .route("/v1/completions", post(text))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions/render", post(render_text))
        .route("/v1/chat/completions/render", post(render_chat))
        .route("/v1/embeddings", post(embeddings::answer))
        .route("/v1/responses", post(responses::answer))
        .route("/v1/messages", post(messages::answer))
        .route("/inference/v1/generate", post(token_ids::answer))
        .route("/v1/models", get(pages::models))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/tokenize", post(tokenize::answer))
        .route("/health", get(pages::health))
        .route("/ready", get(pages::ready))
        .route("/health/ready", get(pages::ready))
        .route("/admin/config", get(control::show).post(control::change))
        .route("/fake_metrics", post(control::change_metrics))
        .route("/query", get(pages::engines))
        .route("/metrics", get(pages::metrics))
        .route("/sleep", post(pages::sleep))
        .route("/wake_up", post(pages::wake_up))
        .route("/is_sleeping", get(pages::is_sleeping))
        .with_state(sim);
    if log_http {
        router.layer(middleware::from_fn(log::both_ways))
    } else {
        router
    }
}

/// Adds the headers every answer to a generating request carries.
pub(super) fn with_headers(sim: &Simulator, request_id: Option<&str>, mut response: Response) -> Response {
    let own = |(name, value): &(String, String)| {
        Some((
            HeaderName::try_from(name.as_str()).ok()?,
            HeaderValue::from_str(value).ok()?,
        ))
    };
    response
        .headers_mut()
        .extend(sim.config.headers.iter().filter_map(own));
    if sim.config.request_id_headers
        && let Some(id) = request_id.and_then(|id| HeaderValue::from_str(id).ok())
    {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
