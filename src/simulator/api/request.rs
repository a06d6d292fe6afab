//! The fields of a generating request that mean something here; all others are accepted and ignored.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Endpoint;
use super::bounded::Bounded;

/// Messages of a chat at most.
const MAX_MESSAGES: usize = 16_384;
/// Blocks of a message at most.
const MAX_PARTS: usize = 16_384;
/// Prompts of one request at most.
const MAX_PROMPTS: usize = 2_048;
/// Token ids of one prompt at most.
const MAX_IDS: usize = 4 << 20;
/// Calls a message recalls at most.
const MAX_CALLS: usize = 1_024;

/// A generating request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Request {
    /// Model or adapter.
    #[serde(default)]
    pub model: Option<String>,
    /// Answer as events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Options of the stream.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// Limit of generated tokens.
    #[serde(default)]
    pub max_tokens: Option<i64>,
    /// The same, for chat; wins.
    #[serde(default)]
    pub max_completion_tokens: Option<i64>,
    /// Generate exactly the limit.
    #[serde(default)]
    pub ignore_eos: Option<bool>,
    /// Answers wanted for each prompt.
    #[serde(default)]
    pub n: Option<i64>,
    /// Prompt of a text completion.
    #[serde(default)]
    pub prompt: Option<Prompt>,
    /// Messages of a chat.
    #[serde(default)]
    pub messages: Option<Bounded<Message, MAX_MESSAGES>>,
    /// Tools of a chat, as they stand in the body.
    #[serde(default)]
    pub tools: Option<Box<RawValue>>,
    /// Which tools to call.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Log-probabilities: yes or no for a chat, how many for a text.
    #[serde(default)]
    pub logprobs: Option<Logprobs>,
    /// Alternatives of a chat's log-probabilities.
    #[serde(default)]
    pub top_logprobs: Option<i64>,
    /// Prefill and decode apart.
    #[serde(default)]
    pub kv_transfer_params: Option<KvTransfer>,
    /// The same at top level, as v0.5.0 has it.
    #[serde(default)]
    pub do_remote_decode: Option<bool>,
    /// The same at top level, as v0.5.0 has it.
    #[serde(default)]
    pub do_remote_prefill: Option<bool>,
    /// Least cache hit rate to go on with, 0..=1.
    #[serde(default)]
    pub cache_hit_threshold: Option<f64>,
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// Send usage in a last event.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// Prefill and decode apart: who is to do the other half.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct KvTransfer {
    /// This is the prefill half.
    #[serde(default)]
    pub do_remote_decode: Option<bool>,
    /// This is the decode half.
    #[serde(default)]
    pub do_remote_prefill: Option<bool>,
}

/// `logprobs`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Logprobs {
    /// Of a chat.
    Wanted(bool),
    /// Of a text.
    Count(i64),
}

/// The prompt of a text completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts, answered one by one.
    Texts(Vec<String>),
    /// One prompt of token ids.
    Ids(Vec<u32>),
    /// Several prompts of token ids.
    IdLists(Vec<Vec<u32>>),
}

/// What to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// No tool.
    None,
    /// Any number of calls.
    Auto,
    /// At least one call.
    Required,
    /// Exactly this one.
    Named(String),
    /// A custom tool, of which there are none here: as `Auto`.
    Custom,
}

/// A chat message.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Message {
    /// Who speaks.
    #[serde(default)]
    pub role: Option<String>,
    /// What is said.
    #[serde(default)]
    pub content: Option<Content>,
    /// Calls the model has made before.
    #[serde(default)]
    pub tool_calls: Option<Bounded<Called, MAX_CALLS>>,
}

/// A call the model has made before.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Called {
    /// Its function.
    #[serde(default)]
    pub function: Option<CalledFunction>,
}

/// The function of an earlier call.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CalledFunction {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Arguments, as JSON text.
    #[serde(default)]
    pub arguments: Option<String>,
}

