//! Envoy's `envoy.service.ext_proc.v3` messages: read from a gRPC message without copying bodies, written
//! straight into the outgoing buffer. Field numbers are those of the published `.proto` files; tests compare
//! with the published Rust types. Written by hand because it is the hot path: see
//! `docs/developer-guide/performance.md`.

use std::ops::Range;

use bytes::Bytes;

use super::protobuf::{self, Malformed, Reader, Value, put_bytes, put_message, put_number, varint_len};
use crate::model::headers::{
    DESTINATION, DESTINATION_SERVED, Headers, LB_NAMESPACE, SUBSET, SUBSET_NAMESPACE,
};
use crate::model::metadata::Metadata;

/// Body bytes per streamed answer at most (request.md §1).
pub const CHUNK: usize = 62_000;

/// Bodies from this size on are sent without copying them into the outgoing buffer.
const ZERO_COPY: usize = 4096;

/// How Envoy sends a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// Not sent.
    None,
    /// Chunks, each answered.
    Streamed,
    /// One message with the whole body.
    Buffered,
    /// One message with at most a buffer's worth.
    BufferedPartial,
    /// Chunks, answered with chunks of ours at any time.
    #[default]
    FullDuplexStreamed,
}

impl BodyMode {
    fn from_number(n: u64) -> Self {
        match n {
            0 => BodyMode::None,
            1 => BodyMode::Streamed,
            2 => BodyMode::Buffered,
            3 => BodyMode::BufferedPartial,
            _ => BodyMode::FullDuplexStreamed,
        }
    }
}

/// Body modes, sent by Envoy in the first message of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// Mode of the request body.
    pub request: BodyMode,
    /// Mode of the response body.
    pub response: BodyMode,
}

/// A side of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Client to model server.
    Request,
    /// Model server to client.
    Response,
}

/// What a message is about.
#[derive(Clone, Debug)]
pub enum Message {
    /// Headers; `end` means that no body follows.
    Headers(Side, Headers, bool),
    /// A piece of the body; `end` marks the last one.
    Body(Side, Bytes, bool),
    /// Trailers, which end the body.
    Trailers(Side),
    /// Nothing we know: a newer kind of message.
    Unknown,
}

/// One `ProcessingRequest`.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// Filter metadata, where the message carries any.
    pub metadata: Option<Metadata>,
    /// Body modes, in the first message.
    pub protocol: Option<Protocol>,
}

/// Reads one `ProcessingRequest`. Bodies and headers are slices of `bytes`.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode(bytes: &Bytes) -> Result<Incoming, Malformed> {
    let mut incoming = Incoming {
        message: Message::Unknown,
        metadata: None,
        protocol: None,
    };
    let mut fields = Reader::new(bytes, 0..bytes.len());
    while let Some((field, value)) = fields.next()? {
        let Value::Range(range) = value else { continue };
        match field {
            2 => incoming.message = headers(bytes, range, Side::Request)?,
            3 => incoming.message = headers(bytes, range, Side::Response)?,
            4 => incoming.message = body(bytes, range, Side::Request)?,
            5 => incoming.message = body(bytes, range, Side::Response)?,
            6 => incoming.message = Message::Trailers(Side::Request),
            7 => incoming.message = Message::Trailers(Side::Response),
            8 => incoming.metadata = Some(metadata(bytes, range)?),
            11 => incoming.protocol = Some(protocol(bytes, range)?),
            _ => {}
        }
    }
    Ok(incoming)
}

fn headers(bytes: &Bytes, range: Range<usize>, side: Side) -> Result<Message, Malformed> {
    let mut map = Headers::default();
    let mut end = false;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Range(r)) => map = header_map(bytes, r)?,
            (3, Value::Number(n)) => end = n != 0,
            _ => {}
        }
    }
    Ok(Message::Headers(side, map, end))
}

fn header_map(bytes: &Bytes, range: Range<usize>) -> Result<Headers, Malformed> {
    let mut map = Headers::with_capacity(16);
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Range(r)) = (field, value) else {
            continue;
        };
        let (mut name, mut text, mut raw) = (0..0, 0..0, 0..0);
        let mut header = Reader::new(bytes, r);
        while let Some((field, value)) = header.next()? {
            match (field, value) {
                (1, Value::Range(r)) => name = r,
                (2, Value::Range(r)) => text = r,
                (3, Value::Range(r)) => raw = r,
                _ => {}
            }
        }
        let value = if raw.is_empty() { text } else { raw };
        map.push(bytes.slice(name), bytes.slice(value));
    }
    Ok(map)
}

fn body(bytes: &Bytes, range: Range<usize>, side: Side) -> Result<Message, Malformed> {
    let (mut content, mut end) = (0..0, false);
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Range(r)) => content = r,
            (2, Value::Number(n)) => end = n != 0,
            _ => {}
        }
    }
    Ok(Message::Body(side, bytes.slice(content), end))
}

