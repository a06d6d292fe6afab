//! `/v1/completions` and `/v1/chat/completions`: from the body to the answer or the events.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request as HttpRequest, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::events::{self, DONE, Writer, frame};
use super::order::{self, Input, Order, Wish};
use super::{body, on_purpose, with_headers};
use crate::base::flags::parse_bool;
use crate::simulator::Compat;
use crate::simulator::api::answer::{Function, LogprobsOf, Part, ToolCall, Whole};
use crate::simulator::api::request::Message;
use crate::simulator::api::{Endpoint, Envelope, Prompt, Refusal, Request, ToolChoice, Usage};
use crate::simulator::choice::{Choice, Piece};
use crate::simulator::logprobs;
use crate::simulator::reply::Reply;
use crate::simulator::server::{Simulator, unix_seconds};
use crate::simulator::tools;

/// Ends a request at once, as if too little of its prompt were cached.
const FORCE_THRESHOLD: &str = "x-cache-threshold-finish-reason";

/// Answers a generating request.
pub async fn answer(sim: Arc<Simulator>, endpoint: Endpoint, request: HttpRequest<Body>) -> Response {
    let (head, body) = request.into_parts();
    let given = head
        .headers
        .get("x-request-id")
        .and_then(|v| v.to_str().ok())
        .filter(|id| !id.is_empty())
        .map(str::to_owned);
    match generate(&sim, endpoint, &head.headers, body, given.as_deref()).await {
        Ok((id, response)) => with_headers(&sim, Some(&id), response),
        Err(refusal) => with_headers(&sim, given.as_deref(), refuse(&refusal)),
    }
}

async fn generate(
    sim: &Arc<Simulator>,
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: Body,
    given: Option<&str>,
) -> Result<(String, Response), Refusal> {
    let whole = body::read(sim, headers, body).await?;
    let request: Request = whole.json().map_err(Refusal::unreadable)?;
    drop(whole);
    on_purpose::check(sim, headers)?;
    let id = sim.next_id(given);
    let stream = request.stream.unwrap_or(false);
    let include_usage = request.include_usage();
    let logprobs = request.logprobs(endpoint);
    let wish = wish(sim, endpoint, headers, request)?;
    let mut order = order::check(sim, id, wish).await?;
    let id = order.id.text.clone();
    let envelope = envelope(sim, endpoint, &order);
    let response = if stream {
        let writer = Pieces {
            envelope,
            logprobs,
            include_usage,
            spoken: Vec::new(),
        };
        events::respond(sim, order, writer).await?
    } else {
        let (choices, usage) = order.whole(sim).await?;
        let choices: Vec<Whole> = choices
            .iter()
            .map(|c| whole_choice(endpoint, c, logprobs))
            .collect();
        json(StatusCode::OK, envelope.answer(&choices, usage))
    };
    Ok((id, response))
}

/// What a request wants.
///
/// # Errors
/// It has no prompt, or a choice of tools that v0.5.0 did not know.
pub fn wish(
    sim: &Simulator,
    endpoint: Endpoint,
    headers: &HeaderMap,
    request: Request,
) -> Result<Wish, Refusal> {
    let v050 = sim.config.compat == Compat::V050;
    let max_tokens = request.limit(endpoint);
    let inputs = match (endpoint, request.prompt, request.messages) {
        (Endpoint::Text, Some(prompt), _) => of_prompt(prompt),
        (Endpoint::Text, None, _) => return Err(Refusal::unreadable("prompt is missing")),
        (Endpoint::Chat, _, messages) => vec![of_messages(&messages.unwrap_or_default().0)],
    };
    let transfer = request.kv_transfer_params.unwrap_or_default();
    let (decode, prefill) = if v050 {
        (request.do_remote_decode, request.do_remote_prefill)
    } else {
        (transfer.do_remote_decode, transfer.do_remote_prefill)
    };
    if v050
        && matches!(
            request.tool_choice,
            Some(ToolChoice::Named(_) | ToolChoice::Custom)
        )
    {
        return Err(Refusal::unreadable("tool_choice must be a string"));
    }
    let tools = request.tools.filter(|_| endpoint == Endpoint::Chat);
    Ok(Wish {
        model: request.model.unwrap_or_default(),
        inputs,
        n: request.n,
        max_tokens,
        ignore_eos: request.ignore_eos.unwrap_or(false),
        stream: request.stream.unwrap_or(false),
        remote_decode: decode.unwrap_or(false),
        remote_prefill: prefill.unwrap_or(false),
        cache_hit_threshold: request.cache_hit_threshold,
        cache_threshold_forced: headers
            .get(FORCE_THRESHOLD)
            .and_then(|v| parse_bool(v.to_str().ok()?))
            .unwrap_or(false),
        tools: tools.map(|raw| tools::read(&raw, sim.config.tools.skip_validation)),
        tool_choice: request.tool_choice,
        max_calls: None,
        kind: "chat completion request",
    })
}

