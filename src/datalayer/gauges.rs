//! The pool gauges of our own metrics page: how many endpoints are fresh, and their averages
//! (runtime.md §4.4). Run by `app` beside the poller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::datastore::{Datastore, Fleet};
use crate::telemetry::metrics::Metrics;

/// Refreshes the pool gauges.
#[derive(Clone, Debug)]
pub struct PoolGauges {
    /// Whose endpoints are averaged.
    pub datastore: Arc<Datastore>,
    /// Where the gauges are.
    pub metrics: Arc<Metrics>,
    /// Tells the age of samples.
    pub clock: Clock,
    /// Time between refreshes (`--refresh-prometheus-metrics-interval`).
    pub interval: Duration,
    /// Samples older than this do not count (`--metrics-staleness-threshold`).
    pub staleness: Duration,
}

impl PoolGauges {
    /// Refreshes until `token` is cancelled; nothing is set before discovery has reported once. An interval
    /// of zero is taken as one millisecond.
    pub async fn run(self, token: CancellationToken) {
        let mut ticks = interval(self.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = ticks.tick() => self.refresh(),
            }
        }
    }

    fn refresh(&self) {
        if !self.datastore.synced() {
            return;
        }
        let averages = Averages::of(&self.datastore.fleet(), self.clock.now(), self.staleness);
        self.metrics.pool(
            self.datastore.pool_name(),
            averages.ready,
            averages.kv_usage,
            averages.waiting,
        );
    }
}

/// Means over the fresh endpoints; `None` when there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Averages {
    ready: u64,
    kv_usage: Option<f64>,
    waiting: Option<f64>,
}

impl Averages {
    fn of(fleet: &Fleet, now: Instant, staleness: Duration) -> Self {
        let (mut ready, mut kv_usage, mut waiting) = (0u32, 0.0, 0.0);
        for endpoint in fleet.endpoints.iter() {
            let signals = endpoint.signals("");
            if signals.fresh(now, staleness) {
                ready += 1;
                kv_usage += signals.kv_usage;
                waiting += f64::from(signals.waiting);
            }
        }
        let mean = |sum: f64| (ready > 0).then(|| sum / f64::from(ready));
        Averages {
            ready: ready.into(),
            kv_usage: mean(kv_usage),
            waiting: mean(waiting),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::endpoint::EndpointSpec;
    use crate::model::sample::Sample;

    #[test]
    fn fresh_endpoints_are_averaged_and_nothing_is_left_when_all_are_stale() {
        let datastore = Datastore::new("pool");
        let spec = |name: &str| EndpointSpec {
            namespace: "default".into(),
            name: name.into(),
            address: ([127, 0, 0, 1], 1).into(),
            metrics_address: None,
            metrics_path: None,
            labels: Default::default(),
        };
        datastore.set_endpoints(["a", "b", "never scraped"].map(spec).into());
        let clock = Clock::manual();
        let limit = Duration::from_secs(2);
        for (i, (waiting, kv_usage)) in [(1, 0.25), (2, 0.5)].into_iter().enumerate() {
            datastore.fleet().endpoints[i].publish(Sample {
                waiting,
                kv_usage,
                updated: Some(clock.now()),
                ..Sample::default()
            });
        }
        let averages = |clock: &Clock| {
            let a = Averages::of(&datastore.fleet(), clock.now(), limit);
            (a.ready, a.kv_usage, a.waiting)
        };
        assert_eq!(averages(&clock), (2, Some(0.375), Some(1.5)));
        clock.advance(limit + Duration::from_millis(1));
        assert_eq!(averages(&clock), (0, None, None));
    }
}
