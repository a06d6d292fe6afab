//! A strict scan of a JSON text in memory: checks the grammar and tells where values lie, in one pass, without
//! allocation, without recursion for values that are skipped, and with a limit on nesting. Bodies of clients are
//! read with it: the cost of the worst text is a few nanoseconds per byte, whatever its shape.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::base::json_escape;

/// Containers nested deeper than this are refused, so that no reader behind us can be made to overflow.
pub const MAX_DEPTH: usize = 1000;

/// A text with more commas and containers outside strings than this is refused: reading it would hold up a thread,
/// and no prompt has as many tokens.
pub const MAX_VALUES: u32 = 2 << 20;

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON.
    #[error("not JSON")]
    Malformed,
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It has more than [`MAX_VALUES`].
    #[error("more than {MAX_VALUES} values")]
    TooManyValues,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
}

/// A value and where it lies in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub kind: Kind,
    /// Its bytes; quotes and brackets included.
    pub span: Range<usize>,
}

/// A string of the text, without its quotes, escapes as they came.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

/// Room for a decoded name: longer ones are none that anybody looks for.
pub type Room = [u8; 32];

impl Text<'_> {
    /// The characters it stands for: without escapes as they lie in the text, else decoded into `room`. `None`
    /// when they do not fit there.
    #[inline]
    pub fn name<'b>(&'b self, room: &'b mut Room) -> Option<&'b [u8]> {
        if self.escaped {
            self.decoded(room)
        } else {
            Some(self.raw)
        }
    }

    /// Whether there is no character.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    fn decoded<'b>(&self, room: &'b mut Room) -> Option<&'b [u8]> {
        let (mut from, mut len) = (0, 0);
        while let Some(byte) = self.raw.get(from) {
            let (c, taken) = match byte {
                b'\\' => json_escape::read(&self.raw[from..])?,
                byte => {
                    *room.get_mut(len)? = *byte;
                    (from, len) = (from + 1, len + 1);
                    continue;
                }
            };
            len += c.encode_utf8(room.get_mut(len..len + c.len_utf8())?).len();
            from += taken;
        }
        room.get(..len)
    }
}

/// A position in a text, and how deep it is nested.
#[derive(Debug)]
pub struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Commas and containers taken.
    values: u32,
}