/// The prompts of a text request.
pub fn of_prompt(prompt: Prompt) -> Vec<Input> {
    match prompt {
        Prompt::Text(text) => vec![Input::Text(text)],
        Prompt::Texts(texts) => texts.into_iter().map(Input::Text).collect(),
        Prompt::Ids(ids) => vec![Input::Ids(ids)],
        Prompt::IdLists(lists) => lists.into_iter().map(Input::Ids).collect(),
    }
}

/// The prompt of a chat.
pub fn of_messages(messages: &[Message]) -> Input {
    let pair = |m: &Message| (m.role.clone().unwrap_or_default(), m.text().into_owned());
    Input::Messages(messages.iter().map(pair).collect())
}

fn envelope(sim: &Simulator, endpoint: Endpoint, order: &Order) -> Envelope {
    let prefix = if endpoint == Endpoint::Chat {
        "chatcmpl"
    } else {
        "cmpl"
    };
    Envelope {
        endpoint,
        id: format!("{prefix}-{}", order.id.text),
        created: unix_seconds(),
        model: order.model.name.as_ref().to_owned(),
        hand_over: order.is_remote_decode(),
        flat: sim.config.compat == Compat::V050,
    }
}

/// A finished choice, as it is answered.
fn whole_choice(endpoint: Endpoint, choice: &Choice, wanted: Option<usize>) -> Whole {
    let reply = &choice.reply;
    let call = |(i, call): (usize, &tools::calls::Call)| tool_call(call, i, true, call.arguments.text());
    let wanted = wanted.filter(|_| reply.calls.is_empty() && !reply.text.is_empty());
    Whole {
        index: choice.index,
        finish_reason: reply.finish_reason,
        text: reply.text.text().to_owned(),
        tool_calls: reply.calls.iter().enumerate().map(call).collect(),
        logprobs: wanted.map(|n| logprobs::of(endpoint, reply.text.iter(), 0, 0, n)),
    }
}

fn tool_call(call: &tools::calls::Call, index: usize, name: bool, arguments: &str) -> ToolCall {
    ToolCall {
        function: Function {
            name: name.then(|| call.name.clone()),
            arguments: arguments.to_owned(),
        },
        id: format!("chatcmpl-tool-{:010}", call.number),
        r#type: "function",
        index,
    }
}

/// Writes the events of both endpoints.
struct Pieces {
    envelope: Envelope,
    logprobs: Option<usize>,
    include_usage: bool,
    /// Of every choice that has begun: bytes of text so far.
    spoken: Vec<(usize, usize)>,
}

impl Pieces {
    /// Bytes the choice has said before these; and whether it has said anything, tokens or calls.
    fn count(&mut self, index: usize, bytes: usize) -> (usize, bool) {
        match self.spoken.iter_mut().find(|(i, _)| *i == index) {
            Some((_, so_far)) => {
                *so_far += bytes;
                (*so_far - bytes, false)
            }
            None => {
                self.spoken.push((index, bytes));
                (0, true)
            }
        }
    }

    fn logprobs(&self, token: &str, at: usize, offset: usize) -> Option<LogprobsOf> {
        let tokens = std::iter::once(token);
        self.logprobs
            .map(|n| logprobs::of(self.envelope.endpoint, tokens, at, offset, n))
    }
}

impl Writer for Pieces {
    fn piece(&mut self, out: &mut Vec<u8>, index: usize, reply: &Reply, piece: &Piece) {
        let mut part = Part {
            index,
            ..Part::default()
        };
        let mut first = false;
        match piece {
            Piece::Token(at, reason) => {
                let token = reply.text.get(*at);
                let offset;
                (offset, first) = self.count(index, token.len());
                part.logprobs = self.logprobs(token, *at, offset);
                part.text = token;
                part.finish_reason = *reason;
            }
            Piece::Fragment(number, at, last) => {
                (_, first) = self.count(index, 0);
                let call = &reply.calls[*number];
                part.tool_call = Some(tool_call(call, *number, *at == 0, call.arguments.get(*at)));
                part.finish_reason = last.then_some(reply.finish_reason);
            }
            Piece::End(reason) => part.finish_reason = Some(reason),
        }
        if first && self.envelope.endpoint == Endpoint::Chat {
            let role = Part {
                index,
                role: true,
                ..Part::default()
            };
            frame(out, &self.envelope.part(&role));
        }
        frame(out, &self.envelope.part(&part));
    }

    fn end(&mut self, out: &mut Vec<u8>, usage: Usage) {
        if self.include_usage {
            frame(out, &self.envelope.usage(usage));
        }
        out.extend_from_slice(DONE);
    }

    fn fail(&mut self, out: &mut Vec<u8>, refusal: &Refusal) {
        frame(out, &refusal.body());
        out.extend_from_slice(DONE);
    }
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The answer to a refused request.
pub fn refuse(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, refusal.json());
    if refusal.status == 408 || refusal.status == 413 {
        // What is left of the body would be taken for the next request.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
