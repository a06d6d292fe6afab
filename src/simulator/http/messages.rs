//! `/v1/messages`: Anthropic's Messages API, whole or as events (simulator.md §14).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::events::{self, Writer, named};
use super::order::{self, Wish};
use super::{Shared, body, generate, on_purpose, with_headers};
use crate::simulator::api::bounded::Bounded;
use crate::simulator::api::request::Content;
use crate::simulator::api::{Message, Refusal, ToolChoice, Usage};
use crate::simulator::choice::Piece;
use crate::simulator::reply::Reply;
use crate::simulator::server::Simulator;
use crate::simulator::tools::{self, calls::Call};

#[derive(Deserialize)]
struct Ask {
    model: Option<String>,
    max_tokens: Option<i64>,
    messages: Option<Bounded<Message, 16_384>>,
    system: Option<Content>,
    stream: Option<bool>,
    tools: Option<Box<RawValue>>,
    tool_choice: Option<Choose>,
}

#[derive(Deserialize)]
struct Choose {
    r#type: String,
    name: Option<String>,
}

/// Answers a request of the Messages API.
pub async fn answer(State(sim): Shared, request: Request<Body>) -> Response {
    let (head, sent) = request.into_parts();
    match respond(&sim, &head.headers, sent).await {
        Ok((id, response)) => with_headers(&sim, Some(&id), response),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            with_headers(
                &sim,
                None,
                generate::json(status, refusal.anthropic().to_string()),
            )
        }
    }
}

async fn respond(
    sim: &Arc<Simulator>,
    headers: &HeaderMap,
    sent: Body,
) -> Result<(String, Response), Refusal> {
    let ask: Ask = body::read(sim, headers, sent)
        .await?
        .json()
        .map_err(Refusal::unreadable)?;
    on_purpose::check(sim, headers)?;
    let id = sim.next_id(headers.get("x-request-id").and_then(|v| v.to_str().ok()));
    let max_tokens = ask
        .max_tokens
        .ok_or_else(|| Refusal::new(400, "max_tokens: Field required"))?;
    let messages = ask
        .messages
        .ok_or_else(|| Refusal::new(400, "messages: Field required"))?;
    let system = ask.system.map(|content| Message {
        role: Some("system".to_owned()),
        content: Some(content),
        ..Message::default()
    });
    let messages: Vec<Message> = system.into_iter().chain(messages.0).collect();
    let stream = ask.stream.unwrap_or(false);
    let wish = Wish {
        model: ask.model.unwrap_or_default(),
        inputs: vec![generate::of_messages(&messages)],
        max_tokens: Some(max_tokens),
        stream,
        tools: ask
            .tools
            .as_deref()
            .map(|t| tools::offered(t, "custom", "input_schema")),
        tool_choice: ask.tool_choice.map(chosen).transpose()?,
        kind: "messages request",
        ..Wish::default()
    };
    drop(messages);
    let mut order = order::check(sim, id, wish).await?;
    let id = order.id.text.clone();
    let shape = Shape {
        id: format!("msg_{id}"),
        model: order.model.name.clone(),
    };
    if stream {
        let writer = Events {
            shape,
            input_tokens: order.prompt_tokens,
            block: None,
            reason: None,
        };
        return Ok((id, events::respond(sim, order, writer).await?));
    }
    let (choices, usage) = order.whole(sim).await?;
    let Some(choice) = choices.first() else {
        return Err(Refusal::new(500, "no answer was made"));
    };
    let answer = shape.message(
        content(&choice.reply),
        Some(stop_reason(choice.reply.finish_reason)),
        usage,
    );
    Ok((id, generate::json(StatusCode::OK, answer.to_string())))
}

fn chosen(choose: Choose) -> Result<ToolChoice, Refusal> {
    match (choose.r#type.as_str(), choose.name) {
        ("auto", _) => Ok(ToolChoice::Auto),
        ("none", _) => Ok(ToolChoice::None),
        ("any", _) => Ok(ToolChoice::Required),
        ("tool", Some(name)) => Ok(ToolChoice::Named(name)),
        (other, _) => Err(Refusal::new(
            400,
            format!("tool_choice.type must be auto, any, none, or tool with a name, not {other:?}"),
        )),
    }
}

