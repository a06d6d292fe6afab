//! gRPC's message framing: a flag byte, a big-endian length, the message. Messages that lie in one piece are
//! handed out without copying; others are joined once all their bytes are there, so that a length alone
//! reserves nothing.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

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
    len: usize,
    limit: usize,
}

const PREFIX: usize = 5;

impl Deframer {
    /// A deframer that refuses messages larger than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Deframer {
            pieces: VecDeque::new(),
            len: 0,
            limit,
        }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.pieces.push_back(bytes);
        }
    }

    /// Bytes held that are not part of a message handed out.
    pub fn pending(&self) -> usize {
        self.len
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
        self.skip(PREFIX);
        Ok(Some(self.take(len)))
    }

    fn prefix(&self) -> Option<[u8; PREFIX]> {
        if let Some(p) = self.pieces.front().and_then(|f| f.first_chunk::<PREFIX>()) {
            return Some(*p);
        }
        let mut prefix = [0; PREFIX];
        let mut bytes = self.pieces.iter().flatten();
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
