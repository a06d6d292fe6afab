//! The simulated KV cache (simulator.md §11.1): blocks in use, blocks kept for reuse, least recently used evicted
//! first. A prompt reuses the leading blocks that are there, without gaps. Owned by the engine, which holds its lock.

pub mod hash;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No slot.
const NONE: u32 = u32::MAX;

/// The blocks of one simulator. Slots are linked by numbers: a long prompt looks at thousands of blocks, and each is
/// one look into the map and one at its slot.
#[derive(Debug)]
pub struct KvCache {
    size: usize,
    /// Slot by block.
    places: HashMap<u64, u32, Light>,
    slots: Vec<Slot>,
    /// Slots with references.
    used: usize,
    /// Ends of the list of blocks nobody uses.
    oldest: u32,
    newest: u32,
}

/// A block. It is in the list as long as nobody uses it.
#[derive(Debug)]
struct Slot {
    hash: u64,
    references: u32,
    older: u32,
    newer: u32,
}

/// Block hashes are spread already: hashing them again would be half the work of a long prompt.
type Light = BuildHasherDefault<Multiplied>;

/// One multiplication a number.
#[derive(Debug, Default)]
struct Multiplied(u64);

impl Hasher for Multiplied {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(32) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What has changed, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The block of this hash is gone.
    Removed(u64),
    /// The block at this place of the request's sequence is new.
    Stored(usize),
}

/// The request needs more blocks than can be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kv cache does not have sufficient capacity to store this request")]
pub struct NoCapacity;

