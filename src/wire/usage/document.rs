//! A scan of JSON documents that arrive in pieces, cut anywhere, for the usage they report: their own, or that
//! of the `response` they carry. One level, no recursion, and nothing is kept but the usage object itself.

use crate::model::usage::Usage;

/// Longest usage object that is read, bytes. Those of model servers have a few hundred.
const MAX_OBJECT: usize = 16 * 1024;

/// Longest key or object name that matters is `"chat.completion"`.
const MAX_NAME: usize = 15;

/// State of the scan. Malformed JSON is not noticed, only a document that does not end: it reports nothing.
#[derive(Debug, Default)]
pub(super) struct DocumentScan {
    /// Open objects and lists.
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The document is an object: its fields are at depth 1.
    is_object: bool,
    /// Within the object `response` of the document: its fields are at depth 2.
    in_response: bool,
    /// The next string among the fields is a key.
    expects_key: bool,
    /// What the characters of the current string are kept for.
    reading: Reading,
    key: Name,
    own: Found,
    response: Found,
    /// The usage object being kept, without an end so far.
    kept: Vec<u8>,
    keeping: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    Nothing,
    Key,
    ObjectName,
}

/// What one level of the document says.
#[derive(Debug, Default)]
struct Found {
    object: Name,
    /// The usage object as raw JSON; empty when there is none.
    usage: Vec<u8>,
}

/// The first bytes of a short string.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Name {
    fn push(&mut self, more: &[u8]) {
        for b in more.iter().take(MAX_NAME + 1 - self.len.min(MAX_NAME + 1)) {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *b;
            }
            self.len += 1;
        }
    }

    /// The whole string, unless it was longer than [`MAX_NAME`].
    fn whole(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn starts_with(&self, prefix: &[u8]) -> bool {
        self.bytes[..self.len.min(MAX_NAME)].starts_with(prefix)
    }
}

impl DocumentScan {
    /// Reads the next bytes; `found` is called with the usage of every document that ends in them.
    pub(super) fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Usage)) {
        let mut at = 0;
        while at < bytes.len() {
            let next = if self.in_string {
                self.string(bytes, at)
            } else {
                self.structure(bytes, at, &mut found)
            };
            self.keep(&bytes[at..next]);
            at = next;
        }
    }

    /// Bytes of memory it takes.
    pub(super) fn held(&self) -> usize {
        let kept = [&self.kept, &self.own.usage, &self.response.usage];
        size_of::<Self>() + kept.iter().map(|k| k.capacity()).sum::<usize>()
    }

    /// Forgets the document that has begun.
    pub(super) fn reset(&mut self) {
        if self.depth > 0 || self.in_string {
            *self = DocumentScan::default();
        }
    }

    /// Reads on in a string, up to its end or the end of `bytes`. Returns where to go on.
    fn string(&mut self, bytes: &[u8], at: usize) -> usize {
        if std::mem::take(&mut self.escaped) {
            return at + 1;
        }
        let rest = &bytes[at..];
        let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        match self.reading {
            Reading::Nothing => {}
            Reading::Key => self.key.push(&rest[..end]),
            Reading::ObjectName => self.level().object.push(&rest[..end]),
        }
        match rest.get(end) {
            None => return bytes.len(),
            Some(b'"') => self.in_string = false,
            Some(_) => {
                self.escaped = true;
                // A name with an escape is none that matters.
                if self.reading == Reading::Key {
                    self.key.push(&[0; MAX_NAME + 1]);
                }
            }
        }
        at + end + 1
    }

    /// Reads one character outside strings, or a run of those that do not matter.
    fn structure(&mut self, bytes: &[u8], at: usize, found: &mut impl FnMut(Usage)) -> usize {
        let among_fields = self.among_fields();
        match bytes[at] {
            b'"' => self.begin_string(among_fields),
            open @ (b'{' | b'[') => self.open(open, among_fields),
            b'}' | b']' => self.close(found),
            b',' if among_fields => self.expects_key = true,
            b':' if among_fields => self.expects_key = false,
            first => {
                // A literal is the value of its key: what follows it is not.
                if among_fields && !first.is_ascii_whitespace() {
                    self.key = Name::default();
                }
                let rest = &bytes[at + 1..];
                let run = rest
                    .iter()
                    .position(|b| matches!(b, b'"' | b'{' | b'[' | b'}' | b']' | b',' | b':'));
                return at + 1 + run.unwrap_or(rest.len());
            }
        }
        at + 1
    }

    /// Are the strings here keys and values of the document or of its response?
    fn among_fields(&self) -> bool {
        self.is_object && (self.depth == 1 || self.depth == 2 && self.in_response)
    }

    fn level(&mut self) -> &mut Found {
        if self.in_response {
            &mut self.response
        } else {
            &mut self.own
        }
    }

    fn begin_string(&mut self, among_fields: bool) {
        self.in_string = true;
        self.reading = Reading::Nothing;
        if among_fields && self.expects_key {
            self.reading = Reading::Key;
            self.key = Name::default();
        } else if among_fields && self.key.whole() == b"object" {
            self.reading = Reading::ObjectName;
            self.level().object = Name::default();
        }
    }

    fn open(&mut self, open: u8, among_fields: bool) {
        if self.depth == 0 {
            *self = DocumentScan {
                is_object: open == b'{',
                expects_key: true,
                ..DocumentScan::default()
            };
        } else if among_fields && open == b'{' {
            match self.key.whole() {
                b"usage" => {
                    self.kept.clear();
                    self.keeping = true;
                }
                b"response" if !self.in_response => {
                    self.response = Found::default();
                    self.in_response = true;
                    self.expects_key = true;
                }
                _ => {}
            }
        }
        self.depth = self.depth.saturating_add(1);
    }

    fn close(&mut self, found: &mut impl FnMut(Usage)) {
        self.depth = self.depth.saturating_sub(1);
        if self.among_fields() && self.keeping {
            self.keep(b"}");
            self.keeping = false;
            let usage = std::mem::take(&mut self.kept);
            self.level().usage = usage;
        } else if self.depth == 1 {
            self.in_response = false;
        } else if self.depth == 0 {
            let read = |level: &Found| usage_of_object(&level.usage, &level.object);
            if self.is_object
                && let Some(usage) = read(&self.own).or_else(|| read(&self.response))
            {
                found(usage);
            }
            *self = DocumentScan::default();
        }
    }

    /// Adds to the usage object; one that is too long is dropped.
    fn keep(&mut self, bytes: &[u8]) {
        if !self.keeping {
            return;
        }
        if self.kept.len() + bytes.len() > MAX_OBJECT {
            self.keeping = false;
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }
}

/// The counts of a usage object, in any of the spellings of the APIs.
fn usage_of_object(raw: &[u8], object: &Name) -> Option<Usage> {
    let value: serde_json::Value = serde_json::from_slice(raw).ok()?;
    let map = value.as_object()?;
    let chat = object.starts_with(b"chat.completion") || object.starts_with(b"text_completion");
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
