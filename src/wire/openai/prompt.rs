//! The prompt of a request body: which fields of an API make it, what they must be, and where their text lies.

use std::ops::Range;

use bytes::Bytes;

use super::super::json::{JsonError, Kind, Room, Scan, Value};
use crate::model::prompt::Prompt;
use crate::model::request::Api;

/// Slices a prompt has at most; a chat has two for each message. What comes after is one slice more, as it lies in
/// the body: still the same for the same messages, and no list grows with the body.
const MAX_SEGMENTS: usize = 1 << 16;

/// The fields of all APIs that matter for the prompt, as far as they were read.
#[derive(Debug)]
pub(super) struct PromptFields {
    api: Api,
    cache_salt: Option<Range<usize>>,
    prompt: Option<Range<usize>>,
    messages: Option<Vec<Range<usize>>>,
    input: Option<Range<usize>>,
    instructions: Option<Range<usize>>,
    tools: Option<Range<usize>>,
    items: Option<Range<usize>>,
    /// A field of the chat API has the wrong type.
    chat_mistyped: bool,
    metadata_mistyped: bool,
}

impl PromptFields {
    pub(super) fn new(api: Api) -> Self {
        PromptFields {
            api,
            cache_salt: None,
            prompt: None,
            messages: None,
            input: None,
            instructions: None,
            tools: None,
            items: None,
            chat_mistyped: false,
            metadata_mistyped: false,
        }
    }

    /// Takes the value of the field `name`.
    pub(super) fn field(&mut self, scan: &mut Scan<'_>, name: &[u8]) -> Result<(), JsonError> {
        match (name, self.api) {
            (b"prompt", Api::Completions) => self.prompt = completion_prompt(scan)?,
            (b"messages", Api::ChatCompletions) => self.messages = chat_messages(scan)?,
            (b"items", Api::Conversations) => self.items = conversation_items(scan)?,
            _ => {
                let value = scan.value()?;
                self.other(name, value);
            }
        }
        Ok(())
    }

    fn other(&mut self, name: &[u8], value: Value) {
        let is = |kinds: &[Kind]| value.kind == Kind::Null || kinds.contains(&value.kind);
        match name {
            b"cache_salt" => {
                self.chat_mistyped |= !is(&[Kind::String]);
                let text = value.span.start + 1..value.span.end - 1;
                self.cache_salt = Some(text).filter(|_| value.kind == Kind::String);
            }
            b"tools" => {
                self.chat_mistyped |= !is(&[Kind::Array]);
                self.tools = present(value);
            }
            b"input" => self.input = present(value),
            b"instructions" => self.instructions = present(value),
            b"metadata" => self.metadata_mistyped |= !is(&[Kind::Object]),
            b"documents" => self.chat_mistyped |= !is(&[Kind::Array]),
            b"chat_template" => self.chat_mistyped |= !is(&[Kind::String]),
            b"chat_template_kwargs" => self.chat_mistyped |= !is(&[Kind::Object]),
            b"return_assistant_tokens_mask" | b"continue_final_message" | b"add_generation_prompt" => {
                self.chat_mistyped |= !is(&[Kind::True, Kind::False]);
            }
            _ => {}
        }
    }

    /// The prompt as slices of `body`, or what is wrong with the fields of the API.
    pub(super) fn of(self, body: &Bytes) -> Result<Prompt, &'static str> {
        Ok(Prompt {
            bytes: body.clone(),
            cache_salt: self.cache_salt.clone().unwrap_or_default(),
            segments: self.segments()?,
        })
    }

    fn segments(self) -> Result<Vec<Range<usize>>, &'static str> {
        match self.api {
            Api::Completions => self
                .prompt
                .map(one)
                .ok_or("invalid completions request: must have prompt field"),
            Api::ChatCompletions => self
                .messages
                .filter(|_| !self.chat_mistyped)
                .ok_or("invalid chat completions request: must have valid messages field"),
            Api::Responses => {
                let input = self
                    .input
                    .ok_or("invalid responses request: must have input field")?;
                let parts = [self.instructions, self.tools, Some(input)];
                Ok(parts.into_iter().flatten().collect())
            }
            Api::Conversations => self
                .items
                .filter(|_| !self.metadata_mistyped)
                .map(one)
                .ok_or("invalid conversations request: must have items field"),
        }
    }
}

fn one(range: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(range).collect()
}

fn present(value: Value) -> Option<Range<usize>> {
    (value.kind != Kind::Null).then_some(value.span)
}

