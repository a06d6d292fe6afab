//! The budget of bytes that all streams hold together: request bodies under way, answers not yet sent.
//!
//! Streams reserve in blocks, so that most messages touch no shared memory. When the budget is used up, the stream that has
//! held bytes for the longest time is told to end, and so on until there is room: newcomers with short requests are served
//! while large unfinished ones go. Bytes of a stream that was told count as free at once, though it may take a moment to
//! let go; a quarter above the budget nothing more is given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::entry::{Entry, Interrupt};

/// Streams reserve multiples of this, bytes.
pub const BLOCK: u64 = 16 * 1024;

/// A stream that holds no more than this, bytes, reserves nothing.
pub const FREE: u64 = 4 * 1024;

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One stream asks for more than the whole budget.
    #[error("larger than everything that may be buffered, {0} bytes (--max-buffered-bytes)")]
    TooLarge(u64),
    /// There is no room, and no older stream to make room.
    #[error("too many bytes are buffered")]
    Full,
}

/// The budget.
#[derive(Debug)]
pub struct ByteBudget {
    limit: u64,
    used: AtomicU64,
    /// Bytes of streams that were told to end and have not let go.
    doomed: AtomicU64,
    holders: Mutex<Holders>,
}

/// Streams that hold bytes and were not told to end, oldest first.
#[derive(Debug, Default)]
struct Holders {
    next: u64,
    by_age: BTreeMap<u64, Arc<Entry>>,
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        ByteBudget {
            limit,
            used: AtomicU64::new(0),
            doomed: AtomicU64::new(0),
            holders: Mutex::default(),
        }
    }

    /// Most bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes of streams that were told to end and have not let go.
    pub fn doomed(&self) -> u64 {
        self.doomed.load(Ordering::Relaxed)
    }

    /// Streams that hold bytes and were not told to end.
    pub fn holders(&self) -> usize {
        self.holders.lock().by_age.len()
    }

    /// Registers a stream that begins to hold bytes; its place in the order of age.
    pub(super) fn enter(&self, entry: &Arc<Entry>) -> u64 {
        let mut holders = self.holders.lock();
        let turn = holders.next;
        holders.next += 1;
        holders.by_age.insert(turn, entry.clone());
        turn
    }

    /// Reserves `by` more bytes for the stream that entered at `turn`.
    ///
    /// # Errors
    /// There is no room for it. The bytes are reserved all the same: the stream has them, and is about to let go.
    pub(super) fn grow(&self, entry: &Entry, turn: u64, by: u64) -> Result<(), Refusal> {
        let used = self.used.fetch_add(by, Ordering::Relaxed) + by;
        entry.reserved.fetch_add(by, Ordering::Relaxed);
        if used <= self.limit {
            return Ok(());
        }
        self.make_room(turn)
    }

    /// Gives `by` bytes back.
    pub(super) fn shrink(&self, entry: &Entry, by: u64) {
        entry.reserved.fetch_sub(by, Ordering::Relaxed);
        self.used.fetch_sub(by, Ordering::Relaxed);
    }

    /// Takes a stream that has given everything back off the list.
    pub(super) fn leave(&self, entry: &Entry, turn: u64) {
        let mut holders = self.holders.lock();
        holders.by_age.remove(&turn);
        let doomed = entry.doomed.swap(0, Ordering::Relaxed);
        self.doomed.fetch_sub(doomed, Ordering::Relaxed);
    }

    /// Ends the oldest streams until the others fit.
    fn make_room(&self, own: u64) -> Result<(), Refusal> {
        let mut holders = self.holders.lock();
        loop {
            let used = self.used.load(Ordering::Relaxed);
            let doomed = self.doomed.load(Ordering::Relaxed);
            if used.saturating_sub(doomed) <= self.limit {
                let hard = self.limit + self.limit / 4;
                return if used <= hard { Ok(()) } else { Err(Refusal::Full) };
            }
            let oldest = holders.by_age.first_key_value().map(|(turn, _)| *turn);
            match oldest.filter(|turn| *turn < own) {
                Some(turn) => {
                    if let Some(entry) = holders.by_age.remove(&turn) {
                        let bytes = entry.reserved.load(Ordering::Relaxed);
                        entry.doomed.store(bytes, Ordering::Relaxed);
                        self.doomed.fetch_add(bytes, Ordering::Relaxed);
                        entry.end(Interrupt::Shed);
                    }
                }
                // It is the oldest itself, or was told to end already.
                None => return Err(Refusal::Full),
            }
        }
    }
}
