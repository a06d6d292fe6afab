//! What an operator changes while it runs, and whether it took: the configuration in force, certificates; and what became of
//! spans.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use super::catalogue;
use super::page::{Page, Value};

/// State of the configuration.
#[derive(Debug, Default)]
pub struct Operations {
    /// Hash of the configuration in force, and since when, seconds.
    config: ArcSwapOption<(Arc<str>, f64)>,
    /// 1 while the last change was refused.
    config_refused: AtomicU64,
    certificates: [AtomicU64; 2],
    spans: [AtomicU64; 3],
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

    /// Writes what is known onto the page.
    pub fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        if let Some(config) = self.config.load_full() {
            let hash = [([("hash", config.0.clone())], Value::Level(1))];
            page.labelled(&catalogue::CONFIG_INFO, hash)?;
            let good = 1 - self.config_refused.load(Ordering::Relaxed) as i64;
            page.one(&catalogue::CONFIG_RELOAD_GOOD, Value::Level(good))?;
            page.one(&catalogue::CONFIG_RELOAD_TIME, Value::Ratio(config.1))?;
        }
        let [refused, taken] = &self.certificates;
        let reloads = [("failure", refused), ("success", taken)];
        let reloads =
            reloads.map(|(result, n)| ([("result", result)], Value::Count(n.load(Ordering::Relaxed))));
        page.labelled(&catalogue::CERTIFICATE_RELOADS, reloads)?;
        let spans = ["exported", "dropped", "failed"].into_iter().zip(&self.spans);
        let spans = spans.map(|(result, n)| ([("result", result)], Value::Count(n.load(Ordering::Relaxed))));
        page.labelled(&catalogue::TRACE_SPANS, spans)
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