/// A completions prompt: a non-empty string, a list of strings, or a list of token ids. Of a string, the text
/// between the quotes.
fn completion_prompt(scan: &mut Scan<'_>) -> Result<Option<Range<usize>>, JsonError> {
    match scan.kind()? {
        Kind::String => {
            let span = scan.value()?.span;
            let text = span.start + 1..span.end - 1;
            Ok(Some(text).filter(|t| !t.is_empty()))
        }
        Kind::Array => {
            let start = scan.at();
            let (mut empty, mut strings, mut ids) = (true, true, true);
            scan.array(|scan| {
                empty = false;
                match scan.kind()? {
                    Kind::Number => {
                        strings = false;
                        ids &= scan.is_u32()?;
                    }
                    Kind::String => {
                        ids = false;
                        scan.string()?;
                    }
                    _ => {
                        (strings, ids) = (false, false);
                        scan.value()?;
                    }
                }
                Ok(())
            })?;
            Ok((!empty && (strings || ids)).then(|| start..scan.at()))
        }
        _ => {
            scan.value()?;
            Ok(None)
        }
    }
}

/// Role and content of every message, as raw JSON; `None` if a message is not one or there are none.
fn chat_messages(scan: &mut Scan<'_>) -> Result<Option<Vec<Range<usize>>>, JsonError> {
    if scan.kind()? != Kind::Array {
        scan.value()?;
        return Ok(None);
    }
    let mut segments = Vec::with_capacity(16);
    let (mut empty, mut valid, mut rest) = (true, true, None);
    scan.array(|scan| {
        empty = false;
        if scan.kind()? != Kind::Object {
            valid = false;
            scan.value()?;
            return Ok(());
        }
        let start = scan.at();
        let (role, content) = message(scan, &mut valid)?;
        if segments.len() + 2 <= MAX_SEGMENTS {
            segments.extend(role);
            segments.extend(content);
        } else {
            rest.get_or_insert(start);
        }
        Ok(())
    })?;
    segments.extend(rest.map(|start| start..scan.at()));
    Ok((valid && !empty).then_some(segments))
}

type Part = Option<Range<usize>>;

/// Takes a message and returns where its role and content lie. Of duplicates the last one counts.
fn message(scan: &mut Scan<'_>, valid: &mut bool) -> Result<(Part, Part), JsonError> {
    let (mut role, mut content) = (None, None);
    let (mut role_ok, mut content_ok) = (true, true);
    scan.object(|scan, key| {
        match key.name(&mut Room::default()) {
            Some(b"role") => {
                let value = scan.value()?;
                role_ok = matches!(value.kind, Kind::String | Kind::Null);
                role = Some(value.span);
            }
            Some(b"content") => {
                let kind = scan.kind()?;
                let start = scan.at();
                content_ok = match kind {
                    Kind::Array => objects_with_strings(scan, [b"type", b"text"])?.0,
                    _ => {
                        scan.value()?;
                        matches!(kind, Kind::String | Kind::Null)
                    }
                };
                content = Some(start..scan.at());
            }
            _ => {
                scan.value()?;
            }
        }
        Ok(())
    })?;
    *valid &= role_ok && content_ok;
    Ok((role, content))
}

/// Conversation items: at least one object whose `type` and `role`, where present, are strings.
fn conversation_items(scan: &mut Scan<'_>) -> Result<Part, JsonError> {
    if scan.kind()? != Kind::Array {
        scan.value()?;
        return Ok(None);
    }
    let start = scan.at();
    let (valid, empty) = objects_with_strings(scan, [b"type", b"role"])?;
    Ok((valid && !empty).then(|| start..scan.at()))
}

/// Takes a list. Tells whether it is one of objects in which the last field of each of these names, where there is
/// one, is a string or null; and whether it is empty.
fn objects_with_strings(scan: &mut Scan<'_>, names: [&[u8]; 2]) -> Result<(bool, bool), JsonError> {
    let (mut valid, mut empty) = (true, true);
    scan.array(|scan| {
        empty = false;
        if scan.kind()? != Kind::Object {
            valid = false;
            scan.value()?;
            return Ok(());
        }
        let mut strings = [true; 2];
        scan.object(|scan, key| {
            let mut room = Room::default();
            let name = key.name(&mut room);
            let kind = scan.value()?.kind;
            for (ok, wanted) in strings.iter_mut().zip(names) {
                if name == Some(wanted) {
                    *ok = matches!(kind, Kind::String | Kind::Null);
                }
            }
            Ok(())
        })?;
        valid &= strings == [true; 2];
        Ok(())
    })?;
    Ok((valid, empty))
}
