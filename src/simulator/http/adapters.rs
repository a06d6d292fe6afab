//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter` (simulator.md §2.2).

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Shared;
use super::body;
use super::generate::refuse;
use crate::simulator::api::Refusal;

#[derive(Deserialize)]
struct Adapter {
    lora_name: String,
}

/// Makes an adapter known.
pub async fn load(State(sim): Shared, request: Request<Body>) -> Response {
    let adapter = match read(&sim, request, "load").await {
        Ok(adapter) => adapter,
        Err(refused) => return refused,
    };
    match sim.load_adapter(&adapter.lora_name) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(text) => refuse(&Refusal::new(400, text)),
    }
}

/// Forgets an adapter; one that nobody knows is forgotten already.
pub async fn unload(State(sim): Shared, request: Request<Body>) -> Response {
    match read(&sim, request, "unload").await {
        Ok(adapter) => {
            sim.unload_adapter(&adapter.lora_name);
            StatusCode::OK.into_response()
        }
        Err(refused) => refused,
    }
}

async fn read(
    sim: &crate::simulator::server::Simulator,
    request: Request<Body>,
    what: &str,
) -> Result<Adapter, Response> {
    let (head, sent) = request.into_parts();
    let whole = body::read(sim, &head.headers, sent)
        .await
        .map_err(|r| refuse(&r))?;
    whole.json().map_err(|e| {
        let text = format!("failed to read and parse {what} lora request body, {e}");
        (StatusCode::BAD_REQUEST, text).into_response()
    })
}