impl KvCache {
    /// An empty cache of `size` blocks.
    pub fn new(size: usize) -> Self {
        KvCache {
            size: size.min(NONE as usize),
            places: HashMap::default(),
            slots: Vec::new(),
            used: 0,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// Blocks it has.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Blocks in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Blocks that are kept and not in use.
    #[cfg(test)]
    pub fn unused(&self) -> usize {
        self.slots.len() - self.used
    }

    /// Leading blocks of `hashes` that are there.
    pub fn cached(&self, hashes: &[u64]) -> usize {
        hashes.iter().take_while(|h| self.places.contains_key(h)).count()
    }

    /// Takes blocks; returns how many leading ones were there. Says what changed through `change`.
    ///
    /// # Errors
    /// They do not fit; nothing has changed.
    pub fn take(&mut self, hashes: &[u64], mut change: impl FnMut(Change)) -> Result<usize, NoCapacity> {
        let cached = self.cached(hashes);
        // Counted only where it matters: it is a look at every block of a long prompt.
        if self.used + hashes.len() > self.size {
            let needed = hashes.iter().filter(|h| !self.is_used(h)).count();
            if self.used + needed > self.size {
                return Err(NoCapacity);
            }
        }
        // What is there is taken first, so that it cannot be evicted for what is not.
        let mut missing = Vec::with_capacity(hashes.len() - cached);
        for (at, hash) in hashes.iter().enumerate() {
            match self.places.get(hash) {
                Some(place) => self.refer(*place),
                None => missing.push(at),
            }
        }
        let room = missing.len().min(self.size - self.slots.len());
        self.slots.reserve(room);
        self.places.reserve(room);
        for at in missing {
            let hash = hashes[at];
            // The same block twice in one sequence is stored once.
            if let Some(place) = self.places.get(&hash) {
                self.refer(*place);
                continue;
            }
            let place = match self.oldest {
                oldest if oldest != NONE && self.slots.len() >= self.size => {
                    self.unlink(oldest);
                    let evicted = self.slots[oldest as usize].hash;
                    self.places.remove(&evicted);
                    change(Change::Removed(evicted));
                    oldest
                }
                _ => {
                    self.slots.push(Slot {
                        hash,
                        references: 0,
                        older: NONE,
                        newer: NONE,
                    });
                    (self.slots.len() - 1) as u32
                }
            };
            let slot = &mut self.slots[place as usize];
            (slot.hash, slot.references) = (hash, 1);
            self.used += 1;
            self.places.insert(hash, place);
            change(Change::Stored(at));
        }
        Ok(cached)
    }

    /// Gives blocks back; they are kept until their place is needed.
    pub fn release(&mut self, hashes: &[u64]) {
        // The last block first, so that the beginning of a prompt outlives its end.
        for hash in hashes.iter().rev() {
            let Some(&place) = self.places.get(hash) else {
                continue;
            };
            let slot = &mut self.slots[place as usize];
            if slot.references == 0 {
                continue;
            }
            slot.references -= 1;
            if slot.references == 0 {
                (slot.older, slot.newer) = (self.newest, NONE);
                match self.newest {
                    NONE => self.oldest = place,
                    before => self.slots[before as usize].newer = place,
                }
                self.newest = place;
                self.used -= 1;
            }
        }
    }

    /// Forgets everything. Was there anything?
    pub fn clear(&mut self) -> bool {
        let any = !self.slots.is_empty();
        *self = KvCache::new(self.size);
        any
    }

    fn is_used(&self, hash: &u64) -> bool {
        let place = self.places.get(hash);
        place.is_some_and(|place| self.slots[*place as usize].references > 0)
    }

    /// One more user of a slot.
    fn refer(&mut self, place: u32) {
        if self.slots[place as usize].references == 0 {
            self.unlink(place);
            self.used += 1;
        }
        self.slots[place as usize].references += 1;
    }

    /// Takes a slot out of the list of blocks nobody uses.
    fn unlink(&mut self, place: u32) {
        let Slot { older, newer, .. } = self.slots[place as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    enum Do {
        Take(&'static [u64]),
        Full(&'static [u64]),
        Release(&'static [u64]),
    }
    use Do::{Full, Release, Take};

    struct Log {
        cache: KvCache,
        stored: Vec<u64>,
        removed: Vec<u64>,
    }

    fn run(size: usize, actions: &[Do]) -> (Log, Vec<(usize, usize)>) {
        let mut log = Log {
            cache: KvCache::new(size),
            stored: Vec::new(),
            removed: Vec::new(),
        };
        let mut states = Vec::new();
        for action in actions {
            match action {
                Take(hashes) => {
                    let (stored, removed) = (&mut log.stored, &mut log.removed);
                    let taken = log.cache.take(hashes, |c| match c {
                        Change::Stored(at) => stored.push(hashes[at]),
                        Change::Removed(hash) => removed.push(hash),
                    });
                    assert!(taken.is_ok());
                }
                Full(hashes) => assert_eq!(log.cache.take(hashes, |_| {}), Err(NoCapacity)),
                Release(hashes) => log.cache.release(hashes),
            }
            let total = log.cache.used() + log.cache.unused();
            states.push((total, log.cache.unused()));
        }
        (log, states)
    }

    #[test]
    fn blocks_are_counted_shared_and_kept() {
        let rows: [(usize, &[Do], &[(usize, usize)], usize); 3] = [
            (3, &[Take(&[1, 2]), Release(&[1, 2])], &[(2, 0), (2, 2)], 2),
            (
                5,
                &[Take(&[1, 2]), Take(&[3, 4]), Release(&[1, 2]), Release(&[3, 4])],
                &[(2, 0), (4, 0), (4, 2), (4, 4)],
                4,
            ),
            (
                5,
                &[Take(&[1, 2]), Take(&[1, 3]), Release(&[1, 2])],
                &[(2, 0), (3, 0), (3, 1)],
                3,
            ),
        ];
        for (size, actions, expected, stored) in rows {
            let (log, states) = run(size, actions);
            assert_eq!(states, expected);
            assert_eq!((log.stored.len(), log.removed.len()), (stored, 0));
        }
    }

    #[test]
    fn unused_blocks_make_room_oldest_first_and_used_ones_never() {
        let (log, _) = run(
            4,
            &[Take(&[1, 2]), Take(&[3, 4]), Release(&[3, 4]), Take(&[5, 6])],
        );
        assert_eq!(log.cache.cached(&[3]), 0);
        assert_eq!((log.stored.len(), log.removed.len()), (6, 2));
        let (log, _) = run(4, &[Take(&[1, 2]), Take(&[3, 4]), Full(&[5, 6])]);
        assert_eq!((log.stored.len(), log.removed.len()), (4, 0));
        let (log, _) = run(
            4,
            &[
                Take(&[1, 2]),
                Take(&[3, 4]),
                Take(&[1, 3]),
                Full(&[5, 6]),
                Release(&[1, 2]),
                Release(&[3, 4]),
                Take(&[5, 6]),
            ],
        );
        assert_eq!(log.removed, [2, 4]);
        assert_eq!(log.stored, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn only_a_prefix_without_gaps_counts_as_cached() {
        let mut cache = KvCache::new(10);
        cache.take(&[1, 3], |_| {}).unwrap();
        assert_eq!(cache.take(&[1, 2, 3], |_| {}), Ok(1));
    }

    #[test]
    fn many_tasks_find_only_that_there_is_no_room() {
        for (size, operations) in [(1000, 100), (100, 10)] {
            let mut cache = KvCache::new(size);
            let mut rng = SmallRng::seed_from_u64(5);
            // Fifty tasks in turn: each takes blocks, and gives them back at its next turn.
            let mut held: Vec<Option<Vec<u64>>> = vec![None; 50];
            for _ in 0..operations * 2 {
                for task in &mut held {
                    *task = match task.take() {
                        Some(hashes) => {
                            cache.release(&hashes);
                            None
                        }
                        None => {
                            let n = rng.random_range(2..=10);
                            let hashes: Vec<u64> = (0..n).map(|_| rng.random_range(0..=100)).collect();
                            cache.take(&hashes, |_| {}).is_ok().then_some(hashes)
                        }
                    };
                }
            }
            held.iter().flatten().for_each(|hashes| cache.release(hashes));
            assert_eq!(cache.used(), 0);
            // All hashes there are, or as many as there is room for.
            assert_eq!(cache.unused(), size.min(101));
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_counts_add_up(
            size in 1usize..30,
            requests in prop::collection::vec((prop::collection::vec(0u64..40, 1..8), any::<bool>()), 1..60),
        ) {
            let mut cache = KvCache::new(size);
            let mut held: Vec<Vec<u64>> = Vec::new();
            let (mut stored, mut removed) = (0, 0);
            for (hashes, keep) in requests {
                let took = cache.take(&hashes, |c| match c {
                    Change::Stored(_) => stored += 1,
                    Change::Removed(_) => removed += 1,
                });
                match took {
                    Ok(_) if keep => held.push(hashes),
                    Ok(_) => cache.release(&hashes),
                    Err(NoCapacity) => {
                        held.pop().into_iter().for_each(|h| cache.release(&h));
                    }
                }
                prop_assert!(cache.used() + cache.unused() <= size);
                prop_assert_eq!(cache.used() + cache.unused(), stored - removed);
            }
            held.iter().for_each(|h| cache.release(h));
            prop_assert_eq!(cache.used(), 0);
        }
    }
}
