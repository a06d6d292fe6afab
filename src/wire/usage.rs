//! Token usage in response bodies: plain JSON and server-sent events, cut anywhere. Work per streamed chunk is
//! one search for `"usage"`. Spellings and rules: request.md §3.6, §10.2; decision 18.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use crate::model::usage::Usage;

/// A line of an event stream longer than this is not looked into.
const MAX_LINE: usize = 256 * 1024;

/// A JSON response longer than this is not looked into.
const MAX_JSON: usize = 1024 * 1024;

/// Bytes kept of the end of an event stream: enough for `data: [DONE]` and the line breaks after it.
const TAIL: usize = 24;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// Watches a response body go by and remembers the usage it reports last.
#[derive(Debug, Default)]
pub enum UsageWatcher {
    /// Nothing to look for: not JSON, not events, or encoded.
    #[default]
    Blind,
    /// `text/event-stream`.
    Events(Events),
    /// One JSON document, collected up to a limit.
    Json(Vec<u8>),
}

/// State of an event stream: the line that has begun.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    overlong: bool,
    last: Option<Usage>,
    tail: [u8; TAIL],
}

impl UsageWatcher {
    /// A watcher for a response with this content type and encoding.
    pub fn for_content(content_type: Option<&str>, encoding: Option<&str>) -> Self {
        let kind = content_type.unwrap_or("").to_ascii_lowercase();
        if encoding.is_some_and(|e| !e.is_empty() && !e.eq_ignore_ascii_case("identity")) {
            UsageWatcher::Blind
        } else if kind.contains("text/event-stream") {
            UsageWatcher::Events(Events::default())
        } else if kind.contains("json") {
            UsageWatcher::Json(Vec::new())
        } else {
            UsageWatcher::Blind
        }
    }

    /// Sees the next bytes of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        match self {
            UsageWatcher::Blind => {}
            UsageWatcher::Events(events) => events.push(chunk),
            UsageWatcher::Json(seen) if seen.len() + chunk.len() <= MAX_JSON => seen.extend_from_slice(chunk),
            UsageWatcher::Json(_) => *self = UsageWatcher::Blind,
        }
    }

    /// Whether the body is complete although its end was not announced: an event stream whose last event is
    /// `data: [DONE]`.
    pub fn complete(&self) -> bool {
        match self {
            UsageWatcher::Events(events) => events.tail.trim_ascii_end().ends_with(b"data: [DONE]"),
            UsageWatcher::Blind | UsageWatcher::Json(_) => false,
        }
    }

    /// Bytes of memory held for what was seen.
    pub fn held(&self) -> usize {
        match self {
            UsageWatcher::Blind => 0,
            UsageWatcher::Events(events) => events.line.capacity(),
            UsageWatcher::Json(seen) => seen.capacity(),
        }
    }

    /// The usage reported, once the body has ended.
    pub fn finish(self) -> Option<Usage> {
        match self {
            UsageWatcher::Blind => None,
            UsageWatcher::Events(events) => events.finish(),
            UsageWatcher::Json(seen) => USAGE.find(&seen).and_then(|_| usage_of_document(&seen)),
        }
    }
}

