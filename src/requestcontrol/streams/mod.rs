//! What all streams share: a budget of bytes, deadlines, and a way to tell a stream on another thread that it must end.
//! Knows nothing of gRPC or Envoy: a front end keeps a [`StreamHandle`] for each stream.
//!
//! Every stream that waits has an [`Entry`], which costs one small allocation and no timer. A tick, once a second or
//! so, looks at all of them ([`Streams::tick`]).

mod budget;
mod entry;
mod handle;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::telemetry::metrics::Metrics;

pub use budget::{ByteBudget, FREE, Refusal};
use entry::Entry;
pub use entry::Interrupt;
pub use handle::StreamHandle;

/// Lists of streams; a thread puts its streams into one of them.
const SHARDS: usize = 16;

/// How long streams may take. Zero is without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first wait for a request until it is complete.
    pub request_body: Duration,
    /// Silence in both directions.
    pub idle: Duration,
}

/// All streams of a process. Share it in an `Arc`.
pub struct Streams {
    budget: ByteBudget,
    metrics: Arc<Metrics>,
    tick: Duration,
    /// The limits in ticks.
    body_ticks: Option<u32>,
    idle_ticks: Option<u32>,
    /// Ticks since the start, from 1.
    now: AtomicU32,
    shards: [Mutex<Shard>; SHARDS],
}

/// The streams of some threads, each at its place.
#[derive(Default)]
struct Shard {
    entries: Vec<Option<Arc<Entry>>>,
    free: Vec<u32>,
}

/// Where a stream is listed.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: usize,
    at: u32,
}

impl Streams {
    /// Streams that hold at most `budget` bytes together.
    pub fn new(budget: u64, timeouts: Timeouts, metrics: Arc<Metrics>) -> Self {
        let shortest = [timeouts.request_body, timeouts.idle]
            .into_iter()
            .filter(|t| !t.is_zero())
            .min();
        let tick = shortest.map_or(Duration::from_secs(1), |t| {
            (t / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
        });
        let ticks = |limit: Duration| {
            let whole = limit.as_nanos().div_ceil(tick.as_nanos());
            (!limit.is_zero()).then(|| u32::try_from(whole).unwrap_or(u32::MAX / 2))
        };
        Streams {
            budget: ByteBudget::new(budget),
            metrics,
            tick,
            body_ticks: ticks(timeouts.request_body),
            idle_ticks: ticks(timeouts.idle),
            now: AtomicU32::new(1),
            shards: Default::default(),
        }
    }

    /// The bytes all streams hold together.
    pub fn budget(&self) -> &ByteBudget {
        &self.budget
    }

    /// Time between two calls of [`Streams::tick`].
    pub fn interval(&self) -> Duration {
        self.tick
    }

    /// Interrupts the streams whose time is up, `elapsed` after the start.
    pub fn tick(&self, elapsed: Duration) {
        let passed = elapsed.as_nanos() / self.tick.as_nanos();
        // Wraps after months of the shortest tick; only differences count.
        let now = (passed as u32).wrapping_add(1).max(1);
        self.now.store(now, Ordering::Relaxed);
        for shard in &self.shards {
            for entry in shard.lock().entries.iter().flatten() {
                entry.look(now, self.body_ticks, self.idle_ticks);
            }
        }
    }

    /// Counts a stream that one of the limits ended.
    pub fn ended_by(&self, why: Interrupt) {
        self.metrics.stream_ended_early(match why {
            Interrupt::Shed => 0,
            Interrupt::BodyTimeout => 1,
            Interrupt::Idle => 2,
        });
    }

    /// Streams that are listed.
    pub fn listed(&self) -> usize {
        let count = |s: &Mutex<Shard>| s.lock().entries.iter().flatten().count();
        self.shards.iter().map(count).sum()
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    fn list(&self, entry: Arc<Entry>) -> Place {
        let shard = own_shard();
        let mut list = self.shards[shard].lock();
        let at = list.free.pop().unwrap_or_else(|| {
            list.entries.push(None);
            list.entries.len() as u32 - 1
        });
        list.entries[at as usize] = Some(entry);
        Place { shard, at }
    }

    fn unlist(&self, place: Place) {
        let mut list = self.shards[place.shard].lock();
        let entry = list.entries[place.at as usize].take();
        list.free.push(place.at);
        drop(list);
        drop(entry);
    }
}

/// The list of the calling thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            own.set(Some(shard));
            shard
        })
    })
}