fn stop_reason(finish_reason: &str) -> &'static str {
    match finish_reason {
        "tool_calls" => "tool_use",
        "length" => "max_tokens",
        _ => "end_turn",
    }
}

fn call_block(call: &Call, input: Value) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{:010}", call.number), "name": call.name, "input": input})
}

/// What was said, as blocks.
fn content(reply: &Reply) -> Vec<Value> {
    if reply.calls.is_empty() {
        return vec![json!({"type": "text", "text": reply.text.text()})];
    }
    // Arguments were made as JSON.
    let input = |call: &Call| serde_json::from_str(call.arguments.text()).unwrap_or(Value::Null);
    reply
        .calls
        .iter()
        .map(|call| call_block(call, input(call)))
        .collect()
}

/// What all events of one answer share.
struct Shape {
    id: String,
    model: Arc<str>,
}

impl Shape {
    fn message(&self, content: Vec<Value>, stop_reason: Option<&str>, usage: Usage) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": &*self.model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": null,
            "usage": {
                "input_tokens": usage.prompt, "output_tokens": usage.completion,
                "cache_read_input_tokens": usage.cached.unwrap_or(0), "cache_creation_input_tokens": 0,
            },
        })
    }
}

/// Writes the events.
struct Events {
    shape: Shape,
    input_tokens: usize,
    /// The block that is open.
    block: Option<usize>,
    reason: Option<&'static str>,
}

fn event(out: &mut Vec<u8>, kind: &str, mut data: Value) {
    data["type"] = json!(kind);
    named(out, kind, &data);
}

impl Events {
    /// Opens block `at`, after the message and after closing the one before.
    fn open(&mut self, out: &mut Vec<u8>, at: usize, block: Value) {
        match self.block {
            Some(open) if open == at => return,
            Some(before) => event(out, "content_block_stop", json!({"index": before})),
            None => self.begin(out),
        }
        self.block = Some(at);
        event(
            out,
            "content_block_start",
            json!({"index": at, "content_block": block}),
        );
    }

    fn begin(&self, out: &mut Vec<u8>) {
        let usage = Usage {
            prompt: self.input_tokens,
            ..Usage::default()
        };
        let message = self.shape.message(Vec::new(), None, usage);
        event(out, "message_start", json!({"message": message}));
    }
}

impl Writer for Events {
    fn piece(&mut self, out: &mut Vec<u8>, _: usize, reply: &Reply, piece: &Piece) {
        self.reason = Some(stop_reason(reply.finish_reason));
        match piece {
            Piece::Token(at, _) => {
                self.open(out, 0, json!({"type": "text", "text": ""}));
                let delta = json!({"type": "text_delta", "text": reply.text.get(*at)});
                event(out, "content_block_delta", json!({"index": 0, "delta": delta}));
            }
            Piece::Fragment(number, at, _) => {
                let call = &reply.calls[*number];
                self.open(out, *number, call_block(call, json!({})));
                let delta = json!({"type": "input_json_delta", "partial_json": call.arguments.get(*at)});
                event(
                    out,
                    "content_block_delta",
                    json!({"index": number, "delta": delta}),
                );
            }
            Piece::End(_) => {}
        }
    }

    fn end(&mut self, out: &mut Vec<u8>, usage: Usage) {
        match self.block {
            Some(open) => event(out, "content_block_stop", json!({"index": open})),
            None => self.begin(out),
        }
        let delta = json!({"stop_reason": self.reason.unwrap_or("end_turn"), "stop_sequence": null});
        let usage = json!({"output_tokens": usage.completion});
        event(out, "message_delta", json!({"delta": delta, "usage": usage}));
        event(out, "message_stop", json!({}));
    }

    fn fail(&mut self, out: &mut Vec<u8>, refusal: &Refusal) {
        named(out, "error", &refusal.anthropic());
    }
}
