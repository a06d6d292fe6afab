//! `/tokenize` (simulator.md §2.3).

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::generate::{json, refuse};
use super::{Shared, body, order};
use crate::simulator::api::Refusal;
use crate::simulator::api::bounded::Bounded;
use crate::simulator::api::request::{Message, joined};

#[derive(Deserialize)]
struct Ask {
    prompt: Option<String>,
    messages: Option<Bounded<Message, 16_384>>,
}

#[derive(Serialize)]
struct Cut {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// Cuts a prompt or the messages of a chat, joined.
pub async fn answer(State(sim): Shared, request: Request<Body>) -> Response {
    let (head, sent) = request.into_parts();
    let whole = match body::read(&sim, &head.headers, sent).await {
        Ok(whole) => whole,
        Err(refusal) => return refuse(&refusal),
    };
    let ask: Ask = match whole.json() {
        Ok(ask) => ask,
        Err(e) => {
            let text = format!("Failed to read and parse tokenize request body, {e}");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    drop(whole);
    let text = match (ask.prompt, ask.messages) {
        (Some(_), Some(_)) => {
            let text = "both prompt and messages fields in tokenize request";
            return refuse(&Refusal::new(400, text));
        }
        (Some(prompt), None) => prompt,
        (None, messages) => joined(&messages.unwrap_or_default().0),
    };
    let tokens = order::cut(&sim, text).await;
    let cut = Cut {
        count: tokens.len(),
        max_model_len: sim.config.max_model_len,
        tokens: tokens.ids(),
        token_strs: None,
    };
    // A struct of numbers always has a JSON form.
    json(StatusCode::OK, serde_json::to_string(&cut).unwrap_or_default())
}
