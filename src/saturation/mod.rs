//! F4: is the pool full? The utilization detector (request.md §7.1): the mean over the candidates of
//! `max(waiting / queue threshold, kv usage / kv threshold)`; saturated at 1.0 and above.

use std::time::{Duration, Instant};

use crate::model::sample::Signals;

/// Thresholds of the detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UtilizationDetector {
    /// Waiting requests at which an endpoint is full; above 0.
    pub queue_depth_threshold: u32,
    /// KV-cache use at which an endpoint is full; in 0..1 exclusive.
    pub kv_cache_util_threshold: f64,
    /// Samples older than this count as full.
    pub metrics_staleness_threshold: Duration,
}

impl Default for UtilizationDetector {
    fn default() -> Self {
        UtilizationDetector {
            queue_depth_threshold: 5,
            kv_cache_util_threshold: 0.8,
            metrics_staleness_threshold: Duration::from_millis(200),
        }
    }
}

impl UtilizationDetector {
    /// Saturation of `signals` at `now`: 1.0 with no endpoints, and 1.0 for each stale one.
    pub fn saturation(&self, signals: &[Signals], now: Instant) -> f64 {
        if signals.is_empty() {
            return 1.0;
        }
        let sum: f64 = signals.iter().map(|s| self.endpoint(s, now)).sum();
        sum / signals.len() as f64
    }

    fn endpoint(&self, s: &Signals, now: Instant) -> f64 {
        if !s.fresh(now, self.metrics_staleness_threshold) {
            return 1.0;
        }
        let queue = f64::from(s.waiting) / f64::from(self.queue_depth_threshold);
        queue.max(s.kv_usage / self.kv_cache_util_threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals(waiting: u32, kv_usage: f64, updated: Option<Instant>) -> Signals {
        Signals {
            waiting,
            kv_usage,
            updated,
            ..Signals::default()
        }
    }

    #[test]
    fn worked_values_of_the_specification() {
        let now = Instant::now();
        let d = UtilizationDetector {
            kv_cache_util_threshold: 0.9,
            ..UtilizationDetector::default()
        };
        let old = now - Duration::from_millis(201);
        let rows: [(&[Signals], f64); 6] = [
            (&[], 1.0),
            (&[signals(0, 0.0, None)], 1.0),
            (&[signals(0, 0.0, Some(old))], 1.0),
            (&[signals(10, 0.1, Some(now))], 2.0),
            (&[signals(5, 0.0, Some(now))], 1.0),
            (&[signals(0, 0.45, Some(now)), signals(0, 0.0, Some(old))], 0.75),
        ];
        for (samples, expected) in rows {
            assert!(
                (d.saturation(samples, now) - expected).abs() < 1e-9,
                "{samples:?}"
            );
        }
    }
}
