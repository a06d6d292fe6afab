//! What an operator changes while it runs, and whether it took: the configuration in force, certificates; whether the API
//! server answers; and what became of spans.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use super::catalogue;
use super::page::{Page, Value};

/// Reads an age.
type Age = Box<dyn Fn() -> Duration + Send + Sync>;

/// State of the configuration.
#[derive(Default)]
pub struct Operations {
    /// Hash of the configuration in force, and since when, seconds.
    config: ArcSwapOption<(Arc<str>, f64)>,
    /// 1 while the last change was refused.
    config_refused: AtomicU64,
    certificates: [AtomicU64; 2],
    spans: [AtomicU64; 3],
    streams: [AtomicU64; 3],
    buffered: ArcSwapOption<Buffered>,
    api_server: OnceLock<Age>,
}

/// Where the bytes under way are read from.
pub struct Buffered {
    /// Most bytes.
    pub limit: u64,
    /// Bytes now; called once per page.
    pub read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Buffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Operations {
    /// A configuration is in force.
    pub fn config_applied(&self, hash: &str, at: SystemTime) {
        self.config_refused.store(0, Ordering::Relaxed);
        self.config.store(Some(Arc::new((hash.into(), seconds(at)))));
    }

    /// The last change was refused.
    pub fn config_refused(&self) {
        self.config_refused.store(1, Ordering::Relaxed);
    }

    /// Changed certificate files were taken, or refused.
    pub fn certificate_reloaded(&self, good: bool) {
        self.certificates[usize::from(good)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts spans as exported (0), dropped (1) or failed (2).
    pub fn spans(&self, result: usize, n: u64) {
        self.spans[result].fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a stream as ended for want of room (0), of a body in time (1) or of any traffic (2).
    pub fn stream_ended_early(&self, reason: usize) {
        self.streams[reason].fetch_add(1, Ordering::Relaxed);
    }

    /// Says where the bytes under way are read from; the last call wins.
    pub fn buffered(&self, buffered: Buffered) {
        self.buffered.store(Some(Arc::new(buffered)));
    }

    /// Where the age of the API server's last word is read; the first call counts.
    pub fn api_server(&self, age: Age) {
        let _already_known = self.api_server.set(age);
    }

    /// Writes what is known onto the page.
    pub fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        if let Some(config) = self.config.load_full() {
            let hash = [([("hash", config.0.clone())], Value::Level(1))];
            page.labelled(&catalogue::CONFIG_INFO, hash)?;
            let good = 1 - self.config_refused.load(Ordering::Relaxed) as i64;
            page.one(&catalogue::CONFIG_RELOAD_GOOD, Value::Level(good))?;
            page.one(&catalogue::CONFIG_RELOAD_TIME, Value::Ratio(config.1))?;
        }
        if let Some(age) = self.api_server.get() {
            page.one(&catalogue::API_SERVER_AGE, Value::Ratio(age().as_secs_f64()))?;
        }
        let [refused, taken] = &self.certificates;
        let reloads = [("failure", refused), ("success", taken)];
        let reloads =
            reloads.map(|(result, n)| ([("result", result)], Value::Count(n.load(Ordering::Relaxed))));
        page.labelled(&catalogue::CERTIFICATE_RELOADS, reloads)?;
        let spans = ["exported", "dropped", "failed"].into_iter().zip(&self.spans);
        let spans = spans.map(|(result, n)| ([("result", result)], Value::Count(n.load(Ordering::Relaxed))));
        page.labelled(&catalogue::TRACE_SPANS, spans)?;
        if let Some(buffered) = self.buffered.load_full() {
            page.one(&catalogue::BUFFERED_BYTES, Value::Level((buffered.read)() as i64))?;
            page.one(&catalogue::BUFFERED_LIMIT, Value::Level(buffered.limit as i64))?;
        }
        let streams = ["buffers_full", "body_timeout", "idle"]
            .into_iter()
            .zip(&self.streams);
        let streams =
            streams.map(|(reason, n)| ([("reason", reason)], Value::Count(n.load(Ordering::Relaxed))));
        page.labelled(&catalogue::STREAMS_ENDED, streams)
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
