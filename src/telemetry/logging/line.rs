//! One event as one line, console or JSON, with the keys of the reference.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;

use super::repeats::Repeats;
use super::sampling::Sampler;
use super::time_format::TimeFormat;
use super::verbosity::Grade;
use super::{Encoder, Options, request, stack};

/// Key of the request's id, as in the reference.
const REQUEST_ID: &str = "x-request-id";

/// The layer that writes.
pub struct Lines<W> {
    /// How lines look.
    pub options: Options,
    /// Of all lines a sample, where asked for.
    pub sampler: Option<Sampler>,
    /// Limits warnings and errors that repeat.
    pub repeats: Repeats,
    /// Where lines go.
    pub writer: W,
}

impl<S: Subscriber, W: for<'a> MakeWriter<'a> + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event, _: Context<S>) {
        let now = SystemTime::now();
        let mut content = Content::default();
        event.record(&mut content);
        let grade = Grade::of(event.metadata());
        let level = grade.name();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(sampler) = &self.sampler
            && !sampler.passes(&level, &content.message, second)
        {
            return;
        }
        if grade <= Grade::Warn {
            match self.repeats.passes(event.metadata(), second) {
                None => return,
                Some(0) => {}
                Some(n) => content.fields.push(("suppressed", n.into())),
            }
        }
        if let Some(id) = request::current() {
            content.fields.push((REQUEST_ID, id.into()));
        }
        if self.options.stack.covers(grade) && content.stack.is_none() {
            content.stack = Some(stack::capture());
        }
        let time = self.options.time;
        let line = match self.options.encoder {
            Encoder::Console => console(time.write(now), level, event.metadata(), content),
            Encoder::Json => json(time, now, level, event.metadata(), content),
        };
        let line = visible(line);
        // One write, so that lines of several threads do not mix. If standard error is gone there is nowhere
        // left to say so.
        let _ = self.writer.make_writer().write_all(line.as_bytes());
    }
}

fn console(time: String, level: String, metadata: &Metadata, mut content: Content) -> String {
    let level = level.to_uppercase();
    let mut line = format!("{time}\t{level}");
    let (logger, caller) = content.origin(metadata);
    for part in [logger, caller, content.message.clone()] {
        if !part.is_empty() {
            line.push('\t');
            line.push_str(&on_one_line(&part));
        }
    }
    let stack = content.stack.take();
    let fields: Vec<String> = content
        .into_fields()
        .map(|(k, v)| format!("{}:{v}", quote(k)))
        .collect();
    if !fields.is_empty() {
        line.push_str(&format!("\t{{{}}}", fields.join(",")));
    }
    line.push('\n');
    // Below the line, as zap has it: a stack is for eyes.
    if let Some(stack) = stack {
        line.push_str(&stack);
        line.push('\n');
    }
    line
}

fn json(time: TimeFormat, now: SystemTime, level: String, metadata: &Metadata, content: Content) -> String {
    let now = time.write(now);
    let (logger, caller) = content.origin(metadata);
    let mut line = format!(
        "{{\"level\":{},\"ts\":{},\"logger\":{},\"caller\":{},\"msg\":{}",
        quote(&level),
        if time.numeric() { now } else { quote(&now) },
        quote(&logger),
        quote(&caller),
        quote(&content.message),
    );
    for (key, value) in content.into_fields() {
        line.push_str(&format!(",{}:{value}", quote(key)));
    }
    line.push_str("}\n");
    line
}

/// Control characters escaped: a line feed in a message must not look like a new line of the log, nor an
/// escape sequence reach a terminal.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Characters that JSON leaves as they are and a terminal or a reader of lines may act on, as `\uXXXX`: DEL, C1
/// controls (U+009B begins an escape sequence), line and paragraph separators, marks that turn the direction of
/// writing. They stand in strings only.
fn visible(line: String) -> String {
    let acts = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    if line.is_ascii() && !line.contains('\u{7f}') || !line.contains(acts) {
        return line;
    }
    let mut out = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if acts(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Bytes of a text in a line at most. What clients send is limited where it is read; this is for what nobody
/// thought of.
const MAX_TEXT: usize = 64 * 1024;

/// `text`, cut to [`MAX_TEXT`] with a note of what is missing.
fn short(mut text: String) -> String {
    let whole = text.len();
    if whole > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        let cut = whole - text.len();
        text.push_str(&format!("… ({cut} bytes more)"));
    }
    text
}

/// `text` as a JSON string.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// The module that speaks, without the library's name: `extproc.session`.
fn logger(target: &str) -> String {
    let module = target.split('@').next().unwrap_or(target);
    let module = module.strip_prefix("endpoint_picker::").unwrap_or(module);
    module.replace("::", ".")
}

/// `folder/file.rs:line`
fn caller(file: &str, line: u64) -> String {
    let folder = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{line}", &file[folder..])
}

/// What an event carries.
#[derive(Default)]
struct Content {
    message: String,
    fields: Vec<(&'static str, Value)>,
    error: Option<Value>,
    stack: Option<String>,
    /// Where a record of the `log` crate comes from, in place of the event's own origin: target, file, line.
    record: (Option<String>, Option<String>, u64),
}

impl Content {
    /// Logger and caller.
    fn origin(&self, metadata: &Metadata) -> (String, String) {
        let (target, file, line) = &self.record;
        let target = target.as_deref().unwrap_or(metadata.target());
        let (file, line) = match file {
            Some(file) => (Some(file.as_str()), *line),
            None => (metadata.file(), metadata.line().unwrap_or_default().into()),
        };
        (logger(target), file.map_or_else(String::new, |f| caller(f, line)))
    }

    /// The fields as written, then the error and the stack.
    fn into_fields(self) -> impl Iterator<Item = (&'static str, Value)> {
        let error = self.error.map(|e| ("error", e));
        let stack = self.stack.map(|s| ("stacktrace", s.into()));
        self.fields.into_iter().chain(error).chain(stack)
    }

    fn add(&mut self, field: &Field, value: Value) {
        let value = match value {
            Value::String(text) => Value::String(short(text)),
            other => other,
        };
        match field.name() {
            "message" => {
                self.message = match value {
                    Value::String(text) => text,
                    other => other.to_string(),
                }
            }
            "error" => self.error = Some(value),
            "log.target" => self.record.0 = value.as_str().map(str::to_owned),
            "log.file" => self.record.1 = value.as_str().map(str::to_owned),
            "log.line" => self.record.2 = value.as_u64().unwrap_or_default(),
            "log.module_path" => {}
            "stacktrace" => self.stack = value.as_str().map(str::to_owned),
            name => match name.strip_prefix("json.") {
                Some(name) => self.fields.push((name, whole(value))),
                None => self.fields.push((name, value)),
            },
        }
    }
}

/// The document a field `json.NAME` carries as text, so that it is logged as `NAME` and not as text in text.
fn whole(value: Value) -> Value {
    let read = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    read.unwrap_or(value)
}

impl Visit for Content {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, value.to_string().into());
    }
}
