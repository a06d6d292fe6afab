//! `/v1/completions/render` and `/v1/chat/completions/render`: the prompt as token ids, nothing generated
//! (simulator.md §14). A text request is answered with a list, one entry a prompt; a chat with one object.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, StatusCode};
use axum::response::Response;
use serde::Serialize;

use super::generate::{json, of_messages, of_prompt, refuse};
use super::order::Input;
use super::{body, order, with_headers};
use crate::simulator::api::{Endpoint, Refusal, Request};
use crate::simulator::server::Simulator;

#[derive(Serialize)]
struct Rendered {
    token_ids: Vec<u32>,
    features: Option<()>,
}

/// Renders the prompt of a request.
pub async fn answer(sim: Arc<Simulator>, endpoint: Endpoint, request: HttpRequest<Body>) -> Response {
    let answered = render(&sim, endpoint, request).await;
    with_headers(&sim, None, answered.unwrap_or_else(|refusal| refuse(&refusal)))
}

async fn render(
    sim: &Arc<Simulator>,
    endpoint: Endpoint,
    request: HttpRequest<Body>,
) -> Result<Response, Refusal> {
    let (head, sent) = request.into_parts();
    let request: Request = body::read(sim, &head.headers, sent)
        .await?
        .json()
        .map_err(Refusal::unreadable)?;
    let model = request.model.as_deref().unwrap_or_default();
    sim.asked(model).ok_or_else(|| Refusal::unknown_model(model))?;
    let inputs = match (endpoint, request.prompt, request.messages) {
        (Endpoint::Text, Some(prompt), _) => of_prompt(prompt),
        (Endpoint::Text, None, _) => return Err(Refusal::unreadable("prompt is missing")),
        (Endpoint::Chat, _, messages) => vec![of_messages(&messages.unwrap_or_default().0)],
    };
    let mut all = Vec::with_capacity(inputs.len());
    for input in inputs {
        let token_ids = match input {
            Input::Ids(ids) => ids,
            Input::Text(text) => order::cut(sim, text).await.ids(),
            Input::Messages(messages) => {
                let texts: Vec<&str> = messages.iter().map(|(_, text)| text.as_str()).collect();
                order::cut(sim, texts.join(" ").trim().to_owned()).await.ids()
            }
        };
        all.push(Rendered {
            token_ids,
            features: None,
        });
    }
    let text = match (endpoint, all.first()) {
        (Endpoint::Chat, Some(one)) => serde_json::to_string(one),
        _ => serde_json::to_string(&all),
    };
    // Lists of numbers always have a JSON form.
    Ok(json(StatusCode::OK, text.unwrap_or_default()))
}
