//! Keeps a repeated message from flooding the log: of the same one the first 100 of a second pass, then every
//! 100th.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// Messages that pass in full each second, and then the step between those that pass.
const FIRST: u64 = 100;

/// Counters; messages that share one are counted together, as in the reference.
const SLOTS: usize = 1024;

#[derive(Debug, Default)]
struct Slot {
    second: AtomicU64,
    seen: AtomicU64,
}

/// Counts messages by level and text.
#[derive(Debug)]
pub struct Sampler {
    slots: Box<[Slot]>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
        }
    }
}

impl Sampler {
    /// Does this message pass? `second`: the time in whole seconds.
    pub fn passes(&self, level: &str, message: &str, second: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        (level, message).hash(&mut hasher);
        let slot = &self.slots[hasher.finish() as usize % SLOTS];
        // Two threads at the turn of a second may count a few too many or too few: it is a sample.
        if slot.second.swap(second, Ordering::Relaxed) != second {
            slot.seen.store(0, Ordering::Relaxed);
        }
        let seen = slot.seen.fetch_add(1, Ordering::Relaxed) + 1;
        seen <= FIRST || seen.is_multiple_of(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_a_second_then_every_hundredth() {
        let sampler = Sampler::default();
        let passed = |second| {
            (0..1000)
                .filter(|_| sampler.passes("info", "same", second))
                .count()
        };
        assert_eq!(passed(1), 100 + 9);
        assert_eq!(passed(2), 100 + 9, "the next second starts anew");
    }

    #[test]
    fn messages_are_counted_apart() {
        let sampler = Sampler::default();
        while sampler.passes("info", "loud", 1) {}
        assert!(sampler.passes("info", "quiet", 1));
        assert!(sampler.passes("error", "loud", 1));
    }
}
