//! The writing side of the index: what each endpoint holds, in order of use. Whoever holds the index's lock
//! works here; readers see only the table and the owners.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use hashlink::LinkedHashMap;

use super::index::{Holder, MAX_SLOTS, Owners, row};
use super::table::TableWriter;

/// Blocks taken beyond the budget's need at most when it is exceeded.
const MAX_SPARE: usize = 4096;

/// What the endpoints in the slots hold.
pub(super) struct Writer {
    table: TableWriter,
    owners: Arc<Owners>,
    slots: Vec<Slot>,
    blocks: usize,
    /// Blocks held at most, all endpoints together.
    budget: usize,
}

/// One slot: its owner and the blocks it holds, least recently used first.
#[derive(Default)]
struct Slot {
    /// The endpoint; `None` before the first record and after a removal.
    owner: Option<u64>,
    /// Endpoints up to this id are gone: what is still said of them is late. Slots are reused by higher ids.
    gone: Option<u64>,
    /// Blocks held at most; fixed by the first record of an owner.
    capacity: usize,
    held: LinkedHashMap<u64, (), BuildHasherDefault<AsIs>>,
}

/// Keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl Writer {
    pub fn new(table: TableWriter, owners: Arc<Owners>, budget: usize) -> Self {
        Writer {
            table,
            owners,
            slots: Vec::new(),
            blocks: 0,
            budget: budget.max(1),
        }
    }

    /// Blocks held, all endpoints together.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Notes that `holder` was sent the chain `hashes`. A chain longer than the capacity keeps its leading part.
    ///
    /// Blocks are touched deepest first, so that an ancestor is always more recent than its descendants and the
    /// least recent block is a leaf: evicting never leaves a hole, and whoever holds block i holds all before it.
    pub fn record(&mut self, holder: Holder, capacity: usize, hashes: &[u64]) {
        let at = holder.slot as usize;
        if at >= MAX_SLOTS || !self.admit(holder, capacity) {
            return;
        }
        let slot = &mut self.slots[at];
        let hashes = &hashes[..hashes.len().min(slot.capacity)];
        let before = slot.held.len();
        for hash in hashes.iter().rev() {
            slot.held.insert(*hash, ());
        }
        while slot.held.len() > slot.capacity
            && let Some((hash, ())) = slot.held.pop_front()
        {
            self.table.clear(row(hash, at), 1 << (at % 64));
        }
        self.blocks = self.blocks - before + slot.held.len();
        // Readers get the new blocks in prompt order, so that they never see a hole either.
        for hash in hashes {
            self.table.set(row(*hash, at), 1 << (at % 64));
        }
        while self.blocks > self.budget {
            self.shrink_largest();
        }
    }

    /// Takes the least recent blocks from the endpoint that holds most: some more than the budget asks for, so that the
    /// search for it is worth it.
    fn shrink_largest(&mut self) {
        let held = |(_, slot): &(usize, &Slot)| slot.held.len();
        let Some((at, largest)) = self.slots.iter().enumerate().max_by_key(held) else {
            return;
        };
        let spare = (largest.held.len() / 16).min(MAX_SPARE);
        let over = self.blocks.saturating_sub(self.budget) + spare;
        for _ in 0..over {
            let Some((hash, ())) = self.slots[at].held.pop_front() else {
                return;
            };
            self.table.clear(row(hash, at), 1 << (at % 64));
            self.blocks -= 1;
        }
    }

    /// Makes `holder` the owner of its slot, unless it is known to be gone.
    fn admit(&mut self, holder: Holder, capacity: usize) -> bool {
        let at = holder.slot as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let slot = &self.slots[at];
        if slot.owner == Some(holder.id) {
            return true;
        }
        if slot.gone >= Some(holder.id) || slot.owner > Some(holder.id) {
            return false;
        }
        self.empty(at);
        self.slots[at].owner = Some(holder.id);
        self.slots[at].capacity = capacity.max(1);
        self.owners.set(at, Some(holder.id));
        true
    }

    /// Forgets all that `holder` and earlier owners of its slot hold.
    pub fn remove(&mut self, holder: Holder) {
        let at = holder.slot as usize;
        if at >= MAX_SLOTS {
            return;
        }
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let gone = &mut self.slots[at].gone;
        *gone = (*gone).max(Some(holder.id));
        if self.slots[at].owner <= Some(holder.id) {
            self.empty(at);
            self.table.fit();
        }
    }

    fn empty(&mut self, at: usize) {
        self.owners.set(at, None);
        let slot = &mut self.slots[at];
        slot.owner = None;
        self.blocks -= slot.held.len();
        while let Some((hash, ())) = slot.held.pop_front() {
            self.table.clear(row(hash, at), 1 << (at % 64));
        }
        slot.held = LinkedHashMap::default();
    }
}

impl Owners {
    fn set(&self, at: usize, id: Option<u64>) {
        // Stored before the bits of the new owner are set, after those of the old one are cleared.
        self.0[at].store(id.map_or(0, Owners::mark), Release);
    }
}

#[cfg(test)]
impl Writer {
    /// Rows in the table.
    pub fn rows(&self) -> usize {
        self.table.len()
    }
}
