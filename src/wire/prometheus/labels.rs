//! The label block of a series: where it ends, and its pairs. Quotes may hold commas, braces and escapes.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// Length of the block that starts right after `{`, without the closing `}`; `None` when it never closes.
pub(super) fn block_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = at + memchr2(b'"', b'}', text.get(at..)?)?;
        if text[found] == b'}' {
            return Some(found);
        }
        at = found + 1 + quoted_len(&text[found + 1..])? + 1;
    }
}

/// Length of a quoted text that starts right after its opening quote, without the closing quote.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = at + memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[found] == b'"' {
            return Some(found);
        }
        at = found + 2;
    }
}

/// A label's value as it stands in the page, escapes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The text: `\\`, `\"` and `\n` resolved, other escapes kept as they are, invalid UTF-8 replaced.
    pub fn text(self) -> Cow<'a, str> {
        if memchr(b'\\', self.0).is_none() {
            return String::from_utf8_lossy(self.0);
        }
        Cow::Owned(String::from_utf8_lossy(&self.unescape()).into_owned())
    }

    /// Is the text equal to `other`?
    pub fn is(self, other: &str) -> bool {
        if memchr(b'\\', self.0).is_none() {
            return self.0 == other.as_bytes();
        }
        self.unescape() == other.as_bytes()
    }

    fn unescape(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len());
        let mut bytes = self.0.iter().copied();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                out.push(byte);
                continue;
            }
            match bytes.next() {
                Some(b'n') => out.push(b'\n'),
                Some(b) if b == b'\\' || b == b'"' => out.push(b),
                Some(b) => out.extend([b'\\', b]),
                None => out.push(b'\\'),
            }
        }
        out
    }
}

/// The `(name, value)` pairs of a label block. Ends at the first malformed pair.
#[derive(Clone, Debug)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Labels<'a> {
    /// The pairs of `block`, the text between the braces.
    pub fn new(block: &'a [u8]) -> Self {
        Labels(block)
    }

    /// The value of the label called `name`.
    pub fn get(mut self, name: &str) -> Option<Value<'a>> {
        self.find(|(n, _)| *n == name.as_bytes()).map(|(_, v)| v)
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let block = std::mem::take(&mut self.0);
        let equals = memchr(b'=', block)?;
        let name = block[..equals].trim_ascii();
        let value = block[equals + 1..].trim_ascii_start().strip_prefix(b"\"")?;
        let len = quoted_len(value)?;
        let rest = value[len + 1..].trim_ascii_start();
        self.0 = match rest.split_first() {
            None => rest,
            Some((b',', rest)) => rest,
            // Anything else between pairs: this pair stands, what follows cannot be trusted.
            Some(_) => &[],
        };
        Some((name, Value(&value[..len])))
    }
}