impl Events {
    fn push(&mut self, chunk: &[u8]) {
        self.keep_tail(chunk);
        let mut rest = chunk;
        if !self.line.is_empty() || self.overlong {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                return self.keep(rest);
            };
            self.keep(&rest[..end]);
            self.end_line();
            rest = &rest[end + 1..];
        }
        // Whole lines first; what begins after the last line break is kept.
        let whole = memchr::memrchr(b'\n', rest).map_or(0, |i| i + 1);
        let (lines, begun) = rest.split_at(whole);
        if USAGE.find(lines).is_some() {
            for line in lines.split(|b| *b == b'\n') {
                self.line(line);
            }
        }
        self.keep(begun);
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        if let Some(tail) = chunk.last_chunk::<TAIL>() {
            self.tail = *tail;
        } else {
            self.tail.copy_within(chunk.len().., 0);
            self.tail[TAIL - chunk.len()..].copy_from_slice(chunk);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.overlong || self.line.len() + bytes.len() > MAX_LINE {
            self.overlong = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !self.overlong {
            self.line(&line);
        }
        self.overlong = false;
        // Keep the buffer for the next cut line, but not a large one for the life of the stream.
        if line.capacity() <= 1024 {
            self.line = line;
            self.line.clear();
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(at) = USAGE.find(line) else { return };
        // `"usage": null` stands in every event of some servers: not worth parsing.
        let value = line[at + 7..].trim_ascii_start();
        if value
            .strip_prefix(b":")
            .is_some_and(|v| v.trim_ascii_start().starts_with(b"null"))
            && USAGE.find(&line[at + 7..]).is_none()
        {
            return;
        }
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        if let Some(usage) = usage_of_document(data).filter(|u| u.total > 0) {
            self.last = Some(usage);
        }
    }

    fn finish(mut self) -> Option<Usage> {
        self.end_line();
        self.last
    }
}

#[derive(serde::Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

/// Usage of one JSON document: its own, or that of the response it carries.
fn usage_of_document(json: &[u8]) -> Option<Usage> {
    let document: Document<'_> = serde_json::from_slice(json).ok()?;
    let raw = document.usage.filter(|u| u.get() != "null");
    match (raw, document.response) {
        (Some(raw), _) => usage_of_object(raw.get(), document.object.map_or("", RawValue::get)),
        (None, Some(inner)) if inner.get().starts_with('{') => usage_of_document(inner.get().as_bytes()),
        _ => None,
    }
}

fn usage_of_object(raw: &str, object: &str) -> Option<Usage> {
    let value: serde_json::Value = serde_json::from_str(raw).ok()?;
    let map = value.as_object()?;
    let chat = ["\"chat.completion", "\"text_completion"]
        .iter()
        .any(|p| object.starts_with(p));
    let pair = |a: &str, b: &str| {
        if chat {
            number(map.get(b)).or(number(map.get(a)))
        } else {
            number(map.get(a)).or(number(map.get(b)))
        }
    };
    let prompt = pair("input_tokens", "prompt_tokens").unwrap_or(0);
    let completion = pair("output_tokens", "completion_tokens").unwrap_or(0);
    let cached = [
        "prompt_tokens_details",
        "prompt_token_details",
        "input_tokens_details",
    ]
    .iter()
    .find_map(|name| number(map.get(*name)?.get("cached_tokens")));
    let total = number(map.get("total_tokens")).unwrap_or(prompt.saturating_add(completion));
    Some(Usage {
        prompt,
        completion,
        total,
        cached: cached.unwrap_or(0),
    })
}

/// A count given as a number or as a string.
fn number(value: Option<&serde_json::Value>) -> Option<u64> {
    match value? {
        serde_json::Value::Number(n) => n
            .as_u64()
            .or_else(|| n.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64)),
        serde_json::Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(prompt: u64, completion: u64, total: u64, cached: u64) -> Option<Usage> {
        Some(Usage {
            prompt,
            completion,
            total,
            cached,
        })
    }

    fn watch(content_type: &str, chunks: &[&[u8]]) -> Option<Usage> {
        let mut watcher = UsageWatcher::for_content(Some(content_type), None);
        for chunk in chunks {
            watcher.push(chunk);
        }
        watcher.finish()
    }

    #[test]
    fn json_usage_in_every_spelling() {
        let rows: [(&str, Option<Usage>); 9] = [
            (
                r#"{"object":"text_completion","usage":{"prompt_tokens":11,"completion_tokens":100,"total_tokens":111}}"#,
                usage(11, 100, 111, 0),
            ),
            (
                r#"{"usage":{"prompt_tokens":11,"completion_tokens":100,"total_tokens":111,"prompt_token_details":{"cached_tokens":10}}}"#,
                usage(11, 100, 111, 10),
            ),
            (
                r#"{"usage":{"prompt_tokens":1,"total_tokens":1,"prompt_tokens_details":{"cached_tokens":"1"}}}"#,
                usage(1, 0, 1, 1),
            ),
            (
                r#"{"object":"response","usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7,"input_tokens_details":{"cached_tokens":2}}}"#,
                usage(3, 4, 7, 2),
            ),
            (r#"{"usage":null}"#, None),
            (r#"{"usage":"many"}"#, None),
            (
                r#"{"usage":{"prompt_tokens":"x","total_tokens":[]}}"#,
                usage(0, 0, 0, 0),
            ),
            (r#"{"usage":{"prompt_tokens":1}"#, None),
            ("no healthy upstream", None),
        ];
        for (body, expected) in rows {
            assert_eq!(watch("application/json", &[body.as_bytes()]), expected, "{body}");
        }
    }

    const STREAM: &str = "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\r\n\r\n\
        data: {\"object\":\"text_completion\",\"usage\":{\"prompt_tokens\":7,\"total_tokens\":17,\"completion_tokens\":10}}\r\n\r\n\
        data: [DONE]\r\n\r\n";

    #[test]
    fn stream_usage_is_found_wherever_the_events_are_cut() {
        for cut in 0..STREAM.len() {
            let (a, b) = STREAM.as_bytes().split_at(cut);
            assert_eq!(
                watch("text/event-stream; charset=utf-8", &[a, b]),
                usage(7, 10, 17, 0),
                "cut at {cut}"
            );
        }
        let bytes: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(watch("text/event-stream", &bytes), usage(7, 10, 17, 0));
    }

    #[test]
    fn an_event_stream_is_complete_after_its_last_event_wherever_it_is_cut() {
        for cut in 0..=STREAM.len() {
            let mut watcher = UsageWatcher::for_content(Some("text/event-stream"), None);
            let (a, b) = STREAM.as_bytes().split_at(cut);
            watcher.push(a);
            let there = a.trim_ascii_end().ends_with(b"[DONE]");
            assert_eq!(watcher.complete(), there, "{cut} bytes seen");
            watcher.push(b);
            assert!(watcher.complete(), "cut at {cut}");
        }
        let mut json = UsageWatcher::for_content(Some("application/json"), None);
        json.push(b"data: [DONE]");
        assert!(!json.complete());
    }

    #[test]
    fn responses_api_events_carry_usage_inside() {
        let event = b"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"object\":\"response\",\"usage\":{\"input_tokens\":5,\"output_tokens\":6,\"total_tokens\":11}}}\n\n";
        assert_eq!(watch("text/event-stream", &[event]), usage(5, 6, 11, 0));
    }

    #[test]
    fn a_stream_without_usage_reports_none_and_the_last_usage_counts() {
        assert_eq!(
            watch("text/event-stream", &[b"data: {}\n\ndata: [DONE]\n\n"]),
            None
        );
        let two = b"data: {\"usage\":{\"total_tokens\":1}}\ndata: {\"usage\":{\"total_tokens\":2}}\ndata: {\"usage\":{\"total_tokens\":0}}";
        assert_eq!(watch("text/event-stream", &[two]).map(|u| u.total), Some(2));
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_is_read() {
        let long = vec![b'x'; MAX_LINE + 10];
        let next = b"\ndata: {\"usage\":{\"total_tokens\":3}}\n";
        assert_eq!(
            watch("text/event-stream", &[&long, b"y", next]).map(|u| u.total),
            Some(3)
        );
    }

    #[test]
    fn encoded_or_foreign_bodies_are_not_looked_into() {
        assert!(matches!(
            UsageWatcher::for_content(Some("application/json"), Some("gzip")),
            UsageWatcher::Blind
        ));
        assert!(matches!(
            UsageWatcher::for_content(Some("audio/wav"), None),
            UsageWatcher::Blind
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5)) {
            for kind in ["application/json", "text/event-stream"] {
                let refs: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
                let _ = watch(kind, &refs);
            }
        }
    }
}
