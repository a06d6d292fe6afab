//! Reads a connection in turns, so that what was read is used up before more is. Made by [`super::http2`].
//!
//! HTTP/2 keeps account of small DATA frames and of streams that were reset before they were accepted, and ends the
//! connection, with every stream on it, when too many are pending. A peer that shares its connection among many clients
//! comes to such numbers honestly when the thread was busy for a moment and the socket is full. With turns, the tasks of
//! the streams run before the accounts can fill.
//!
//! A peer that does not take what is written for it is read no further, either: its frames ask for answers that would
//! pile up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::places::Use;

/// Bytes of one turn. A frame has 10 bytes at least, so that with the 8 KiB of one read too many a turn brings 4,100
/// frames at most; each costs 255 of the budget of half the connection's window: 1 MiB of it, where the smallest window
/// gives 2.
pub const TURN: usize = 32 * 1024;

/// Bytes that are read while nothing of what is written is taken.
const UNANSWERED: usize = 256 * 1024;

/// The first bytes of every HTTP/2 connection.
const PREFACE: usize = 24;

/// A connection that is read in turns.
#[derive(Debug)]
pub struct Paced<T> {
    io: T,
    used: Arc<Use>,
    /// Bytes of the preface that have come.
    begun: usize,
    /// The last write was not taken; bytes read since.
    stuck: Option<usize>,
    /// Reading waits for a write.
    waiting: bool,
}

impl Use {
    /// Begins a turn: what serves the connection is polled.
    pub fn begin_turn(&self) {
        self.turn.store(TURN, Relaxed);
    }
}

impl<T> Paced<T> {
    /// Reads `io` in turns that `used` begins.
    pub fn new(io: T, used: Arc<Use>) -> Self {
        Paced {
            io,
            used,
            begun: 0,
            stuck: None,
            waiting: false,
        }
    }

    fn count(&mut self, read: usize) {
        if self.begun < PREFACE {
            self.begun += read;
            if self.begun >= PREFACE {
                self.used.begun();
            }
        }
        let left = self.used.turn.load(Relaxed);
        self.used.turn.store(left.saturating_sub(read), Relaxed);
        if let Some(unanswered) = &mut self.stuck {
            *unanswered += read;
        }
    }

    /// Follows what became of a write.
    fn written<R>(&mut self, cx: &Context<'_>, outcome: Poll<R>) -> Poll<R> {
        if outcome.is_pending() {
            self.stuck.get_or_insert(0);
        } else if self.stuck.take().is_some() && std::mem::take(&mut self.waiting) {
            cx.waker().wake_by_ref();
        }
        outcome
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stuck.is_some_and(|unanswered| unanswered > UNANSWERED) {
            this.waiting = true;
            return Poll::Pending;
        }
        if this.used.turn.load(Relaxed) == 0 {
            // The tasks that were woken are in line already: they run first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.io).poll_read(cx, buf);
        this.count(buf.filled().len() - before);
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_turn_ends_and_the_next_goes_on() {
        let (ours, mut theirs) = tokio::io::duplex(4 * TURN);
        theirs.write_all(&vec![7; 2 * TURN]).await.unwrap();
        let used = Arc::<Use>::default();
        let mut paced = Paced::new(ours, used.clone());
        let mut read = vec![0; 4 * TURN];
        used.begin_turn();
        let first = paced.read(&mut read[..TURN]).await.unwrap();
        assert_eq!(first, TURN);
        assert!(
            poll!(Box::pin(paced.read(&mut read))).is_pending(),
            "the turn is over"
        );
        used.begin_turn();
        assert_eq!(paced.read(&mut read).await.unwrap(), TURN);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_read_no_further_until_it_does() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let used = Arc::<Use>::default();
        let mut paced = Paced::new(ours, used.clone());
        paced.write_all(&[0; 1024]).await.unwrap();
        assert!(poll!(Box::pin(paced.write(b"more"))).is_pending());
        let mut block = [1; 1024];
        let mut read = 0;
        while read <= UNANSWERED {
            theirs.write_all(&block).await.unwrap();
            used.begin_turn();
            read += paced.read(&mut block).await.unwrap();
        }
        theirs.write_all(&block).await.unwrap();
        used.begin_turn();
        assert!(poll!(Box::pin(paced.read(&mut block))).is_pending());
        theirs.read_exact(&mut block).await.unwrap();
        paced.write_all(b"more").await.unwrap();
        assert_eq!(paced.read(&mut block).await.unwrap(), 1024);
    }
}
