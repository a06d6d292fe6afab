//! Serves a simulator over HTTP/1.1 and HTTP/2, with or without TLS. Called by `app::sim`.
//!
//! Nothing a client does holds the process: heads are limited in size and time, connections in number, and one that
//! takes nothing of what is written for it is closed, which gives back what its requests hold.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::net::accept::{self, WORKER_BACKLOG};
use crate::net::incoming::{HANDSHAKE_TIMEOUT, incoming};
use crate::net::io::Io;
use crate::net::tls::ServerTls;

/// Largest request head in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for a whole request head, on a fresh connection and between two requests.
    pub head: Duration,
    /// Longest time a client may take nothing of what is written for it.
    pub stalled: Duration,
    /// Connections at once; more wait in the kernel.
    pub connections: usize,
    /// Requests of one HTTP/2 connection at once.
    pub streams: u32,
    /// Time requests under way have after `stop`.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: Duration::from_secs(120),
            stalled: Duration::from_secs(60),
            connections: 65_536,
            streams: 1_024,
            drain: Duration::from_secs(30),
        }
    }
}

/// Serves until `stop`; then takes no more connections, lets requests under way end for `limits.drain`, and cuts
/// the rest.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let (to_us, sockets) = mpsc::channel(WORKER_BACKLOG);
    let taking = accept::run(listener, vec![to_us], stop.clone());
    let serving = async {
        let connections = incoming(sockets, tls, HANDSHAKE_TIMEOUT);
        tokio::pin!(connections);
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = open.join_next(), if !open.is_empty() => {}
                io = connections.next(), if open.len() < limits.connections => {
                    let Some(Ok(io)) = io else { break };
                    open.spawn(connection(io, router.clone(), limits, stop.clone()));
                }
            }
        }
        let ended = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(limits.drain, ended).await.is_err() {
            tracing::warn!(drain = ?limits.drain, "Requests are still under way and are cut off");
        }
    };
    tokio::join!(taking, serving);
}

async fn connection(io: Io, router: Router, limits: Limits, stop: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.stalled)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(limits.streams);
    let io = TokioIo::new(Patient::new(io, limits.stalled));
    let connection = builder.serve_connection(io, TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "Connection ended");
    }
}

/// A connection whose writes fail once nothing of them has been taken for a while.
struct Patient<T> {
    io: T,
    limit: Duration,
    /// Since when the write under way has made no progress, plus the limit.
    until: Option<Pin<Box<Sleep>>>,
}

impl<T> Patient<T> {
    fn new(io: T, limit: Duration) -> Self {
        Patient {
            io,
            limit,
            until: None,
        }
    }

    /// The outcome of a write: when it is stuck for too long, an error.
    fn watch<R>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.until = None;
            return outcome;
        }
        let limit = self.limit;
        let until = self
            .until
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        match until.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client takes nothing of what is written for it",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, buf);
        this.watch(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_flush(cx);
        this.watch(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_shutdown(cx);
        this.watch(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let mut patient = Patient::new(ours, Duration::from_millis(20));
        patient.write_all(b"12345678").await.unwrap();
        let error = patient.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
