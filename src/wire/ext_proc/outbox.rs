//! Where answers are collected: small ones in one buffer, large bodies by reference.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Side;
use super::encode::body_field;
use crate::wire::protobuf::{put_varint, varint_len};

/// Body bytes per streamed answer at most (request.md §1).
pub const CHUNK: usize = 62_000;

/// Bodies from this size on are sent without copying them into the outgoing buffer.
const ZERO_COPY: usize = 4096;

/// Of bodies larger than this the last piece is copied.
const COPIED_END: usize = 4 * CHUNK;

/// Where answers are collected: small ones in one buffer, large bodies by reference.
#[derive(Debug, Default)]
pub struct Outbox {
    ready: VecDeque<Bytes>,
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
            let mut piece = rest.split_to(rest.len().min(CHUNK));
            let last = rest.is_empty();
            if last && body.len() > COPIED_END {
                // Whoever holds the last piece longest must not hold the whole body with it.
                piece = Bytes::copy_from_slice(&piece);
            }
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
            put_varint(out, len as u64);
        }
        if n > 0 {
            out.push(1 << 3 | 2);
            put_varint(out, n as u64);
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