/// Text, or blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Blocks.
    Parts(Vec<Part>),
}

/// A block of a message; blocks without text (images, audio) count for nothing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Part {
    /// Its text.
    #[serde(default)]
    pub text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("content as a string or a list of blocks")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Content, A::Error> {
                Bounded::<Part, MAX_PARTS>::gather(Vec::new(), list).map(|b| Content::Parts(b.0))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// First entry of a prompt list, which says what the others are.
#[derive(Deserialize)]
#[serde(untagged)]
enum First {
    Id(u32),
    Text(String),
    Ids(Bounded<u32, MAX_IDS>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "prompt as a string, a list of strings, a list of token ids, or a list of such lists",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                match list.next_element::<First>().map_err(|e| {
                    A::Error::custom(format_args!(
                        "prompt must be a string, a list of strings or of token ids: {e}"
                    ))
                })? {
                    None => Err(A::Error::custom("prompt must not be an empty list")),
                    Some(First::Id(id)) => {
                        Bounded::<u32, MAX_IDS>::gather(vec![id], list).map(|b| Prompt::Ids(b.0))
                    }
                    Some(First::Text(text)) => {
                        Bounded::<String, MAX_PROMPTS>::gather(vec![text], list).map(|b| Prompt::Texts(b.0))
                    }
                    Some(First::Ids(ids)) => {
                        let lists = Bounded::<Bounded<u32, MAX_IDS>, MAX_PROMPTS>::gather(vec![ids], list)?;
                        Ok(Prompt::IdLists(lists.0.into_iter().map(|b| b.0).collect()))
                    }
                }
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let name = |at: &str| value.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let word = value.as_str().map(str::to_owned).or_else(|| name("/type"));
        match (value.as_str(), word.as_deref().unwrap_or("")) {
            (Some("none"), _) => Ok(ToolChoice::None),
            (Some("required"), _) => Ok(ToolChoice::Required),
            // The reference takes any word, as it takes "auto".
            (Some(_), _) => Ok(ToolChoice::Auto),
            (None, "function") => name("/function/name")
                .or_else(|| name("/name"))
                .map(ToolChoice::Named)
                .ok_or_else(|| D::Error::custom("tool_choice of type function needs function.name")),
            (None, "custom") => Ok(ToolChoice::Custom),
            (None, "allowed_tools") => Ok(match name("/allowed_tools/mode").as_deref() {
                Some("required") => ToolChoice::Required,
                _ => ToolChoice::Auto,
            }),
            (_, other) => Err(D::Error::custom(format_args!("unknown ToolChoice type: {other}"))),
        }
    }
}

impl Message {
    /// Its text; blocks are joined by a space.
    pub fn text(&self) -> Cow<'_, str> {
        match &self.content {
            Some(Content::Text(text)) => Cow::Borrowed(text),
            Some(Content::Parts(parts)) => {
                let texts: Vec<&str> = parts.iter().filter_map(|p| p.text.as_deref()).collect();
                Cow::Owned(texts.join(" "))
            }
            None => Cow::Borrowed(""),
        }
    }
}

/// The texts of all messages joined by a space, without white space around them.
pub fn joined(messages: &[Message]) -> String {
    let mut text = String::new();
    for (i, message) in messages.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(&message.text());
    }
    let end = text.trim_end().len();
    text.truncate(end);
    let start = text.len() - text.trim_start().len();
    text.drain(..start);
    text
}

