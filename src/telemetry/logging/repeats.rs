//! Keeps an error that repeats from flooding the log, whatever the encoder: of each place in the code the first ten
//! warnings or errors of ten seconds are written, the rest are counted, and the next line says how many.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Metadata;

/// Lines of one place that are written per window.
const FIRST: u64 = 10;

/// Seconds of a window.
const WINDOW: u64 = 10;

/// Counters; places that share one are counted together.
const SLOTS: usize = 512;

#[derive(Debug, Default)]
struct Slot {
    window: AtomicU64,
    seen: AtomicU64,
    left_out: AtomicU64,
}

/// Counts lines by the place in the code they come from.
#[derive(Debug)]
pub struct Repeats {
    slots: Box<[Slot]>,
}

impl Default for Repeats {
    fn default() -> Self {
        Repeats {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
        }
    }
}

impl Repeats {
    /// May a line of this place be written? If so, how many like it were left out before it. `second`: the time
    /// in whole seconds.
    pub fn passes(&self, place: &Metadata<'_>, second: u64) -> Option<u64> {
        // A place is known by where its metadata lies; the low bits are those of its alignment.
        let slot = &self.slots[(std::ptr::from_ref(place).addr() >> 4) % SLOTS];
        let window = second / WINDOW + 1;
        // Two threads at the turn of a window may write a line too many: no harm.
        if slot.window.swap(window, Ordering::Relaxed) != window {
            slot.seen.store(0, Ordering::Relaxed);
        }
        if slot.seen.fetch_add(1, Ordering::Relaxed) < FIRST {
            Some(slot.left_out.swap(0, Ordering::Relaxed))
        } else {
            slot.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}
