//! Serves a simulator over HTTP/1.1 and HTTP/2, with or without TLS. Called by `app::sim`.
//!
//! [`connection`] finds out what a connection speaks; [`requests`] lets hyper read its requests and write short
//! answers; [`chunks`] writes events, which are most of what a simulator sends.
//!
//! Nothing a client does holds the process: heads are limited in size and time, connections in number, and one that
//! takes nothing of what is written for it is closed, which gives back what its requests hold.

mod chunks;
mod connection;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::net::accept::{self, WORKER_BACKLOG};
use crate::net::incoming::{HANDSHAKE_TIMEOUT, incoming};
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
                    open.spawn(connection::run(io, router.clone(), limits, stop.clone()));
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
