//! The approximate prefix index: which endpoint was sent which leading blocks lately.
//!
//! Readers probe the table and never wait. A record is applied at once by whoever gets the writer's lock;
//! whoever does not get it leaves the record in a bounded queue for the holder, and goes on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::{Mutex, MutexGuard};

use super::table::Table;
use super::writer::Writer;

/// Endpoints in slots from here on are not indexed: they score as if they held nothing.
pub const MAX_SLOTS: usize = 16_384;
/// Endpoints per table word.
const GROUP: usize = 64;
const GROUPS: usize = MAX_SLOTS / GROUP;
/// Blocks held at most, all endpoints together, unless said otherwise: some 400 MB.
pub const DEFAULT_BUDGET: usize = 5_000_000;
/// Records that wait for the holder of the lock; beyond, the newest is dropped.
const QUEUE: usize = 256;
/// Queued records one caller applies at most before it goes on with its own business.
const HELP: usize = 32;

/// An endpoint as the index knows it: its slot, and the id that tells it from others that had the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Dense, reused.
    pub slot: u32,
    /// Never reused; grows.
    pub id: u64,
}

/// The index. Share it in an `Arc`.
pub struct PrefixIndex {
    table: Arc<Table>,
    owners: Arc<Owners>,
    /// Held by recorders that got it without waiting, and by removals; readers do not know it.
    inner: Mutex<Inner>,
    sender: SyncSender<Record>,
    queued: AtomicUsize,
    blocks: AtomicUsize,
}

struct Inner {
    writer: Writer,
    queue: Receiver<Record>,
}

struct Record {
    holder: Holder,
    capacity: usize,
    hashes: Box<[u64]>,
}

/// The owner of each slot, as readers see it: 0 is nobody.
pub(super) struct Owners(pub(super) Box<[AtomicU64]>);

impl Owners {
    /// How an id is stored.
    pub(super) fn mark(id: u64) -> u64 {
        id.wrapping_add(1)
    }

    #[inline]
    fn is(&self, holder: Holder) -> bool {
        let owner = self.0.get(holder.slot as usize);
        owner.is_some_and(|o| o.load(Acquire) == Owners::mark(holder.id))
    }
}

/// The table key of a block hash for the group of `slot`. Never 0.
#[inline]
pub(super) fn row(hash: u64, slot: usize) -> u64 {
    let group = (slot / GROUP) as u64;
    (hash ^ group.wrapping_mul(0x9E37_79B9_7F4A_7C15)).max(1)
}

impl Default for PrefixIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl PrefixIndex {
    /// An empty index of at most [`DEFAULT_BUDGET`] blocks.
    pub fn new() -> Self {
        PrefixIndex::with_budget(DEFAULT_BUDGET)
    }

    /// An empty index of at most `budget` blocks, all endpoints together. Beyond it the endpoint that holds most loses its
    /// least recent ones, whatever capacity it was given: what one endpoint claims costs the others nothing.
    pub fn with_budget(budget: usize) -> Self {
        let (table, writer) = Table::new();
        let owners = Arc::new(Owners((0..MAX_SLOTS).map(|_| AtomicU64::new(0)).collect()));
        let (sender, queue) = sync_channel(QUEUE);
        let writer = Writer::new(writer, owners.clone(), budget);
        PrefixIndex {
            table,
            owners,
            inner: Mutex::new(Inner { writer, queue }),
            sender,
            queued: AtomicUsize::new(0),
            blocks: AtomicUsize::new(0),
        }
    }

    /// How many leading blocks of the chain `hashes` each of `holders` holds, into `matched` (cleared first), in
    /// the order of `holders`. `by_slot` is working memory; nothing is allocated once both are large enough.
    pub fn matches(
        &self,
        hashes: &[u64],
        holders: impl Iterator<Item = Holder> + Clone,
        by_slot: &mut Vec<u32>,
        matched: &mut Vec<u32>,
    ) {
        let mut live = [0_u64; GROUPS];
        let mut groups = 0;
        // A slot must be the holder's before its bits are read and still after, or they may be another's.
        for holder in holders.clone().filter(|h| self.owners.is(*h)) {
            let slot = holder.slot as usize;
            live[slot / GROUP] |= 1 << (slot % GROUP);
            groups = groups.max(slot / GROUP + 1);
        }
        by_slot.clear();
        by_slot.resize(groups * GROUP, 0);
        for (group, depths) in by_slot.chunks_exact_mut(GROUP).enumerate() {
            self.depths(group, live[group], hashes, depths);
        }
        matched.clear();
        matched.extend(holders.map(|h| match by_slot.get(h.slot as usize) {
            Some(depth) if *depth > 0 && self.owners.is(h) => *depth,
            _ => 0,
        }));
    }

