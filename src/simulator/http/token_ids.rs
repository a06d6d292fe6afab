//! `/inference/v1/generate`: token ids in, token ids out (simulator.md §14).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::events::{self, DONE, Writer, frame};
use super::generate::{json, refuse};
use super::order::{self, Input, Wish};
use super::{Shared, body, on_purpose, with_headers};
use crate::simulator::api::bounded::Bounded;
use crate::simulator::api::{Refusal, Usage};
use crate::simulator::choice::Piece;
use crate::simulator::reply::Reply;
use crate::simulator::server::Simulator;

#[derive(Deserialize)]
struct Ask {
    model: Option<String>,
    request_id: Option<String>,
    token_ids: Option<Bounded<u32, { 4 << 20 }>>,
    sampling_params: Option<Sampling>,
    stream: Option<bool>,
}

#[derive(Deserialize)]
struct Sampling {
    max_tokens: Option<i64>,
    ignore_eos: Option<bool>,
    n: Option<i64>,
}

#[derive(Serialize)]
struct Answer<'a> {
    choices: Vec<Choice>,
    request_id: &'a str,
    ec_transfer_params: Option<()>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    finish_reason: Option<&'static str>,
    token_ids: Vec<u32>,
}

/// Generates from token ids.
pub async fn answer(State(sim): Shared, request: Request<Body>) -> Response {
    let (head, sent) = request.into_parts();
    match generate(&sim, &head.headers, sent).await {
        Ok((id, response)) => with_headers(&sim, Some(&id), response),
        Err(refusal) => with_headers(&sim, None, refuse(&refusal)),
    }
}

async fn generate(
    sim: &Arc<Simulator>,
    headers: &HeaderMap,
    sent: Body,
) -> Result<(String, Response), Refusal> {
    let ask: Ask = body::read(sim, headers, sent)
        .await?
        .json()
        .map_err(Refusal::unreadable)?;
    on_purpose::check(sim, headers)?;
    let token_ids = ask
        .token_ids
        .ok_or_else(|| Refusal::unreadable("token_ids is missing"))?;
    let sampling = ask
        .sampling_params
        .ok_or_else(|| Refusal::unreadable("sampling_params is missing"))?;
    let stream = ask.stream.unwrap_or(false);
    let mut id = sim.next_id(headers.get("x-request-id").and_then(|v| v.to_str().ok()));
    if let Some(given) = ask.request_id.filter(|given| !given.is_empty()) {
        id.text = given;
    }
    let wish = Wish {
        model: ask.model.unwrap_or_else(|| sim.first_name().to_owned()),
        inputs: vec![Input::Ids(token_ids.0)],
        n: sampling.n,
        max_tokens: sampling.max_tokens,
        ignore_eos: sampling.ignore_eos.unwrap_or(false),
        stream,
        ..Wish::default()
    };
    let mut order = order::check(sim, id, wish).await?;
    let id = order.id.text.clone();
    if stream {
        let writer = Ids { id: id.clone() };
        return Ok((id, events::respond(sim, order, writer).await?));
    }
    let (choices, _) = order.whole(sim).await?;
    let choices = choices.iter().map(|c| Choice {
        index: c.index,
        finish_reason: Some(c.reply.finish_reason),
        token_ids: c.reply.text.ids(),
    });
    // Structs of texts and numbers always have a JSON form.
    let text = serde_json::to_string(&answered(&id, choices.collect())).unwrap_or_default();
    Ok((id, json(StatusCode::OK, text)))
}

fn answered(request_id: &str, choices: Vec<Choice>) -> Answer<'_> {
    Answer {
        choices,
        request_id,
        ec_transfer_params: None,
    }
}

/// Writes the events.
struct Ids {
    id: String,
}

impl Writer for Ids {
    fn piece(&mut self, out: &mut Vec<u8>, index: usize, reply: &Reply, piece: &Piece) {
        let (token_ids, finish_reason) = match piece {
            Piece::Token(at, reason) => (reply.text.id(*at).into_iter().collect(), *reason),
            Piece::Fragment(..) => return,
            Piece::End(reason) => (Vec::new(), Some(*reason)),
        };
        let choice = Choice {
            index,
            finish_reason,
            token_ids,
        };
        frame(out, &answered(&self.id, vec![choice]));
    }

    fn end(&mut self, out: &mut Vec<u8>, _: Usage) {
        out.extend_from_slice(DONE);
    }

    fn fail(&mut self, out: &mut Vec<u8>, refusal: &Refusal) {
        frame(out, &refusal.body());
        out.extend_from_slice(DONE);
    }
}