impl<'a> Scan<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Scan {
            text,
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
            values: 0,
        }
    }

    /// The offset in the text.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Checks that only white space is left.
    ///
    /// # Errors
    /// Something follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(JsonError::Malformed),
        }
    }

    /// The next byte that is not white space, without taking it.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if byte > b' ' {
                return Some(byte);
            }
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// What the next value begins as, without taking it.
    ///
    /// # Errors
    /// No value begins here.
    #[inline]
    pub fn kind(&mut self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't') => Ok(Kind::True),
            Some(b'f') => Ok(Kind::False),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(JsonError::Malformed),
        }
    }

    /// Takes the next value, whatever it is.
    ///
    /// # Errors
    /// It is malformed or nested too deeply.
    #[inline]
    pub fn value(&mut self) -> Result<Value, JsonError> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object | Kind::Array => self.skip_nest()?,
            _ => self.scalar(kind)?,
        }
        let span = start..self.at;
        Ok(Value { kind, span })
    }

    #[inline]
    fn scalar(&mut self, kind: Kind) -> Result<(), JsonError> {
        match kind {
            Kind::String => self.string().map(|_| ()),
            Kind::Number => self.number(),
            Kind::True => self.literal(b"true"),
            Kind::False => self.literal(b"false"),
            Kind::Null => self.literal(b"null"),
            Kind::Object | Kind::Array => Err(JsonError::Malformed),
        }
    }

    #[inline]
    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(JsonError::Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    /// Takes a string; the next byte must be its quote.
    ///
    /// # Errors
    /// There is none, it does not end, or it holds a control character or an unknown escape.
    #[inline]
    pub fn string(&mut self) -> Result<Text<'a>, JsonError> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(JsonError::Malformed);
        }
        let start = self.at + 1;
        let (mut at, mut escaped) = (start, false);
        loop {
            match self.bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += escape_len(&self.bytes[at..])?;
                }
                Some(b' '..) => at = ordinary(self.bytes, at + 1),
                _ => return Err(JsonError::Malformed),
            }
        }
        self.at = at + 1;
        let raw = &self.bytes[start..at];
        Ok(Text { raw, escaped })
    }

    #[inline]
    fn number(&mut self) -> Result<(), JsonError> {
        if let [b'0'..=b'9', b',' | b']' | b'}', ..] = self.bytes[self.at..] {
            self.at += 1;
            return Ok(());
        }
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start {
            Err(JsonError::Malformed)
        } else {
            Ok(())
        }
    }

    /// Takes a number and tells whether it is written as an integer that fits into 32 bits without a sign.
    ///
    /// # Errors
    /// It is no number.
    #[inline]
    pub fn is_u32(&mut self) -> Result<bool, JsonError> {
        let start = self.at;
        self.number()?;
        let digits = &self.bytes[start..self.at];
        if digits.len() < 10 && digits.iter().all(u8::is_ascii_digit) {
            return Ok(true);
        }
        Ok(self.text[start..self.at].parse::<u32>().is_ok())
    }

    /// Takes an object: `field` is called with each key and must take its value.
    ///
    /// # Errors
    /// It is no object, malformed, or nested too deeply; or `field` says so.
    #[inline]
    pub fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, Text<'a>) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.enter(b'{')?;
        if self.peek() == Some(b'}') {
            return self.leave();
        }
        loop {
            let key = self.key()?;
            field(self, key)?;
            match self.peek() {
                Some(b',') => self.comma()?,
                Some(b'}') => return self.leave(),
                _ => return Err(JsonError::Malformed),
            }
        }
    }

    /// Takes an array: `element` is called for each element and must take it.
    ///
    /// # Errors
    /// It is no array, malformed, or nested too deeply; or `element` says so.
    #[inline]
    pub fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.enter(b'[')?;
        if self.peek() == Some(b']') {
            return self.leave();
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.comma()?,
                Some(b']') => return self.leave(),
                _ => return Err(JsonError::Malformed),
            }
        }
    }

    #[inline]
    fn enter(&mut self, bracket: u8) -> Result<(), JsonError> {
        if self.peek() != Some(bracket) {
            return Err(JsonError::Malformed);
        }
        if self.depth == MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.depth += 1;
        self.comma()
    }

    /// Takes a comma or the opening bracket of a container.
    #[inline]
    fn comma(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(JsonError::TooManyValues);
        }
        Ok(())
    }

    #[inline]
    #[expect(clippy::unnecessary_wraps, reason = "the last step of what can fail")]
    fn leave(&mut self) -> Result<(), JsonError> {
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    /// A key and the colon behind it.
    #[inline]
    fn key(&mut self) -> Result<Text<'a>, JsonError> {
        self.peek();
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(JsonError::Malformed);
        }
        self.at += 1;
        Ok(key)
    }

    /// Takes an object or array, however nested, without recursion.
    fn skip_nest(&mut self) -> Result<(), JsonError> {
        let mut nest = Nest::default();
        loop {
            // A value begins here.
            let kind = self.kind()?;
            if let Kind::Object | Kind::Array = kind {
                let is_object = kind == Kind::Object;
                self.comma()?;
                nest.push(is_object, self.depth)?;
                let close = if is_object { b'}' } else { b']' };
                if self.peek() != Some(close) {
                    if is_object {
                        self.key()?;
                    }
                    continue;
                }
                self.at += 1;
                nest.pop();
            } else {
                self.scalar(kind)?;
            }
            // A value has ended here.
            loop {
                let Some(is_object) = nest.top() else {
                    return Ok(());
                };
                match (self.peek(), is_object) {
                    (Some(b','), _) => {
                        self.comma()?;
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        nest.pop();
                    }
                    _ => return Err(JsonError::Malformed),
                }
            }
        }
    }
}

/// Which of the open containers are objects, one bit each.
struct Nest {
    objects: [u64; MAX_DEPTH.div_ceil(64)],
    depth: usize,
}

impl Default for Nest {
    fn default() -> Self {
        Nest {
            objects: [0; MAX_DEPTH.div_ceil(64)],
            depth: 0,
        }
    }
}

impl Nest {
    /// Opens a container, `outside` of which are open around this nest.
    #[inline]
    fn push(&mut self, is_object: bool, outside: usize) -> Result<(), JsonError> {
        if outside + self.depth >= MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        let bit = 1 << (self.depth % 64);
        let word = &mut self.objects[self.depth / 64];
        *word = if is_object { *word | bit } else { *word & !bit };
        self.depth += 1;
        Ok(())
    }

    #[inline]
    fn pop(&mut self) {
        self.depth -= 1;
    }

    /// Is the innermost container an object? `None` when none is open.
    #[inline]
    fn top(&self) -> Option<bool> {
        let at = self.depth.checked_sub(1)?;
        Some(self.objects[at / 64] >> (at % 64) & 1 == 1)
    }
}

/// The offset of the first byte from `at` on that is a quote, a backslash or a control character.
#[inline]
fn ordinary(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let stops = stops(u64::from_le_bytes(*chunk));
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|b| !matches!(b, b'"' | b'\\' | ..b' ')) {
        at += 1;
    }
    at
}

/// The lowest set bit is in the first byte of `word` that is a quote, a backslash or below a space.
#[inline]
fn stops(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Subtracting borrows out of a byte that is too small: exact up to the first such byte.
    let equal = |byte: u8| {
        let other = word ^ (ONES * u64::from(byte));
        other.wrapping_sub(ONES) & !other
    };
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (equal(b'"') | equal(b'\\') | control) & HIGHS
}

/// Bytes of the escape sequence at the beginning of `rest`.
#[inline]
fn escape_len(rest: &[u8]) -> Result<usize, JsonError> {
    match rest.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u')
            if rest
                .get(2..6)
                .is_some_and(|x| x.iter().all(u8::is_ascii_hexdigit)) =>
        {
            Ok(6)
        }
        _ => Err(JsonError::Malformed),
    }
}
