//! A request body as it came: a list of byte slices, shared, never rebuilt.

use bytes::{Bytes, BytesMut};

/// Body bytes in arrival order.
#[derive(Clone, Debug, Default)]
pub struct Body {
    chunks: Vec<Bytes>,
    len: usize,
}

impl Body {
    /// Appends a chunk; empty chunks are dropped.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push(chunk);
        }
    }

    /// Total bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The whole body as one slice. A body that came in one piece is not copied; otherwise the pieces are
    /// joined once and replaced by the joined slice, so that the bytes are never held twice.
    pub fn contiguous(&mut self) -> Bytes {
        if self.chunks.len() > 1 {
            let mut joined = BytesMut::with_capacity(self.len);
            for chunk in self.chunks.drain(..) {
                joined.extend_from_slice(&chunk);
            }
            self.chunks.push(joined.freeze());
        }
        self.chunks.first().cloned().unwrap_or_default()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let mut body = Body::default();
        body.push(bytes);
        body
    }
}
