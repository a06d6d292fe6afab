//! What the poller remembers of an endpoint's scrapes: when to log something, and how long to pause after failures.

use std::fmt::Display;
use std::time::Duration;

/// The longest pause between scrapes of an endpoint that keeps failing, beyond its turn.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How the last scrapes of an endpoint went.
#[derive(Debug, Default)]
pub(super) enum Attempts {
    /// No scrape yet.
    #[default]
    Unknown,
    /// The last one was read.
    Fine,
    /// The last `n` failed.
    Failing(u32),
}

impl Attempts {
    /// A page was read. Says so when the endpoint was failing.
    pub fn succeeded(&mut self, endpoint: &str) {
        if let Attempts::Failing(times) = self {
            tracing::info!(endpoint, failures = *times, "metrics are read again");
        }
        *self = Attempts::Fine;
    }

    /// A scrape failed. Says why when it is the first in a row, and at debug level afterwards.
    pub fn failed(&mut self, endpoint: &str, reason: &dyn Display) {
        let Attempts::Failing(times) = self else {
            tracing::warn!(endpoint, %reason, "metrics cannot be read, the endpoint goes stale");
            *self = Attempts::Failing(1);
            return;
        };
        *times = times.saturating_add(1);
        tracing::debug!(endpoint, failures = *times, %reason, "metrics still cannot be read");
    }

    /// What to wait beyond the next turn: nothing after the first failure, then twice as long each time, up
    /// to a second.
    pub fn pause(&self, interval: Duration) -> Duration {
        match self {
            Attempts::Failing(times @ 2..) => {
                interval.saturating_mul(1 << (times - 2).min(16)).min(MAX_PAUSE)
            }
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
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            attempts.failed("a", &"gone");
            pauses.push(attempts.pause(interval).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        attempts.succeeded("a");
        assert_eq!(attempts.pause(interval), Duration::ZERO);
    }
}
