//! The shapes of answers and events (simulator.md §4), keys in the order of the reference. Structs and no
//! `Value`: the order of keys is theirs, and an event costs no map.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use uuid::Uuid;

use super::Endpoint;

/// Alternatives for each token at most, as OpenAI has it.
pub const MAX_LOGPROBS: usize = 20;

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

impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Details {
            cached_tokens: usize,
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("prompt_tokens", &self.prompt)?;
        map.serialize_entry("completion_tokens", &self.completion)?;
        map.serialize_entry("total_tokens", &(self.prompt + self.completion))?;
        if let Some(cached_tokens) = self.cached {
            map.serialize_entry("prompt_tokens_details", &Details { cached_tokens })?;
        }
        map.end()
    }
}

/// What the prefill half tells the decode half.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KvHandOver {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    remote_engine_id: &'static str,
    remote_block_ids: [&'static str; 1],
    remote_host: &'static str,
    remote_port: u16,
    tp_size: u32,
}

/// The values the reference answers with; nobody reads more than their presence.
const HAND_OVER: KvHandOver = KvHandOver {
    do_remote_decode: false,
    do_remote_prefill: true,
    remote_engine_id: "DUMMY_ID",
    remote_block_ids: ["DUMMY_ID"],
    remote_host: "DUMMY",
    remote_port: 1234,
    tp_size: 1,
};

impl KvHandOver {
    /// As JSON.
    pub fn json() -> String {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_string(&HAND_OVER).unwrap_or_default()
    }

    /// Host and port.
    pub fn address() -> (&'static str, u16) {
        (HAND_OVER.remote_host, HAND_OVER.remote_port)
    }
}

/// The same as v0.5.0 has it, among the top-level keys.
#[derive(Clone, Copy, Debug, Serialize)]
struct FlatHandOver {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    remote_block_ids: Option<[&'static str; 1]>,
    remote_engine_id: &'static str,
    remote_host: &'static str,
    remote_port: u16,
}

const FLAT_HAND_OVER: FlatHandOver = FlatHandOver {
    do_remote_decode: true,
    do_remote_prefill: false,
    remote_block_ids: Some(["DUMMY_ID"]),
    remote_engine_id: "DUMMY_ID",
    remote_host: "DUMMY",
    remote_port: 1234,
};

/// The same where nothing is handed over: v0.5.0 writes the fields in any case.
const NO_FLAT_HAND_OVER: FlatHandOver = FlatHandOver {
    do_remote_decode: false,
    do_remote_prefill: false,
    remote_block_ids: None,
    remote_engine_id: "",
    remote_host: "",
    remote_port: 0,
};

/// A call of a tool, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToolCall {
    /// What is called.
    pub function: Function,
    /// Id of the call.
    pub id: String,
    /// `function`.
    pub r#type: &'static str,
    /// Number of the call, from 0.
    pub index: usize,
}

/// The function of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Name; `null` in all fragments but the first.
    pub name: Option<String>,
    /// Arguments as JSON text, or a part of it.
    pub arguments: String,
}

/// Log-probabilities of a chat's tokens.
#[derive(Clone, Debug, Serialize)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatLogprob>,
}

/// Log-probability of one token and its alternatives.
#[derive(Clone, Debug, Serialize)]
pub struct ChatLogprob {
    /// The token.
    pub token: String,
    /// Its log-probability.
    pub logprob: f64,
    /// Its UTF-8 bytes.
    pub bytes: Vec<u8>,
    /// The alternatives, the token itself first; left out of an alternative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<ChatLogprob>>,
}

/// Log-probabilities of a text's tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TextLogprobs {
    /// The tokens.
    pub tokens: Vec<String>,
    /// Their log-probabilities.
    pub token_logprobs: Vec<f64>,
    /// The alternatives of each.
    pub top_logprobs: Vec<Alternatives>,
    /// Where each token begins, bytes.
    pub text_offset: Vec<usize>,
}

/// Alternatives of one token, as an object in this order.
#[derive(Clone, Debug)]
pub struct Alternatives(pub Vec<(String, f64)>);

impl Serialize for Alternatives {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, p)| (token, p)))
    }
}

/// Log-probabilities of either endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum LogprobsOf {
    /// Of a chat.
    Chat(ChatLogprobs),
    /// Of a text.
    Text(TextLogprobs),
}

/// One finished choice.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Number of the choice.
    pub index: usize,
    /// Why it ended.
    pub finish_reason: &'static str,
    /// What was said.
    pub text: String,
    /// What was called.
    pub tool_calls: Vec<ToolCall>,
    /// Log-probabilities, where wanted.
    pub logprobs: Option<LogprobsOf>,
}

/// One part of a choice.
#[derive(Clone, Debug, Default)]
pub struct Part<'a> {
    /// Number of the choice.
    pub index: usize,
    /// Why it ended, if it has.
    pub finish_reason: Option<&'static str>,
    /// Says who speaks.
    pub role: bool,
    /// What is said.
    pub text: &'a str,
    /// What is called.
    pub tool_call: Option<ToolCall>,
    /// Log-probabilities, where wanted.
    pub logprobs: Option<LogprobsOf>,
}

#[derive(Serialize)]
struct Speech<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [ToolCall],
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Speech<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Speech<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a LogprobsOf>,
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
    /// This is the prefill half: say how to go on.
    pub hand_over: bool,
    /// Shapes of v0.5.0: the hand-over among the top-level keys, a new id for every event.
    pub flat: bool,
}

#[derive(Serialize)]
struct Document<'a, Choices> {
    id: Cow<'a, str>,
    created: u64,
    model: &'a str,
    usage: Option<Usage>,
    object: &'static str,
    /// Left out where v0.5.0 has its fields among the top-level keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_transfer_params: Option<Option<KvHandOver>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    flat: Option<FlatHandOver>,
    choices: Choices,
}

