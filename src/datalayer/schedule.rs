//! When each endpoint is scraped: a fixed place within the interval, spread so that however endpoints come
//! and go their scrapes do not bunch up. A pure function of the endpoint's id.

use std::time::{Duration, Instant};

/// 2^64 divided by the golden ratio: multiples of it, modulo 2^64, fill any range evenly.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The moments at which one endpoint may be scraped: `origin + offset + n * interval`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    first: Instant,
    interval: Duration,
}

impl Schedule {
    /// The schedule of endpoint `id`. `interval` is longer than zero.
    pub fn new(origin: Instant, interval: Duration, id: u64) -> Self {
        let share = (u128::from(id.wrapping_mul(GOLDEN)) * interval.as_nanos()) >> 64;
        Schedule {
            first: origin + nanos(share),
            interval,
        }
    }

    /// The first moment later than `time`. Moments that have passed meanwhile are gone.
    pub fn after(&self, time: Instant) -> Instant {
        let Some(since) = time.checked_duration_since(self.first) else {
            return self.first;
        };
        let passed = since.as_nanos() / self.interval.as_nanos().max(1);
        self.first + nanos((passed + 1) * self.interval.as_nanos())
    }
}

fn nanos(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(50);

    #[test]
    fn moments_lie_one_interval_apart_and_missed_ones_are_dropped() {
        let origin = Instant::now();
        let schedule = Schedule::new(origin, INTERVAL, 7);
        let first = schedule.after(origin);
        assert!(first - origin <= INTERVAL);
        assert_eq!(schedule.after(first) - first, INTERVAL);
        let late = schedule.after(first + INTERVAL * 20 + Duration::from_millis(1));
        assert_eq!(late - first, INTERVAL * 21);
    }

    #[test]
    fn a_hundred_endpoints_are_spread_over_the_interval() {
        let origin = Instant::now();
        let mut moments: Vec<Duration> = (41..141)
            .map(|id| Schedule::new(origin, INTERVAL, id).first - origin)
            .collect();
        moments.sort();
        assert!(*moments.last().unwrap() < INTERVAL);
        let widest = moments.windows(2).map(|w| w[1] - w[0]).max().unwrap();
        assert!(widest <= INTERVAL / 50, "a gap of {widest:?}");
    }
}