fn protocol(bytes: &[u8], range: Range<usize>) -> Result<Protocol, Malformed> {
    // An absent enum field is its zero value: NONE.
    let mut modes = Protocol {
        request: BodyMode::None,
        response: BodyMode::None,
    };
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Number(n)) => modes.request = BodyMode::from_number(n),
            (2, Value::Number(n)) => modes.response = BodyMode::from_number(n),
            _ => {}
        }
    }
    Ok(modes)
}

fn metadata(bytes: &[u8], range: Range<usize>) -> Result<Metadata, Malformed> {
    let mut out = Metadata::default();
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Range(entry)) = (field, value) else {
            continue;
        };
        let (key, namespace) = map_entry(bytes, entry)?;
        if key == LB_NAMESPACE.as_bytes() {
            out.lb_present = true;
            let served = struct_field(bytes, namespace, DESTINATION_SERVED)?;
            out.served = served.map_or(Ok(None), |v| string_value(bytes, v))?;
        } else if key == SUBSET_NAMESPACE.as_bytes()
            && let Some(list) = struct_field(bytes, namespace, SUBSET)?
        {
            out.subset = string_list(bytes, list)?;
        }
    }
    Ok(out)
}

/// Key and value range of a map entry.
fn map_entry(bytes: &[u8], entry: Range<usize>) -> Result<(&[u8], Range<usize>), Malformed> {
    let (mut key, mut value) = (0..0, 0..0);
    let mut fields = Reader::new(bytes, entry);
    while let Some((field, v)) = fields.next()? {
        match (field, v) {
            (1, Value::Range(r)) => key = r,
            (2, Value::Range(r)) => value = r,
            _ => {}
        }
    }
    Ok((&bytes[key], value))
}

/// The `google.protobuf.Value` under `name` in the struct at `range`.
fn struct_field(bytes: &[u8], range: Range<usize>, name: &str) -> Result<Option<Range<usize>>, Malformed> {
    let mut found = None;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Range(entry)) = (field, value) else {
            continue;
        };
        let (key, value) = map_entry(bytes, entry)?;
        if key == name.as_bytes() {
            found = Some(value);
        }
    }
    Ok(found)
}

fn string_value(bytes: &[u8], range: Range<usize>) -> Result<Option<String>, Malformed> {
    let mut text = None;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        text = match (field, value) {
            (3, Value::Range(r)) => std::str::from_utf8(&bytes[r]).ok().map(str::to_owned),
            _ => None,
        };
    }
    Ok(text)
}

/// The strings of a list value; `None` when the value is no list. Other kinds of entries are left out.
fn string_list(bytes: &[u8], range: Range<usize>) -> Result<Option<Vec<String>>, Malformed> {
    let mut list = None;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (6, Value::Range(r)) = (field, value) else {
            continue;
        };
        let mut strings = Vec::new();
        let mut values = Reader::new(bytes, r);
        while let Some((field, value)) = values.next()? {
            if let (1, Value::Range(r)) = (field, value) {
                strings.extend(string_value(bytes, r)?);
            }
        }
        list = Some(strings);
    }
    Ok(list)
}

/// Header changes of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderChanges<'a> {
    /// Headers to set, overwriting.
    pub set: &'a [(&'a str, &'a [u8])],
    /// Headers to remove.
    pub remove: &'a [&'a str],
}

fn put_changes(out: &mut Vec<u8>, changes: HeaderChanges<'_>) {
    for (name, value) in changes.set {
        put_message(out, 1, |o| {
            put_message(o, 1, |o| {
                put_bytes(o, 1, name.as_bytes());
                put_bytes(o, 3, value);
            });
        });
    }
    for name in changes.remove {
        put_bytes(out, 2, name.as_bytes());
    }
}

/// The destination as dynamic metadata: `{"envoy.lb": {"x-gateway-destination-endpoint": destination}}`.
fn put_destination_metadata(out: &mut Vec<u8>, destination: &str) {
    let entry = |o: &mut Vec<u8>, key: &str, value: &dyn Fn(&mut Vec<u8>)| {
        put_message(o, 1, |o| {
            put_bytes(o, 1, key.as_bytes());
            put_message(o, 2, value);
        });
    };
    put_message(out, 8, |o| {
        entry(o, LB_NAMESPACE, &|o| {
            put_message(o, 5, |o| {
                entry(o, DESTINATION, &|o| put_bytes(o, 3, destination.as_bytes()))
            });
        });
    });
}

/// Starts a gRPC frame, runs `write` for the message, and fills in the frame's length.
fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 5]);
    write(out);
    let len = u32::try_from(out.len() - start - 5).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
}

/// Answers request headers: the destination, in header and metadata, and the other changes.
pub fn request_headers(out: &mut Vec<u8>, changes: HeaderChanges<'_>, destination: Option<&str>) {
    frame(out, |o| {
        put_message(o, 1, |o| {
            put_message(o, 1, |o| routed(o, changes, destination, |_| {}))
        });
        if let Some(d) = destination {
            put_destination_metadata(o, d);
        }
    });
}

