//! gRPC's message framing: a flag byte, a big-endian length, the message. Messages that lie in one piece are
//! handed out without copying; others are joined once all their bytes are there, so that a length alone
//! reserves nothing.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of an unfinished message that come in pieces smaller than this are copied together: each would keep
/// alive the whole buffer it was read into.
const KEPT: usize = 8 * 1024;

/// Why a frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The flag byte announces compression, which was not negotiated.
    #[error("compressed messages are not supported")]
    Compressed,
    /// The message is larger than the limit.
    #[error("message of {0} bytes is larger than the limit of {1} (--grpc-max-recv-msg-size)")]
    TooLarge(usize, usize),
}

/// Takes bytes as they come and gives messages.
#[derive(Debug)]
pub struct Deframer {
    pieces: VecDeque<Bytes>,
    /// Small pieces after the last one of `pieces`.
    tail: Vec<u8>,
    len: usize,
    limit: usize,
}

const PREFIX: usize = 5;

impl Deframer {
    /// A deframer that refuses messages larger than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Deframer {
            pieces: VecDeque::new(),
            tail: Vec::new(),
            len: 0,
            limit,
        }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.len > 0 && bytes.len() < KEPT {
            self.copy_small_front();
            self.tail.extend_from_slice(&bytes);
        } else {
            self.end_tail();
            self.pieces.push_back(bytes.clone());
        }
        self.len += bytes.len();
    }

    /// Nothing more comes for a while: lets go of a buffer of which only a small beginning of a message is needed.
    pub fn settle(&mut self) {
        if self.len > 0 {
            self.copy_small_front();
        }
    }

    /// A small first piece becomes the tail.
    fn copy_small_front(&mut self) {
        if self.tail.is_empty()
            && self.pieces.len() == 1
            && let Some(piece) = self.pieces.pop_front_if(|p| p.len() < KEPT)
        {
            self.tail.extend_from_slice(&piece);
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }

    /// Bytes of memory held for what was not handed out.
    pub fn held(&self) -> usize {
        self.len + (self.tail.capacity() - self.tail.len()) + self.pieces.len() * size_of::<Bytes>()
    }

    /// Bytes held that are not part of a message handed out.
    #[cfg(test)]
    pub fn pending(&self) -> usize {
        self.len
    }

    /// Forgets what is held.
    pub fn clear(&mut self) {
        *self = Deframer::new(self.limit);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// The frame is compressed or larger than the limit; the stream cannot go on.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(prefix) = self.prefix() else {
            return Ok(None);
        };
        if prefix[0] != 0 {
            return Err(FrameError::Compressed);
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if len > self.limit {
            return Err(FrameError::TooLarge(len, self.limit));
        }
        if self.len < PREFIX + len {
            return Ok(None);
        }
        self.end_tail();
        self.skip(PREFIX);
        Ok(Some(self.take(len)))
    }

    fn prefix(&self) -> Option<[u8; PREFIX]> {
        if let Some(p) = self.pieces.front().and_then(|f| f.first_chunk::<PREFIX>()) {
            return Some(*p);
        }
        let mut prefix = [0; PREFIX];
        let mut bytes = self.pieces.iter().flatten().chain(&self.tail);
        for slot in &mut prefix {
            *slot = *bytes.next()?;
        }
        Some(prefix)
    }

    fn skip(&mut self, mut n: usize) {
        self.len -= n;
        while n > 0 {
            let Some(front) = self.pieces.front_mut() else {
                return;
            };
            let step = n.min(front.len());
            front.advance(step);
            n -= step;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn take(&mut self, n: usize) -> Bytes {
        if n == 0 {
            return Bytes::new();
        }
        if let Some(front) = self.pieces.front_mut()
            && front.len() >= n
        {
            self.len -= n;
            let message = front.split_to(n);
            if front.is_empty() {
                self.pieces.pop_front();
            }
            return message;
        }
        let mut joined = BytesMut::with_capacity(n);
        while joined.len() < n {
            let Some(front) = self.pieces.front_mut() else {
                break;
            };
            let step = (n - joined.len()).min(front.len());
            joined.extend_from_slice(&front.split_to(step));
            self.len -= step;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for m in messages {
            out.push(0);
            out.extend_from_slice(&u32::try_from(m.len()).unwrap().to_be_bytes());
            out.extend_from_slice(m);
        }
        out
    }

    proptest! {
        #[test]
        fn messages_come_out_however_the_bytes_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in prop::collection::vec(1usize..20, 1..50),
        ) {
            let bytes = Bytes::from(framed(&messages));
            let (mut deframer, mut got, mut rest) = (Deframer::new(1024), Vec::new(), bytes);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                deframer.push(rest.split_to((*cut).min(rest.len())));
                while let Some(m) = deframer.next_message().unwrap() {
                    got.push(m.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!(deframer.pending(), 0);
        }

        #[test]
        fn an_unfinished_message_holds_little_more_than_its_bytes(
            sizes in prop::collection::vec(prop_oneof![8 => 1_usize..30, 1 => 8_000_usize..17_000], 1..60),
        ) {
            let mut deframer = Deframer::new(1 << 20);
            deframer.push(Bytes::from_static(&[0, 0, 0x0f, 0xff, 0xff]));
            let (mut sum, mut small) = (5, 0);
            for size in sizes {
                let buffer = Bytes::from(vec![7; 20_000]);
                deframer.push(buffer.slice(0..size));
                deframer.settle();
                prop_assert!(deframer.next_message().unwrap().is_none());
                prop_assert!(size >= KEPT || buffer.is_unique(), "a small piece keeps its buffer");
                (sum, small) = (sum + size, small + usize::from(size < KEPT) * size);
                prop_assert_eq!(deframer.pending(), sum);
                prop_assert!(deframer.held() <= sum + 2 * small + 4096, "{} for {sum}", deframer.held());
            }
            deframer.push(Bytes::from(vec![7; 0x000f_ffff + 5 - sum]));
            let message = deframer.next_message().unwrap().unwrap();
            prop_assert!(message.len() == 0x000f_ffff && message.iter().all(|b| *b == 7));
            prop_assert_eq!(deframer.pending(), 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut deframer = Deframer::new(64);
            deframer.push(Bytes::from(bytes));
            while let Ok(Some(_)) = deframer.next_message() {}
        }
    }

    #[test]
    fn compressed_and_oversized_messages_are_refused_before_anything_is_reserved() {
        let mut d = Deframer::new(10);
        d.push(Bytes::from_static(&[1, 0, 0, 0, 1]));
        assert_eq!(d.next_message(), Err(FrameError::Compressed));
        let mut d = Deframer::new(10);
        d.push(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        assert_eq!(d.next_message(), Err(FrameError::TooLarge(0xffff_ffff, 10)));
    }
}
