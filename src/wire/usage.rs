//! Token usage in response bodies: plain JSON and server-sent events, cut anywhere. Work per streamed chunk of
//! whole lines is one search for `"usage"`; a line that is cut, and a JSON document, are scanned as they go by
//! and not collected, so neither has a limit.

mod document;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::model::usage::Usage;

use document::DocumentScan;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// What the lines of an event stream that carry its messages begin with.
const DATA: &[u8] = b"data:";

/// Bytes kept of the end of an event stream: enough for `data: [DONE]` and the line breaks after it.
const TAIL: usize = 24;

/// Watches a response body go by and remembers the usage it reports last.
#[derive(Debug, Default)]
pub enum UsageWatcher {
    /// Nothing to look for: not JSON, not events, or encoded.
    #[default]
    Blind,
    /// `text/event-stream`.
    Events(Events),
    /// One JSON document.
    Json(Box<Json>),
}

/// State of an event stream.
#[derive(Debug, Default)]
pub struct Events {
    line: Line,
    /// Scans the line that has begun; made for the first line that is cut.
    scan: Option<Box<DocumentScan>>,
    last: Option<Usage>,
    tail: [u8; TAIL],
}

/// State of a JSON body.
#[derive(Debug, Default)]
pub struct Json {
    scan: DocumentScan,
    last: Option<Usage>,
}

/// How much of the current line was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Nothing.
    #[default]
    Start,
    /// This many bytes, which are the beginning of [`DATA`].
    Prefix(usize),
    /// A message has begun.
    Data,
    /// The line carries no message.
    Other,
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
            UsageWatcher::Json(Box::default())
        } else {
            UsageWatcher::Blind
        }
    }

    /// Sees the next bytes of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        match self {
            UsageWatcher::Blind => {}
            UsageWatcher::Events(events) => events.push(chunk),
            UsageWatcher::Json(json) => {
                let Json { scan, last } = &mut **json;
                scan.push(chunk, |usage| *last = Some(usage));
            }
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
            UsageWatcher::Events(events) => events.scan.as_ref().map_or(0, |s| s.held()),
            UsageWatcher::Json(json) => json.scan.held(),
        }
    }

    /// The usage reported, once the body has ended.
    pub fn finish(self) -> Option<Usage> {
        match self {
            UsageWatcher::Blind => None,
            UsageWatcher::Events(events) => events.last,
            UsageWatcher::Json(json) => json.last,
        }
    }
}

impl Events {
    fn push(&mut self, chunk: &[u8]) {
        self.keep_tail(chunk);
        let mut rest = chunk;
        if self.line != Line::Start {
            let end = memchr::memchr(b'\n', rest);
            self.read(&rest[..end.unwrap_or(rest.len())]);
            let Some(end) = end else { return };
            self.end_line();
            rest = &rest[end + 1..];
        }
        let whole = memchr::memrchr(b'\n', rest).map_or(0, |i| i + 1);
        let (lines, begun) = rest.split_at(whole);
        if reports_usage(lines) {
            for line in lines.split(|b| *b == b'\n').filter(|l| reports_usage(l)) {
                self.read(line);
                self.end_line();
            }
        }
        self.read(begun);
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        if let Some(tail) = chunk.last_chunk::<TAIL>() {
            self.tail = *tail;
        } else {
            self.tail.copy_within(chunk.len().., 0);
            self.tail[TAIL - chunk.len()..].copy_from_slice(chunk);
        }
    }

    /// Reads the next bytes of a line.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.line {
                Line::Start => self.line = Line::Prefix(0),
                Line::Prefix(seen) => {
                    let more = bytes.len().min(DATA.len() - seen);
                    if bytes[..more] != DATA[seen..seen + more] {
                        self.line = Line::Other;
                    } else if seen + more == DATA.len() {
                        self.line = Line::Data;
                    } else {
                        self.line = Line::Prefix(seen + more);
                    }
                    bytes = &bytes[more..];
                }
                Line::Data => {
                    let last = &mut self.last;
                    let scan = self.scan.get_or_insert_default();
                    scan.push(bytes, |usage| {
                        if usage.total > 0 {
                            *last = Some(usage);
                        }
                    });
                    return;
                }
                Line::Other => return,
            }
        }
    }

    fn end_line(&mut self) {
        self.line = Line::Start;
        if let Some(scan) = &mut self.scan {
            scan.reset();
        }
    }
}

/// Is there a `"usage"` in these whole lines that is not null? `"usage": null` stands in every event of some
/// servers and is not worth a scan.
fn reports_usage(lines: &[u8]) -> bool {
    USAGE.find_iter(lines).any(|at| {
        let value = lines[at + 7..].trim_ascii_start().strip_prefix(b":");
        !value.is_some_and(|v| v.trim_ascii_start().starts_with(b"null"))
    })
}
