//! One connection, from its first byte to its last. Run by [`super::serve`].

use std::io;
use std::time::Duration;

use axum::Router;
use bytes::BytesMut;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::requests::{self, Next, Routes};
use super::{Limits, MAX_HEAD_BYTES, chunks};
use crate::net::io::Io;
use crate::net::patient::Patient;
use crate::net::prefixed::Prefixed;

/// What a connection that speaks HTTP/2 begins with.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection as it is served.
pub type Connection = Prefixed<Patient<Io>>;

/// Serves it until one side ends it.
pub async fn run(io: Io, router: Router, limits: Limits, stop: CancellationToken) {
    if let Err(error) = serve(io, router, limits, stop).await {
        tracing::debug!(error, "Connection ended");
    }
}

async fn serve(
    io: Io,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut io = Patient::new(io, limits.stalled);
    // Boxed, as is all that is over when events are written: a connection that waits with its stream must not carry it.
    let Some(begun) = stop
        .run_until_cancelled(Box::pin(begin(&mut io, limits.head)))
        .await
        .transpose()?
    else {
        return Ok(());
    };
    let mut io = Prefixed::new(io, &begun);
    if begun.as_ref() == HTTP2 {
        return Box::pin(http2(io, router, limits, stop)).await;
    }
    drop(begun);
    while let Next::Events(back, answer) =
        Box::pin(requests::serve(io, router.clone(), limits, stop.clone())).await?
    {
        io = back;
        let stays = chunks::write(&mut io, answer).await?;
        if !stays || stop.is_cancelled() {
            io.shutdown().await?;
            break;
        }
    }
    Ok(())
}

/// The first bytes: enough to tell HTTP/2 from HTTP/1.
async fn begin(io: &mut Patient<Io>, limit: Duration) -> io::Result<BytesMut> {
    let read = async {
        let mut begun = BytesMut::with_capacity(HTTP2.len());
        while begun.len() < HTTP2.len() && HTTP2.starts_with(&begun) {
            let missing = HTTP2.len() - begun.len();
            if io.take(missing as u64).read_buf(&mut begun).await? == 0 {
                break;
            }
        }
        Ok(begun)
    };
    timeout(limit, read).await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client sends nothing",
        ))
    })
}

async fn http2(
    io: Connection,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.stalled)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(limits.streams);
    let connection = builder.serve_connection(TokioIo::new(io), Routes::new(router));
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
