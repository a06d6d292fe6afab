//! The reading of bodies by serde_json, into vectors of raw values: slow and unbounded, but plainly right. The
//! oracle of the tests.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::request::Api;
use crate::wire::json::MAX_DEPTH;

/// Model and its place; slices of the prompt and the cache salt; stream flag.
pub(super) type Read = (
    Option<(String, Range<usize>)>,
    Result<(Vec<Range<usize>>, String), &'static str>,
    bool,
);

pub(super) fn parse(text: &str, api: Api) -> Result<Read, ()> {
    let mut fields = Fields::default();
    if text.trim_matches([' ', '\t', '\r', '\n']) != "null" {
        let mut json = serde_json::Deserializer::from_str(text);
        fields = json
            .deserialize_map(Top)
            .and_then(|f| json.end().map(|()| f))
            .map_err(|_| ())?;
    }
    let span = |raw: &str| {
        let start = raw.as_ptr() as usize - text.as_ptr() as usize;
        start..start + raw.len()
    };
    let model = fields
        .model
        .and_then(|raw| Some((decode_string(raw)?, span(raw))));
    let prompt = fields.segments(api).map(|segments| {
        let salt = fields.cache_salt.and_then(decode_string).unwrap_or_default();
        (segments.into_iter().map(span).collect(), salt)
    });
    Ok((model, prompt, fields.stream == Some("true")))
}

fn decode_string(raw: &str) -> Option<String> {
    match raw.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => raw.get(1..raw.len() - 1).map(str::to_owned),
        [b'"', ..] => serde_json::from_str(raw).ok(),
        _ => None,
    }
}

/// The top-level fields that matter, as raw JSON.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a str>,
    stream: Option<&'a str>,
    cache_salt: Option<&'a str>,
    prompt: Option<&'a str>,
    messages: Option<&'a str>,
    input: Option<&'a str>,
    instructions: Option<&'a str>,
    tools: Option<&'a str>,
    items: Option<&'a str>,
    /// A field of the chat API has the wrong type.
    chat_mistyped: bool,
    metadata_mistyped: bool,
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let raw = map.next_value::<&RawValue>()?.get();
            if too_deep(raw) {
                return Err(A::Error::custom("nested too deeply"));
            }
            fields.set(key, raw);
        }
        Ok(fields)
    }
}

#[derive(Clone, Copy)]
enum Key {
    Model,
    Stream,
    CacheSalt,
    Prompt,
    Messages,
    Input,
    Instructions,
    Tools,
    Items,
    Metadata,
    ChatArray,
    ChatString,
    ChatBool,
    ChatObject,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Key, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "model" => Key::Model,
            "stream" => Key::Stream,
            "cache_salt" => Key::CacheSalt,
            "prompt" => Key::Prompt,
            "messages" => Key::Messages,
            "input" => Key::Input,
            "instructions" => Key::Instructions,
            "tools" => Key::Tools,
            "items" => Key::Items,
            "metadata" => Key::Metadata,
            "documents" => Key::ChatArray,
            "chat_template" => Key::ChatString,
            "return_assistant_tokens_mask" | "continue_final_message" | "add_generation_prompt" => {
                Key::ChatBool
            }
            "chat_template_kwargs" => Key::ChatObject,
            _ => Key::Other,
        })
    }
}

impl<'a> Fields<'a> {
    fn set(&mut self, key: Key, raw: &'a str) {
        let present = Some(raw).filter(|r| *r != "null");
        let starts = |with: &[u8]| raw == "null" || with.contains(&raw.as_bytes()[0]);
        match key {
            Key::Model => self.model = Some(raw),
            Key::Stream => self.stream = Some(raw),
            Key::CacheSalt => {
                self.chat_mistyped |= !starts(b"\"");
                self.cache_salt = present;
            }
            Key::Prompt => self.prompt = present,
            Key::Messages => self.messages = present,
            Key::Input => self.input = present,
            Key::Instructions => self.instructions = present,
            Key::Tools => {
                self.chat_mistyped |= !starts(b"[");
                self.tools = present;
            }
            Key::Items => self.items = present,
            Key::Metadata => self.metadata_mistyped |= !starts(b"{"),
            Key::ChatArray => self.chat_mistyped |= !starts(b"["),
            Key::ChatString => self.chat_mistyped |= !starts(b"\""),
            Key::ChatBool => self.chat_mistyped |= !starts(b"tf"),
            Key::ChatObject => self.chat_mistyped |= !starts(b"{"),
            Key::Other => {}
        }
    }

    /// The prompt's slices in order, for `api`.
    fn segments(&self, api: Api) -> Result<Vec<&'a str>, &'static str> {
        match api {
            Api::Completions => self
                .prompt
                .and_then(completion_prompt)
                .map(|p| vec![p])
                .ok_or("invalid completions request: must have prompt field"),
            Api::ChatCompletions => self
                .messages
                .filter(|_| !self.chat_mistyped)
                .and_then(chat_messages)
                .ok_or("invalid chat completions request: must have valid messages field"),
            Api::Responses => {
                let input = self
                    .input
                    .ok_or("invalid responses request: must have input field")?;
                Ok([self.instructions, self.tools, Some(input)]
                    .into_iter()
                    .flatten()
                    .collect())
            }
            Api::Conversations => self
                .items
                .filter(|raw| !self.metadata_mistyped && conversation_items(raw))
                .map(|i| vec![i])
                .ok_or("invalid conversations request: must have items field"),
        }
    }
}