/// Answers a buffered request body: routing travels with the body. `body` replaces it, when changed.
pub fn buffered_request_body(
    out: &mut Vec<u8>,
    changes: HeaderChanges<'_>,
    destination: &str,
    body: Option<&[u8]>,
) {
    frame(out, |o| {
        put_message(o, 3, |o| {
            put_message(o, 1, |o| {
                routed(o, changes, Some(destination), |o| {
                    if let Some(body) = body {
                        put_message(o, 3, |o| put_bytes(o, 1, body));
                    }
                });
            });
        });
        put_destination_metadata(o, destination);
    });
}

fn routed(
    out: &mut Vec<u8>,
    changes: HeaderChanges<'_>,
    destination: Option<&str>,
    body: impl FnOnce(&mut Vec<u8>),
) {
    if !changes.set.is_empty() || !changes.remove.is_empty() {
        put_message(out, 2, |o| put_changes(o, changes));
    }
    body(out);
    if destination.is_some() {
        put_number(out, 5, 1);
    }
}

/// Answers response headers.
pub fn response_headers(out: &mut Vec<u8>, changes: HeaderChanges<'_>) {
    frame(out, |o| {
        put_message(o, 2, |o| {
            put_message(o, 1, |o| put_message(o, 2, |o| put_changes(o, changes)))
        });
    });
}

/// Answers a body message of a mode other than full duplex: go on, unchanged.
pub fn unchanged_body(out: &mut Vec<u8>, side: Side) {
    frame(out, |o| {
        put_message(o, body_field(side), |o| put_message(o, 1, |_| {}))
    });
}

/// Answers trailers: go on, unchanged.
pub fn trailers(out: &mut Vec<u8>, side: Side) {
    let field = if side == Side::Request { 5 } else { 6 };
    frame(out, |o| put_message(o, field, |_| {}));
}

/// Answers the exchange itself: `status` and `body` go to the client and the upstream is not asked.
pub fn immediate(out: &mut Vec<u8>, status: u16, changes: HeaderChanges<'_>, body: &[u8]) {
    frame(out, |o| {
        put_message(o, 7, |o| {
            put_message(o, 1, |o| put_number(o, 1, u64::from(status)));
            if !changes.set.is_empty() {
                put_message(o, 2, |o| put_changes(o, changes));
            }
            put_bytes(o, 3, body);
        });
    });
}

fn body_field(side: Side) -> u8 {
    if side == Side::Request { 3 } else { 4 }
}

/// Where answers are collected: small ones in one buffer, large bodies by reference.
#[derive(Debug, Default)]
pub struct Outbox {
    ready: std::collections::VecDeque<Bytes>,
    small: Vec<u8>,
    queued: usize,
}

impl Outbox {
    /// The buffer small answers are written to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// Bytes waiting to be sent.
    pub fn len(&self) -> usize {
        self.queued + self.small.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next bytes to send.
    pub fn pop(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.ready.pop_front() {
            self.queued -= bytes.len();
            return Some(bytes);
        }
        // The buffer is given away whole: keeping it would pin its size for the life of the stream.
        (!self.small.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.small)))
    }

    fn push(&mut self, bytes: Bytes) {
        if !self.small.is_empty() {
            let small = Bytes::from(std::mem::take(&mut self.small));
            self.queued += small.len();
            self.ready.push_back(small);
        }
        self.queued += bytes.len();
        self.ready.push_back(bytes);
    }

    /// Answers with body bytes in full duplex mode, in pieces of at most [`CHUNK`]; `end` marks the last piece.
    /// No bytes and no end is no answer; no bytes and an end is one empty piece.
    pub fn streamed_body(&mut self, side: Side, body: &Bytes, end: bool) {
        let mut rest = body.clone();
        loop {
            let piece = rest.split_to(rest.len().min(CHUNK));
            let last = rest.is_empty();
            if !piece.is_empty() || (end && last) {
                self.piece(side, piece, end && last);
            }
            if last {
                return;
            }
        }
    }

    fn piece(&mut self, side: Side, body: Bytes, end: bool) {
        let n = body.len();
        let bytes_field = if n == 0 { 0 } else { 1 + varint_len(n) + n };
        let streamed = bytes_field + if end { 2 } else { 0 };
        let wrap = |inner: usize| 1 + varint_len(inner) + inner;
        let mutation = wrap(streamed);
        let common = wrap(mutation);
        let response = wrap(common);
        let out = &mut self.small;
        out.reserve(5 + 1 + 5 + 24 + if n < ZERO_COPY { n } else { 0 });
        out.push(0);
        let total = u32::try_from(wrap(response)).unwrap_or(u32::MAX);
        out.extend_from_slice(&total.to_be_bytes());
        // ProcessingResponse.{request,response}_body . response . body_mutation . streamed_response
        for (field, len) in [
            (body_field(side), response),
            (1, common),
            (3, mutation),
            (3, streamed),
        ] {
            out.push(field << 3 | 2);
            protobuf::put_varint(out, len as u64);
        }
        if n > 0 {
            out.push(1 << 3 | 2);
            protobuf::put_varint(out, n as u64);
            if n < ZERO_COPY {
                out.extend_from_slice(&body);
            } else {
                self.push(body);
            }
        }
        if end {
            self.small.extend_from_slice(&[2 << 3, 1]);
        }
    }
}
