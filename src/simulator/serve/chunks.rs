//! Writes events to an HTTP/1.1 connection, as chunks: whatever is there at once is one chunk and one write. While a
//! stream waits, it holds no buffer. Called by [`super::connection`].

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use axum::http::header;
use tokio::io::AsyncWrite;

use super::MAX_HEAD_BYTES;
use super::connection::Connection;
use super::requests::Answer;
use crate::net::prefixed::Ahead;
use crate::simulator::events::Events;

/// Room before a chunk for its length: 8 digits, CR, LF.
const ROOM: usize = 10;

/// Most chunks are shorter.
const USUAL: usize = 512;

struct Writing<'a> {
    io: &'a mut Connection,
    events: Box<dyn Events>,
    /// To be written, from `begin`.
    out: Vec<u8>,
    begin: usize,
    over: bool,
}

/// Writes an answer to its end. Can the connection be used again?
///
/// # Errors
/// The client has left, or takes nothing: the events are dropped.
pub async fn write(io: &mut Connection, answer: Box<Answer>) -> io::Result<bool> {
    let keep_alive = answer.keep_alive;
    let mut writing = Writing::begin(io, answer)?;
    std::future::poll_fn(|cx| writing.poll(cx)).await?;
    Ok(keep_alive)
}

/// The head of an answer in chunks.
fn head(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    let status = answer.head.status;
    write!(
        out,
        "HTTP/1.1 {} {}\r\n",
        status.as_str(),
        status.canonical_reason().unwrap_or("")
    )?;
    for (name, value) in &answer.head.headers {
        if name != header::CONTENT_LENGTH {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    if !answer.keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    write!(out, "transfer-encoding: chunked\r\ndate: {date}\r\n\r\n")?;
    Ok(out)
}

impl<'a> Writing<'a> {
    /// Keeps of the answer no more than its events, for as long as they take.
    fn begin(io: &'a mut Connection, answer: Box<Answer>) -> io::Result<Self> {
        Ok(Writing {
            out: head(&answer)?,
            io,
            events: answer.events,
            begin: 0,
            over: false,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io.poll_ahead(cx, MAX_HEAD_BYTES) {
            Poll::Ready(Ok(Ahead::End)) => {
                let left = io::Error::new(io::ErrorKind::UnexpectedEof, "the client left during its answer");
                return Poll::Ready(Err(left));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // A client that sends its next requests too early is read again after this one.
            Poll::Ready(Ok(Ahead::Full)) | Poll::Pending => {}
        }
        loop {
            while self.begin < self.out.len() {
                let n = ready!(Pin::new(&mut *self.io).poll_write(cx, &self.out[self.begin..]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.begin += n;
            }
            ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            if self.over {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_chunk(cx));
        }
    }

    /// The next chunk, ready to be written.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.out.clear();
        self.out.reserve(USUAL);
        self.begin = 0;
        self.out.resize(ROOM, 0);
        let Poll::Ready(more) = self.events.poll(cx, &mut self.out) else {
            // A stream waits far longer than it writes.
            self.out = Vec::new();
            return Poll::Pending;
        };
        self.over = !more;
        let length = self.out.len() - ROOM;
        if length == 0 {
            // A chunk without bytes would end the answer.
            self.out.clear();
        } else {
            let digits = format!("{length:x}\r\n");
            self.begin = ROOM - digits.len();
            self.out[self.begin..ROOM].copy_from_slice(digits.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        if self.over {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        Poll::Ready(())
    }
}