impl Request {
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
        self.stream_options.and_then(|o| o.include_usage).unwrap_or(false)
    }

    /// Alternatives wanted for each token, the chosen one included; `None`: no log-probabilities.
    pub fn logprobs(&self, endpoint: Endpoint) -> Option<usize> {
        let count = |n: i64| usize::try_from(n).unwrap_or(0).min(super::answer::MAX_LOGPROBS);
        match (endpoint, self.logprobs?) {
            (Endpoint::Chat, Logprobs::Wanted(true)) => Some(count(self.top_logprobs.unwrap_or(1)).max(1)),
            (Endpoint::Chat, Logprobs::Count(n)) if n > 0 => {
                Some(count(self.top_logprobs.unwrap_or(1)).max(1))
            }
            (Endpoint::Text, Logprobs::Count(n)) if n > 0 => Some(count(n)),
            (Endpoint::Text, Logprobs::Wanted(true)) => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Request, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_prompt_has_four_forms() {
        let rows = [
            (r#""a""#, Prompt::Text("a".into())),
            (r#"["a","b"]"#, Prompt::Texts(vec!["a".into(), "b".into()])),
            ("[1,2]", Prompt::Ids(vec![1, 2])),
            ("[[1],[2,3]]", Prompt::IdLists(vec![vec![1], vec![2, 3]])),
        ];
        for (text, prompt) in rows {
            assert_eq!(
                read(&format!(r#"{{"prompt":{text}}}"#)).unwrap().prompt,
                Some(prompt)
            );
        }
        for text in ["[]", "[1,\"a\"]", "[[]  ,1]", "{}", "1", "[-1]", "[1.5]"] {
            assert!(read(&format!(r#"{{"prompt":{text}}}"#)).is_err(), "{text}");
        }
    }

    #[test]
    fn null_is_like_absent() {
        let all = r#"{"model":null,"stream":null,"stream_options":null,"max_tokens":null,"n":null,"prompt":null,
            "messages":null,"tools":null,"tool_choice":null,"logprobs":null,"kv_transfer_params":null,
            "ignore_eos":null,"cache_hit_threshold":null,"top_logprobs":null,"max_completion_tokens":null}"#;
        assert!(read(all).is_ok());
    }

    #[test]
    fn a_tool_choice_is_a_word_or_an_object() {
        let rows = [
            (r#""none""#, Ok(ToolChoice::None)),
            (r#""auto""#, Ok(ToolChoice::Auto)),
            (r#""required""#, Ok(ToolChoice::Required)),
            (
                r#"{"type":"function","function":{"name":"f"}}"#,
                Ok(ToolChoice::Named("f".into())),
            ),
            (
                r#"{"type":"custom","custom":{"name":"g"}}"#,
                Ok(ToolChoice::Custom),
            ),
            (
                r#"{"type":"allowed_tools","allowed_tools":{"mode":"required"}}"#,
                Ok(ToolChoice::Required),
            ),
            (r#"{"type":"magic"}"#, Err("unknown ToolChoice type: magic")),
            (r#""sometimes""#, Ok(ToolChoice::Auto)),
            (r#"{"type":"function"}"#, Err("needs function.name")),
        ];
        for (text, expected) in rows {
            match (serde_json::from_str::<ToolChoice>(text), expected) {
                (Ok(choice), Ok(expected)) => assert_eq!(choice, expected),
                (Err(e), Err(expected)) => assert!(e.to_string().contains(expected), "{text}: {e}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn messages_are_joined_and_blocks_without_text_are_passed_over() {
        let request = read(
            r#"{"messages":[{"role":"system","content":" be brief"},{"role":"user","content":
                [{"type":"text","text":"what"},{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"is"}]},
                {"role":"assistant","content":null},{"role":"user","content":"this "}]}"#,
        );
        assert_eq!(
            joined(&request.unwrap().messages.unwrap().0),
            "be brief what is  this"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<Request>(&bytes);
        }

        #[test]
        fn any_json_for_a_field_is_read_or_refused(
            field in "(model|stream|stream_options|max_tokens|prompt|messages|tools|tool_choice|logprobs|n)",
            value in r#"(null|true|-?[0-9]{1,25}|1e[0-9]{1,3}|"\PC{0,9}"|\[[0-9,\[\]]{0,9}\]|\{("a":1)?\})"#,
        ) {
            let _ = read(&format!("{{\"{field}\":{value}}}"));
        }
    }
}
