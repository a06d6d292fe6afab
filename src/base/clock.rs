//! The clock everything above asks for the time, so that tests can hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A source of monotonic time. Cheap to clone; all clones of a manual clock share its hands.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The operating system's monotonic clock.
    #[default]
    System,
    /// A clock that moves only when told to.
    Manual(Arc<ManualClock>),
}

/// The hands of a manual clock: a fixed origin and the nanoseconds advanced since.
#[derive(Debug)]
pub struct ManualClock {
    origin: Instant,
    advanced: AtomicU64,
}

impl Clock {
    /// A clock that stands still until [`Clock::advance`].
    pub fn manual() -> Self {
        Clock::Manual(Arc::new(ManualClock {
            origin: Instant::now(),
            advanced: AtomicU64::new(0),
        }))
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            Clock::Manual(m) => m.origin + Duration::from_nanos(m.advanced.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock forward; the system clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(m) = self {
            let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            m.advanced.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual();
        let (a, b) = (clock.now(), clock.clone());
        assert_eq!(a, clock.now());
        b.advance(Duration::from_millis(5));
        assert_eq!(clock.now() - a, Duration::from_millis(5));
    }
}
