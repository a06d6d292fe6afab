//! A connection of which something has been read already: that comes first when it is read again. Used by
//! `simulator::serve`, which looks at the first bytes of a connection, and reads ahead while an answer is written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read ahead at once.
const STEP: usize = 1024;

/// A connection and what has been read of it.
#[derive(Debug)]
pub struct Prefixed<T> {
    io: T,
    prefix: BytesMut,
}

impl<T> Prefixed<T> {
    /// `prefix` was read before what `io` still holds.
    pub fn new(io: T, prefix: &[u8]) -> Self {
        Prefixed {
            io,
            prefix: BytesMut::from(prefix),
        }
    }

    /// Puts back what was taken from the front. Copied: what it was a part of can be freed.
    pub fn put_back(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let mut all = BytesMut::with_capacity(bytes.len() + self.prefix.len());
            all.extend_from_slice(&bytes);
            all.extend_from_slice(&self.prefix);
            self.prefix = all;
        }
    }

    /// What has been read ahead.
    pub fn ahead(&self) -> &[u8] {
        &self.prefix
    }
}

impl<T: AsyncRead + Unpin> Prefixed<T> {
    /// Reads ahead, until `limit` bytes are there. `Pending`, waking the task, as long as the peer may send more.
    ///
    /// # Errors
    /// The connection broke. `Ok`: the peer sends nothing more, or as much is there as may be.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<Ahead>> {
        while self.prefix.len() < limit {
            let mut space = [0; STEP];
            let room = STEP.min(limit - self.prefix.len());
            let mut buf = ReadBuf::new(&mut space[..room]);
            std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(Ahead::End));
            }
            self.prefix.extend_from_slice(buf.filled());
        }
        Poll::Ready(Ok(Ahead::Full))
    }
}

/// Why no more is read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// The peer has ended its side.
    End,
    /// As much is there as may be.
    Full,
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            // Gives its memory back.
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_nothing_is_lost() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"cdef").await.unwrap();
        let mut io = Prefixed::new(ours, b"b");
        io.put_back(Bytes::from_static(b"a"));
        let full = std::future::poll_fn(|cx| io.poll_ahead(cx, 4)).await.unwrap();
        assert_eq!((full, io.ahead()), (Ahead::Full, &b"abcd"[..]));
        drop(theirs);
        let end = std::future::poll_fn(|cx| io.poll_ahead(cx, 100)).await.unwrap();
        assert_eq!(end, Ahead::End);
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"abcdef");
    }
}