/// A completions prompt: a non-empty string, a list of strings, or a list of token ids. Of a string, the text
/// between the quotes.
fn completion_prompt(raw: &str) -> Option<&str> {
    match raw.as_bytes() {
        [b'"', _, .., b'"'] => raw.get(1..raw.len() - 1),
        [b'[', ..] => {
            let strings = || serde_json::from_str::<Vec<serde::de::IgnoredAny>>(raw).ok();
            let uniform = if raw[1..].trim_start().starts_with('"') {
                all_strings(raw)
            } else {
                serde_json::from_str::<Vec<u32>>(raw).is_ok()
            };
            (uniform && strings().is_some_and(|s| !s.is_empty())).then_some(raw)
        }
        _ => None,
    }
}

fn all_strings(raw: &str) -> bool {
    serde_json::from_str::<Vec<&RawValue>>(raw).is_ok_and(|v| v.iter().all(|r| r.get().starts_with('"')))
}

/// Role and content of every message, as raw JSON; `None` if a message is not one or there are none.
fn chat_messages(raw: &str) -> Option<Vec<&str>> {
    let mut json = serde_json::Deserializer::from_str(raw);
    let (count, segments) = json.deserialize_seq(Messages).ok()?;
    (count > 0).then_some(segments)
}

struct Messages;

impl<'de> Visitor<'de> for Messages {
    /// How many messages, and their segments.
    type Value = (usize, Vec<&'de str>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut segments = Vec::with_capacity(16);
        let mut count = 0;
        while seq.next_element_seed(Message(&mut segments))?.is_some() {
            count += 1;
        }
        Ok((count, segments))
    }
}

/// One message; pushes its role and content.
struct Message<'v, 'de>(&'v mut Vec<&'de str>);

impl<'de> DeserializeSeed<'de> for Message<'_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut role, mut content) = (None, None);
        while let Some(key) = map.next_key_seed(MessageKeySeed)? {
            let raw = map.next_value::<&RawValue>()?.get();
            match key {
                MessageKey::Role => role = Some(raw),
                MessageKey::Content => content = Some(raw),
                MessageKey::Other => {}
            }
        }
        let role_ok = role.is_none_or(|r| r.starts_with('"') || r == "null");
        let content_ok = content.is_none_or(|c| match c.as_bytes()[0] {
            b'"' | b'n' => true,
            b'[' => content_blocks(c),
            _ => false,
        });
        if !role_ok || !content_ok {
            return Err(A::Error::custom("not a message"));
        }
        self.0.extend(role);
        self.0.extend(content);
        Ok(())
    }
}

enum MessageKey {
    Role,
    Content,
    Other,
}

struct MessageKeySeed;

impl<'de> DeserializeSeed<'de> for MessageKeySeed {
    type Value = MessageKey;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<MessageKey, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for MessageKeySeed {
    type Value = MessageKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<MessageKey, E> {
        Ok(match key {
            "role" => MessageKey::Role,
            "content" => MessageKey::Content,
            _ => MessageKey::Other,
        })
    }
}

/// A content list: every block an object whose `type` and `text`, where present, are strings.
fn content_blocks(raw: &str) -> bool {
    objects_with_string_fields(raw, &["type", "text"])
}

/// Conversation items: at least one object whose `type` and `role`, where present, are strings.
fn conversation_items(raw: &str) -> bool {
    serde_json::from_str::<Vec<&RawValue>>(raw).is_ok_and(|v| !v.is_empty())
        && objects_with_string_fields(raw, &["type", "role"])
}

fn objects_with_string_fields(raw: &str, names: &[&str]) -> bool {
    type Object<'a> = std::collections::HashMap<std::borrow::Cow<'a, str>, &'a RawValue>;
    let Ok(blocks) = serde_json::from_str::<Vec<Object<'_>>>(raw) else {
        return false;
    };
    blocks.iter().all(|block| {
        names.iter().all(|n| {
            block
                .get(*n)
                .is_none_or(|v| v.get().starts_with('"') || v.get() == "null")
        })
    })
}

/// Is `raw` nested deeper than [`MAX_DEPTH`]? Counting brackets first settles almost every body.
fn too_deep(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    if !matches!(bytes[0], b'{' | b'[')
        || memchr::memchr2_iter(b'{', b'[', bytes)
            .nth(MAX_DEPTH - 1)
            .is_none()
    {
        return false;
    }
    let (mut depth, mut string, mut escaped) = (1usize, false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            b'{' | b'[' if !string => depth += 1,
            b'}' | b']' if !string => depth -= 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}
