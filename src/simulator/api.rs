//! What the simulator reads and writes: requests, answers, events and errors, as vLLM shapes them
//! (simulator.md §3, §4).

use serde::Deserialize;
use serde_json::{Value, json};

/// Which of the two generating endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`.
    Text,
    /// `/v1/chat/completions`.
    Chat,
}

/// A generating request; fields that are not here are accepted and ignored.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Request {
    /// Model or adapter.
    #[serde(default)]
    pub model: String,
    /// Answer as events.
    #[serde(default)]
    pub stream: bool,
    /// Options of the stream.
    pub stream_options: Option<StreamOptions>,
    /// Limit of generated tokens.
    pub max_tokens: Option<i64>,
    /// The same, for chat; wins.
    pub max_completion_tokens: Option<i64>,
    /// Generate exactly the limit.
    #[serde(default)]
    pub ignore_eos: bool,
    /// Prompt of a text completion.
    #[serde(default)]
    pub prompt: Value,
    /// Messages of a chat.
    #[serde(default)]
    pub messages: Vec<Message>,
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// Send usage in a last event.
    #[serde(default)]
    pub include_usage: bool,
}

/// A chat message.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Message {
    /// Text, or a list of blocks.
    #[serde(default)]
    pub content: Value,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => {
                let texts = blocks
                    .iter()
                    .filter_map(|b| b.get("text").and_then(Value::as_str));
                texts.collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        }
    }
}

impl Request {
    /// The prompt's text; lists of strings or token ids as their parts joined.
    ///
    /// # Errors
    /// The prompt is of no known form.
    pub fn prompt_text(&self, endpoint: Endpoint) -> Result<String, String> {
        if endpoint == Endpoint::Chat {
            return Ok(self
                .messages
                .iter()
                .map(Message::text)
                .collect::<Vec<_>>()
                .join(" ")
                .trim()
                .to_owned());
        }
        match &self.prompt {
            Value::String(text) => Ok(text.clone()),
            Value::Array(parts) => {
                let part = |p: &Value| match p {
                    Value::String(s) => Ok(s.clone()),
                    Value::Number(n) => Ok(format!("{n} ")),
                    _ => Err("prompt must be a string, or a list of strings or token ids".to_owned()),
                };
                parts.iter().map(part).collect()
            }
            _ => Err("prompt must be a string, or a list of strings or token ids".to_owned()),
        }
    }

    /// The limit of generated tokens, as given.
    pub fn limit(&self, endpoint: Endpoint) -> Option<i64> {
        if endpoint == Endpoint::Chat {
            self.max_completion_tokens.or(self.max_tokens)
        } else {
            self.max_tokens
        }
    }

    /// Is a last event with usage wanted?
    pub fn include_usage(&self) -> bool {
        self.stream_options.is_some_and(|o| o.include_usage)
    }
}

/// Tokens of one exchange.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt: usize,
    /// Generated tokens.
    pub completion: usize,
    /// Prompt tokens found in the cache; `None` without a cache.
    pub cached: Option<usize>,
}

impl Usage {
    fn json(self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        });
        if let Some(cached) = self.cached {
            usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
        }
        usage
    }
}

/// What all parts of one answer share.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Endpoint.
    pub endpoint: Endpoint,
    /// `cmpl-…` or `chatcmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// Model, as answered.
    pub model: String,
}

impl Envelope {
    /// The whole answer.
    pub fn answer(&self, text: &str, finish_reason: &str, usage: Usage) -> Value {
        let choice = match self.endpoint {
            Endpoint::Chat => json!({
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
            }),
            Endpoint::Text => json!({"index": 0, "text": text, "finish_reason": finish_reason}),
        };
        let mut answer = self.base(false, vec![choice]);
        answer["usage"] = usage.json();
        answer
    }

    /// An event with a piece of text. The first event of a chat says who speaks.
    pub fn piece(&self, text: &str, first: bool, finish_reason: Option<&str>) -> Value {
        let choice = match self.endpoint {
            Endpoint::Chat => {
                let mut delta = json!({"content": text});
                if first {
                    delta["role"] = json!("assistant");
                }
                json!({"index": 0, "delta": delta, "finish_reason": finish_reason})
            }
            Endpoint::Text => json!({"index": 0, "text": text, "finish_reason": finish_reason}),
        };
        let mut event = self.base(true, vec![choice]);
        event["usage"] = Value::Null;
        event
    }

    /// The event that carries usage.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut event = self.base(true, Vec::new());
        event["usage"] = usage.json();
        event
    }

    fn base(&self, event: bool, choices: Vec<Value>) -> Value {
        let object = match (self.endpoint, event) {
            (Endpoint::Text, _) => "text_completion",
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Chat, true) => "chat.completion.chunk",
        };
        json!({"id": self.id, "created": self.created, "model": self.model, "object": object, "choices": choices})
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What is wrong.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Refusal {
            status,
            message: message.into(),
        }
    }

    /// The error body.
    pub fn json(&self) -> Value {
        let kind = match self.status {
            400 | 413 => "BadRequestError",
            401 => "AuthenticationError",
            403 => "PermissionDeniedError",
            404 => "NotFoundError",
            422 => "UnprocessableEntityError",
            429 => "RateLimitError",
            500.. => "InternalServerError",
            _ => "APIConnectionError",
        };
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.status}})
    }
}
