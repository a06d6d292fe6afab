//! What the poller remembers of an endpoint's scrapes: when to say something, and how long to leave a failing
//! endpoint alone.

use std::fmt::Display;
use std::time::Duration;

/// The longest pause between scrapes of an endpoint that keeps failing.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How the last scrapes of an endpoint went.
#[derive(Debug, Default)]
pub(super) enum Health {
    /// No scrape yet.
    #[default]
    Unknown,
    /// The last one was read.
    Fine,
    /// The last `n` failed.
    Failing(u32),
}

impl Health {
    /// A page was read. Says so when the endpoint was failing.
    pub fn succeeded(&mut self, endpoint: &str) {
        if let Health::Failing(times) = self {
            tracing::info!(endpoint, failures = *times, "metrics are read again");
        }
        *self = Health::Fine;
    }

    /// A scrape failed. Says why when it is the first in a row, and at debug level afterwards.
    pub fn failed(&mut self, endpoint: &str, reason: &dyn Display) {
        let Health::Failing(times) = self else {
            tracing::warn!(endpoint, %reason, "metrics cannot be read, the endpoint goes stale");
            *self = Health::Failing(1);
            return;
        };
        *times = times.saturating_add(1);
        tracing::debug!(endpoint, failures = *times, %reason, "metrics still cannot be read");
    }

    /// What to wait beyond the next turn: nothing after the first failure, then twice as long each time, up
    /// to a second.
    pub fn pause(&self, interval: Duration) -> Duration {
        match self {
            Health::Failing(times @ 2..) => interval.saturating_mul(1 << (times - 2).min(16)).min(MAX_PAUSE),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_endpoint_is_asked_less_and_less_but_at_least_every_second() {
        let interval = Duration::from_millis(50);
        let mut health = Health::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            health.failed("a", &"gone");
            pauses.push(health.pause(interval).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        health.succeeded("a");
        assert_eq!(health.pause(interval), Duration::ZERO);
    }
}
