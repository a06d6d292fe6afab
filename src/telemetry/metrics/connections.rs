//! Counts connections by port: how many are open, and how many ended in another way than either side asked for. Written
//! by `net`.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::catalogue;
use super::page::{Page, Value};

/// A listening port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// ext_proc.
    ExtProc,
    /// gRPC health.
    Health,
    /// Metrics and debug pages.
    Metrics,
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its TLS handshake failed or took too long.
    Handshake,
    /// It sent no HTTP/2 preface in time.
    Silent,
    /// The peer broke the rules of HTTP.
    Protocol,
    /// Reading or writing failed, a reset by the peer included.
    Io,
    /// It was closed for a newer one: the port was at its limit.
    Evicted,
    /// It was not taken: the port was at its limit, and every other connection was at work.
    Refused,
}

const PORTS: [&str; 3] = ["ext_proc", "health", "metrics"];
const REASONS: [&str; 6] = ["handshake", "silent", "protocol", "io", "evicted", "refused"];

/// The counters.
#[derive(Debug, Default)]
pub struct Connections {
    open: [AtomicI64; PORTS.len()],
    failed: [[AtomicU64; REASONS.len()]; PORTS.len()],
}

impl Port {
    /// Its name on the page and in the log.
    pub fn name(self) -> &'static str {
        PORTS[self as usize]
    }
}

impl Connections {
    /// A connection was taken (1) or has ended (-1).
    pub fn opened(&self, port: Port, by: i64) {
        self.open[port as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// A connection failed.
    pub fn failed(&self, port: Port, why: Failure) {
        self.failed[port as usize][why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Writes both families; a reason that never occurred has no series.
    pub fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let open = PORTS.into_iter().zip(&self.open);
        let open = open.map(|(port, n)| ([("port", port)], Value::Level(n.load(Ordering::Relaxed))));
        page.labelled(&catalogue::CONNECTIONS, open)?;
        let failed = PORTS.into_iter().zip(&self.failed).flat_map(|(port, reasons)| {
            let counts = REASONS.into_iter().zip(reasons);
            counts.map(move |(reason, n)| (port, reason, n.load(Ordering::Relaxed)))
        });
        let failed = failed
            .filter(|(.., n)| *n > 0)
            .map(|(port, reason, n)| ([("port", port), ("reason", reason)], Value::Count(n)));
        page.labelled(&catalogue::CONNECTION_FAILURES, failed)
    }
}
