//! A request body as it came: large pieces by reference, small ones merged, so that it holds little more memory than it has bytes.

use bytes::{Bytes, BytesMut};

/// Pieces from this size on are kept as they came. A smaller one is copied: it would keep alive the whole buffer it was
/// read into, with whatever else was in there.
const KEPT: usize = 16 * 1024;

/// Small pieces are merged into parts of about this size.
const PART: usize = 64 * 1024;

/// Body bytes in arrival order.
#[derive(Clone, Debug, Default)]
pub struct Body {
    parts: Vec<Bytes>,
    len: usize,
    /// Small pieces after the last part.
    tail: Vec<u8>,
}

impl Body {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() >= KEPT {
            self.end_tail();
            self.parts.push(piece);
        } else {
            self.merge(&piece);
        }
    }

    /// Copies a small piece; parts are filled exactly.
    fn merge(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(PART - self.tail.len()));
            let needed = self.tail.len() + now.len();
            if needed > self.tail.capacity() {
                let roomy = (2 * self.tail.capacity()).clamp(needed, PART);
                self.tail.reserve_exact(roomy - self.tail.len());
            }
            self.tail.extend_from_slice(now);
            if self.tail.len() == PART {
                self.end_tail();
            }
            piece = later;
        }
    }

    fn end_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        if tail.is_empty() {
            return;
        }
        let roomy = tail.capacity() > tail.len() + tail.len() / 8;
        self.parts.push(if roomy {
            Bytes::copy_from_slice(&tail)
        } else {
            tail.into()
        });
    }

    /// Total bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory held.
    pub fn held(&self) -> usize {
        let small = self.tail.capacity() - self.tail.len();
        self.len + small + self.parts.capacity() * size_of::<Bytes>()
    }

    /// The whole body as one slice. A body in one part is not copied; otherwise the parts are joined once and replaced
    /// by the joined slice, each let go as it is copied, so that the bytes are never held twice.
    pub fn contiguous(&mut self) -> Bytes {
        self.end_tail();
        if self.parts.len() > 1 {
            let mut joined = BytesMut::with_capacity(self.len);
            for part in self.parts.drain(..) {
                joined.extend_from_slice(&part);
            }
            self.parts.push(joined.freeze());
        }
        self.parts.first().cloned().unwrap_or_default()
    }
}

/// A body that came in one piece: nothing is copied.
impl From<Bytes> for Body {
    fn from(piece: Bytes) -> Self {
        Body {
            len: piece.len(),
            parts: if piece.is_empty() { Vec::new() } else { vec![piece] },
            tail: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_body_is_its_pieces_in_order_however_they_are_cut(
            sizes in prop::collection::vec(prop_oneof![0_usize..40, 15_000_usize..70_000], 0..12),
        ) {
            let mut body = Body::default();
            let mut whole = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                let piece = vec![i as u8; *size];
                whole.extend_from_slice(&piece);
                body.push(piece.into());
                prop_assert_eq!(body.len(), whole.len());
                prop_assert!(body.held() >= body.len());
            }
            prop_assert_eq!(body.is_empty(), whole.is_empty());
            prop_assert_eq!(&body.contiguous()[..], &whole[..]);
            prop_assert_eq!(body.len(), whole.len());
            prop_assert_eq!(&body.contiguous()[..], &whole[..]);
        }
    }

    #[test]
    fn a_million_pieces_of_a_byte_hold_little_more_than_a_million_bytes() {
        let mut body = Body::default();
        for _ in 0..1_000_000 {
            body.push(Bytes::from_static(b"x"));
        }
        assert!(body.held() < 1_100_000, "{}", body.held());
    }

    #[test]
    fn a_small_piece_does_not_keep_its_buffer_alive() {
        let buffer = Bytes::from(vec![1; 1 << 20]);
        let mut body = Body::default();
        body.push(buffer.slice(0..10));
        assert!(buffer.is_unique());
        body.push(buffer.slice(0..KEPT));
        assert!(!buffer.is_unique(), "a large one is not copied");
        drop(body);
        let whole = Body::from(buffer.slice(0..10));
        assert!(!buffer.is_unique(), "nor one that is the whole body");
        drop(whole);
    }
}
