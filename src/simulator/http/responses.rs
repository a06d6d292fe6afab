//! `/v1/responses`: OpenAI's Responses API, whole or as events (simulator.md §14). At most one call of a tool.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::events::{self, Writer, named};
use super::generate::refuse;
use super::order::{self, Input, Wish};
use super::{Shared, body, generate, on_purpose, with_headers};
use crate::simulator::api::bounded::Bounded;
use crate::simulator::api::{Message, Refusal, ToolChoice, Usage};
use crate::simulator::choice::Piece;
use crate::simulator::reply::Reply;
use crate::simulator::server::{Simulator, unix_seconds};
use crate::simulator::tools;

#[derive(Deserialize)]
struct Ask {
    model: Option<String>,
    input: Option<Said>,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    stream: Option<bool>,
    tools: Option<Box<RawValue>>,
    tool_choice: Option<ToolChoice>,
}

/// `input`: a text, or messages among other items, which count for nothing.
struct Said(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = Said;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("input as a string or a list of items")
            }

            fn visit_str<E>(self, text: &str) -> Result<Said, E> {
                Ok(Said(vec![("user".to_owned(), text.to_owned())]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Said, A::Error> {
                let messages = Bounded::<Message, 16_384>::gather(Vec::new(), list)?.0;
                let said = messages.iter().filter(|m| m.content.is_some());
                let pair = |m: &Message| (m.role.clone().unwrap_or_default(), m.text().into_owned());
                Ok(Said(said.map(pair).collect()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Answers a request of the Responses API.
pub async fn answer(State(sim): Shared, request: Request<Body>) -> Response {
    let (head, sent) = request.into_parts();
    match respond(&sim, &head.headers, sent).await {
        Ok((id, response)) => with_headers(&sim, Some(&id), response),
        Err(refusal) => with_headers(&sim, None, refuse(&refusal)),
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
    let input = ask.input.ok_or_else(|| Refusal::unreadable("input is missing"))?;
    let system = ask.instructions.clone().map(|text| ("system".to_owned(), text));
    let stream = ask.stream.unwrap_or(false);
    let wish = Wish {
        model: ask.model.unwrap_or_default(),
        inputs: vec![Input::Messages(system.into_iter().chain(input.0).collect())],
        max_tokens: ask.max_output_tokens,
        stream,
        tools: ask
            .tools
            .as_deref()
            .map(|t| tools::offered(t, "function", "parameters")),
        tool_choice: ask.tool_choice,
        max_calls: Some(1),
        kind: "responses create request",
        ..Wish::default()
    };
    let mut order = order::check(sim, id, wish).await?;
    let id = order.id.text.clone();
    let shape = Shape {
        id: id.clone(),
        created: unix_seconds(),
        model: order.model.name.clone(),
        instructions: ask.instructions,
        max_output_tokens: ask.max_output_tokens,
    };
    if stream {
        let writer = Events {
            shape,
            number: 0,
            reply: None,
        };
        return Ok((id, events::respond(sim, order, writer).await?));
    }
    let (choices, usage) = order.whole(sim).await?;
    let output = choices
        .first()
        .map(|c| shape.item(&c.reply, true))
        .into_iter()
        .collect();
    let reason = choices.first().map_or("stop", |c| c.reply.finish_reason);
    let answer = shape.response(output, Some(reason), Some(usage));
    Ok((id, generate::json(StatusCode::OK, answer.to_string())))
}

/// What all events of one answer share.
struct Shape {
    id: String,
    created: u64,
    model: Arc<str>,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
}

impl Shape {
    fn response(&self, output: Vec<Value>, ended: Option<&str>, usage: Option<Usage>) -> Value {
        let (status, details) = match ended {
            None => ("in_progress", Value::Null),
            Some("length") => ("incomplete", json!({"reason": "max_output_tokens"})),
            Some(_) => ("completed", Value::Null),
        };
        let usage = usage.map(|u| {
            json!({
                "input_tokens": u.prompt,
                "input_tokens_details": {"cached_tokens": u.cached.unwrap_or(0)},
                "output_tokens": u.completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": u.prompt + u.completion,
            })
        });
        json!({
            "id": format!("resp_{}", self.id), "object": "response", "created_at": self.created, "status": status,
            "error": null, "incomplete_details": details, "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens, "model": &*self.model, "output": output,
            "parallel_tool_calls": false, "previous_response_id": null, "store": false, "temperature": 1.0,
            "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
            "truncation": "disabled", "usage": usage, "metadata": {},
        })
    }

    /// The message or the call; `done`: with what it says.
    fn item(&self, reply: &Reply, done: bool) -> Value {
        let status = match (done, reply.finish_reason) {
            (false, _) => "in_progress",
            (true, "length") => "incomplete",
            (true, _) => "completed",
        };
        match reply.calls.first() {
            Some(call) => json!({
                "type": "function_call", "id": format!("fc_{:010}", call.number),
                "call_id": format!("call_{:010}", call.number), "name": call.name, "status": status,
                "arguments": if done { call.arguments.text() } else { "" },
            }),
            None => json!({
                "type": "message", "id": self.message_id(), "status": status, "role": "assistant",
                "content": if done { vec![text_part(reply.text.text())] } else { Vec::new() },
            }),
        }
    }

    fn message_id(&self) -> String {
        format!("msg_{}", self.id)
    }
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// Writes the events.
struct Events {
    shape: Shape,
    number: u64,
    /// What is said, since its first piece.
    reply: Option<Reply>,
}

impl Events {
    fn event(&mut self, out: &mut Vec<u8>, kind: &str, mut data: Value) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.number);
        self.number += 1;
        named(out, kind, &data);
    }

    fn begin(&mut self, out: &mut Vec<u8>, reply: &Reply) {
        self.reply = Some(reply.clone());
        let empty = self.shape.response(Vec::new(), None, None);
        let item = self.shape.item(reply, false);
        self.event(out, "response.created", json!({"response": empty.clone()}));
        self.event(out, "response.in_progress", json!({"response": empty}));
        self.event(
            out,
            "response.output_item.added",
            json!({"output_index": 0, "item": item}),
        );
        if reply.calls.is_empty() {
            let data = with(self.place(reply), "part", text_part(""));
            self.event(out, "response.content_part.added", data);
        }
    }

    /// Where a piece belongs.
    fn place(&self, reply: &Reply) -> Value {
        match reply.calls.first() {
            Some(call) => json!({"item_id": format!("fc_{:010}", call.number), "output_index": 0}),
            None => json!({"item_id": self.shape.message_id(), "output_index": 0, "content_index": 0}),
        }
    }
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

impl Writer for Events {
    fn piece(&mut self, out: &mut Vec<u8>, _: usize, reply: &Reply, piece: &Piece) {
        if self.reply.is_none() {
            self.begin(out, reply);
        }
        let place = self.place(reply);
        match piece {
            Piece::Token(at, _) => {
                let mut data = with(place, "delta", json!(reply.text.get(*at)));
                data["logprobs"] = json!([]);
                self.event(out, "response.output_text.delta", data);
            }
            Piece::Fragment(call, at, _) => {
                let delta = json!(reply.calls[*call].arguments.get(*at));
                let data = with(place, "delta", delta);
                self.event(out, "response.function_call_arguments.delta", data);
            }
            Piece::End(_) => {}
        }
    }

    fn end(&mut self, out: &mut Vec<u8>, usage: Usage) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        let place = self.place(&reply);
        match reply.calls.first() {
            Some(call) => {
                let mut data = with(place, "arguments", json!(call.arguments.text()));
                data["name"] = json!(call.name);
                self.event(out, "response.function_call_arguments.done", data);
            }
            None => {
                let mut data = with(place.clone(), "text", json!(reply.text.text()));
                data["logprobs"] = json!([]);
                self.event(out, "response.output_text.done", data);
                let part = with(place, "part", text_part(reply.text.text()));
                self.event(out, "response.content_part.done", part);
            }
        }
        let item = self.shape.item(&reply, true);
        self.event(
            out,
            "response.output_item.done",
            json!({"output_index": 0, "item": item.clone()}),
        );
        let kind = if reply.finish_reason == "length" {
            "response.incomplete"
        } else {
            "response.completed"
        };
        let whole = self
            .shape
            .response(vec![item], Some(reply.finish_reason), Some(usage));
        self.event(out, kind, json!({"response": whole}));
    }

    fn fail(&mut self, out: &mut Vec<u8>, refusal: &Refusal) {
        let data = json!({"code": refusal.kind(), "message": refusal.message, "param": null});
        self.event(out, "error", data);
    }
}