    /// The depths of one group's `live` endpoints, by bisection: who holds a block holds all before it. A full
    /// hit costs two probes, no hit one.
    fn depths(&self, group: usize, live: u64, hashes: &[u64], depths: &mut [u32]) {
        let Some(last) = hashes.len().checked_sub(1) else {
            return;
        };
        if live == 0 {
            return;
        }
        let holds = |i: usize| self.table.get(row(hashes[i], group * GROUP));
        let first = holds(0) & live;
        if first == 0 {
            return;
        }
        let all = if last == 0 { first } else { holds(last) & first };
        mark(depths, all, last + 1);
        // Each entry: endpoints that hold block `from` and not block `to`. The ranges halve, and one sibling per
        // level waits, so that 64 entries are enough for any length.
        let mut open = [(0_usize, 0_usize, 0_u64); 64];
        open[0] = (0, last, first & !all);
        let mut n = 1;
        while n > 0 {
            n -= 1;
            let (from, to, set) = open[n];
            if set == 0 {
                continue;
            }
            if to - from == 1 {
                mark(depths, set, to);
                continue;
            }
            let middle = from + (to - from) / 2;
            let beyond = holds(middle) & set;
            open[n] = (from, middle, set & !beyond);
            open[n + 1] = (middle, to, beyond);
            n += 2;
        }
    }

    /// Notes that `holder` was sent the chain `hashes`; `capacity` is how many blocks it keeps, fixed by its
    /// first record. Never waits: at worst the record is queued, or dropped when the queue is full. False when it
    /// was dropped.
    pub fn record(&self, holder: Holder, capacity: usize, hashes: &[u64]) -> bool {
        if hashes.is_empty() {
            return true;
        }
        let mut taken = true;
        if let Some(mut inner) = self.inner.try_lock() {
            self.apply_queued(&mut inner, HELP);
            inner.writer.record(holder, capacity, hashes);
            self.unlock(inner);
        } else {
            taken = self.enqueue(Record {
                holder,
                capacity,
                hashes: hashes.into(),
            });
        }
        // Whoever found the lock taken relies on its holder to look here after letting go.
        for _ in 0..2 {
            if self.queued.load(SeqCst) == 0 {
                break;
            }
            let Some(mut inner) = self.inner.try_lock() else {
                break;
            };
            self.apply_queued(&mut inner, HELP);
            self.unlock(inner);
        }
        taken
    }

    /// Queues a record; false when the queue is full.
    fn enqueue(&self, record: Record) -> bool {
        self.queued.fetch_add(1, SeqCst);
        let queued = self.sender.try_send(record).is_ok();
        if !queued {
            self.queued.fetch_sub(1, SeqCst);
        }
        queued
    }

    fn apply_queued(&self, inner: &mut Inner, limit: usize) {
        for _ in 0..limit {
            let Ok(record) = inner.queue.try_recv() else {
                return;
            };
            self.queued.fetch_sub(1, SeqCst);
            inner
                .writer
                .record(record.holder, record.capacity, &record.hashes);
        }
    }

    fn unlock(&self, inner: MutexGuard<'_, Inner>) {
        self.blocks.store(inner.writer.blocks(), Relaxed);
    }

    /// Forgets what `holder` holds, and what is still said of it later. For the one who changes the fleet: waits
    /// for a recorder at work, and works in proportion to what is forgotten.
    pub fn remove(&self, holder: Holder) {
        let mut inner = self.inner.lock();
        self.apply_queued(&mut inner, QUEUE);
        inner.writer.remove(holder);
        self.unlock(inner);
    }

    /// Blocks held, all endpoints together.
    pub fn blocks(&self) -> usize {
        self.blocks.load(Relaxed)
    }
}

/// Writes `depth` for every bit of `set`.
fn mark(depths: &mut [u32], mut set: u64, depth: usize) {
    let depth = u32::try_from(depth).unwrap_or(u32::MAX);
    while set != 0 {
        depths[set.trailing_zeros() as usize] = depth;
        set &= set - 1;
    }
}

#[cfg(test)]
mod tests;