impl Envelope {
    /// The whole answer, as JSON.
    pub fn answer(&self, choices: &[Whole], usage: Usage) -> String {
        let chat = self.endpoint == Endpoint::Chat;
        let choices: Vec<Choice> = choices
            .iter()
            .map(|c| Choice {
                index: c.index,
                finish_reason: Some(c.finish_reason),
                message: chat.then(|| Speech {
                    role: Some("assistant"),
                    content: &c.text,
                    tool_calls: &c.tool_calls,
                }),
                delta: None,
                text: (!chat).then_some(&c.text),
                logprobs: c.logprobs.as_ref(),
            })
            .collect();
        // Structs of texts and finite numbers always have a JSON form.
        serde_json::to_string(&self.document(false, choices, Some(usage))).unwrap_or_default()
    }

    /// An event with a part of a choice.
    pub fn part<'a>(&'a self, part: &'a Part<'a>) -> impl Serialize + 'a {
        let chat = self.endpoint == Endpoint::Chat;
        let choice = Choice {
            index: part.index,
            finish_reason: part.finish_reason,
            message: None,
            delta: chat.then(|| Speech {
                role: part.role.then_some("assistant"),
                content: part.text,
                tool_calls: part.tool_call.as_slice(),
            }),
            text: (!chat).then_some(part.text),
            logprobs: part.logprobs.as_ref(),
        };
        self.document(true, [choice], None)
    }

    /// The event that carries usage.
    pub fn usage(&self, usage: Usage) -> impl Serialize + '_ {
        self.document(true, [(); 0], Some(usage))
    }

    fn document<Choices: Serialize>(
        &self,
        event: bool,
        choices: Choices,
        usage: Option<Usage>,
    ) -> Document<'_, Choices> {
        let object = match (self.endpoint, event) {
            (Endpoint::Text, _) => "text_completion",
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Chat, true) => "chat.completion.chunk",
        };
        // v0.5.0 gives every event an id of its own, whatever the endpoint.
        let id = match self.flat {
            true => Cow::Owned(format!("chatcmpl-{}", Uuid::new_v4())),
            false => Cow::Borrowed(self.id.as_str()),
        };
        Document {
            id,
            created: self.created,
            model: &self.model,
            usage,
            object,
            kv_transfer_params: (!self.flat).then(|| self.hand_over.then_some(HAND_OVER)),
            flat: self.flat.then_some(match self.hand_over {
                true => FLAT_HAND_OVER,
                false => NO_FLAT_HAND_OVER,
            }),
            choices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(endpoint: Endpoint) -> Envelope {
        Envelope {
            endpoint,
            id: "x".into(),
            created: 7,
            model: "m".into(),
            hand_over: false,
            flat: false,
        }
    }

    fn whole() -> Whole {
        Whole {
            index: 0,
            finish_reason: "stop",
            text: "hi".into(),
            tool_calls: Vec::new(),
            logprobs: None,
        }
    }

    fn text(event: impl Serialize) -> String {
        serde_json::to_string(&event).unwrap()
    }

    const USAGE: Usage = Usage {
        prompt: 2,
        completion: 1,
        cached: None,
    };

    #[test]
    fn keys_stand_in_the_order_of_the_reference() {
        assert_eq!(
            envelope(Endpoint::Chat).answer(&[whole()], USAGE),
            r#"{"id":"x","created":7,"model":"m","usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3},"object":"chat.completion","kv_transfer_params":null,"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hi"}}]}"#
        );
        assert_eq!(
            envelope(Endpoint::Text).answer(&[whole()], USAGE),
            r#"{"id":"x","created":7,"model":"m","usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3},"object":"text_completion","kv_transfer_params":null,"choices":[{"index":0,"finish_reason":"stop","text":"hi"}]}"#
        );
    }

    #[test]
    fn an_event_has_one_choice_and_a_usage_event_none() {
        let part = Part {
            role: true,
            ..Part::default()
        };
        assert_eq!(
            text(envelope(Endpoint::Chat).part(&part)),
            r#"{"id":"x","created":7,"model":"m","usage":null,"object":"chat.completion.chunk","kv_transfer_params":null,"choices":[{"index":0,"finish_reason":null,"delta":{"role":"assistant","content":""}}]}"#
        );
        assert_eq!(
            text(envelope(Endpoint::Text).usage(USAGE)),
            r#"{"id":"x","created":7,"model":"m","usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3},"object":"text_completion","kv_transfer_params":null,"choices":[]}"#
        );
    }

    #[test]
    fn the_prefill_half_says_how_to_go_on() {
        let nested = Envelope {
            hand_over: true,
            ..envelope(Endpoint::Text)
        };
        let text = nested.answer(&[whole()], USAGE);
        let expected = r#""kv_transfer_params":{"do_remote_decode":false,"do_remote_prefill":true,"remote_engine_id":"DUMMY_ID","remote_block_ids":["DUMMY_ID"],"remote_host":"DUMMY","remote_port":1234,"tp_size":1},"#;
        assert!(text.contains(expected), "{text}");
        let flat = Envelope { flat: true, ..nested };
        let text = flat.answer(&[whole()], USAGE);
        assert!(!text.contains("kv_transfer_params"), "{text}");
        assert!(
            text.contains(r#""do_remote_decode":true,"do_remote_prefill":false,"#),
            "{text}"
        );
        let none = Envelope {
            hand_over: false,
            ..flat
        };
        let expected = r#""do_remote_decode":false,"do_remote_prefill":false,"remote_block_ids":null,"remote_engine_id":"","remote_host":"","remote_port":0,"choices""#;
        for text in [none.answer(&[whole()], USAGE), self::text(none.usage(USAGE))] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
