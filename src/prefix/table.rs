//! The table under the index: 64-bit keys to 64-bit words, read by many without waiting while one writes.
//!
//! Open addressing in segments, so that growing copies a small part at a time. A segment is a sequence lock
//! over atomics: its version is odd while entries move, and a reader that saw it change reads again, a few
//! times at most, then takes the key as absent. A word is never read under another key's name.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use arc_swap::ArcSwap;

/// Segments, chosen by the top bits of a key.
const SEGMENTS: usize = 256;
/// Rows of a new segment; a power of two.
const MIN_ROWS: usize = 16;
/// How often a reader looks again when a writer was there at the same moment.
const LOOKS: usize = 16;

/// The readers' side.
pub(super) struct Table {
    segments: Box<[ArcSwap<Segment>]>,
}

/// The writer's side; there is one per table.
pub(super) struct TableWriter {
    table: Arc<Table>,
    segments: Vec<Owned>,
}

/// A segment as its writer knows it.
struct Owned {
    segment: Arc<Segment>,
    len: usize,
}

struct Segment {
    /// Odd while entries are being moved.
    version: AtomicU64,
    /// A power of two; key 0 is an empty row.
    rows: Box<[Row]>,
}

#[derive(Default)]
struct Row {
    key: AtomicU64,
    word: AtomicU64,
}

fn segment_of(key: u64) -> usize {
    (key >> 56) as usize % SEGMENTS
}

impl Table {
    /// An empty table and its writer.
    pub fn new() -> (Arc<Table>, TableWriter) {
        let segments: Vec<Owned> = (0..SEGMENTS)
            .map(|_| Owned {
                segment: Arc::new(Segment::new(MIN_ROWS)),
                len: 0,
            })
            .collect();
        let published = segments.iter().map(|s| ArcSwap::new(s.segment.clone()));
        let table = Arc::new(Table {
            segments: published.collect(),
        });
        let writer = TableWriter {
            table: table.clone(),
            segments,
        };
        (table, writer)
    }

    /// The word of `key` (not 0), 0 when absent.
    #[inline]
    pub fn get(&self, key: u64) -> u64 {
        self.segments[segment_of(key)].load().get(key)
    }
}

impl TableWriter {
    /// Sets bits in the word of `key` (not 0).
    pub fn set(&mut self, key: u64, bits: u64) {
        let at = segment_of(key);
        let owned = &mut self.segments[at];
        if let Some(i) = owned.segment.find(key) {
            owned.segment.rows[i].word.fetch_or(bits, Release);
            return;
        }
        if (owned.len + 1) * 4 > owned.segment.rows.len() * 3 {
            owned.resize(owned.segment.rows.len() * 2);
            self.table.segments[at].store(owned.segment.clone());
        }
        owned.segment.change(|s| s.insert(key, bits));
        owned.len += 1;
    }

    /// Clears bits in the word of `key`; a key without bits is gone.
    pub fn clear(&mut self, key: u64, bits: u64) {
        let owned = &mut self.segments[segment_of(key)];
        let Some(i) = owned.segment.find(key) else { return };
        let left = owned.segment.rows[i].word.load(Relaxed) & !bits;
        if left != 0 {
            owned.segment.rows[i].word.store(left, Release);
            return;
        }
        owned.segment.change(|s| s.remove(i));
        owned.len -= 1;
    }

    /// Gives back the memory of segments that have become nearly empty.
    pub fn fit(&mut self) {
        for (owned, published) in self.segments.iter_mut().zip(&self.table.segments) {
            let rows = owned.segment.rows.len();
            if rows > MIN_ROWS && owned.len * 8 < rows {
                owned.resize((owned.len * 2).next_power_of_two().max(MIN_ROWS));
                published.store(owned.segment.clone());
            }
        }
    }

    /// Keys present.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|s| s.len).sum()
    }
}

impl Owned {
    /// Copies into a segment of `rows` rows, which readers do not see yet.
    fn resize(&mut self, rows: usize) {
        let larger = Segment::new(rows);
        for row in &self.segment.rows {
            let key = row.key.load(Relaxed);
            if key != 0 {
                larger.insert(key, row.word.load(Relaxed));
            }
        }
        self.segment = Arc::new(larger);
    }
}

impl Segment {
    fn new(rows: usize) -> Self {
        Segment {
            version: AtomicU64::new(0),
            rows: (0..rows).map(|_| Row::default()).collect(),
        }
    }

    #[inline]
    fn get(&self, key: u64) -> u64 {
        for _ in 0..LOOKS {
            let before = self.version.load(Acquire);
            let word = self.find(key).map_or(0, |i| self.rows[i].word.load(Relaxed));
            // Orders the loads above before the one below, and pairs with the writer's releases.
            fence(Acquire);
            if before.is_multiple_of(2) && self.version.load(Relaxed) == before {
                return word;
            }
            std::hint::spin_loop();
        }
        0
    }

    /// The row of `key`. Ends at an empty row, and after one round even if a reader sees a mixed state.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let mask = self.rows.len() - 1;
        let mut i = key as usize & mask;
        for _ in 0..self.rows.len() {
            match self.rows[i].key.load(Relaxed) {
                k if k == key => return Some(i),
                0 => return None,
                _ => i = (i + 1) & mask,
            }
        }
        None
    }

    /// Runs a change that moves entries, with the version odd meanwhile.
    fn change(&self, run: impl FnOnce(&Self)) {
        let version = self.version.load(Relaxed);
        self.version.store(version + 1, Relaxed);
        // Whoever sees a store of the change sees the odd version too.
        fence(Release);
        run(self);
        self.version.store(version + 2, Release);
    }

    /// Puts a key that is not there into the first empty row from its home on; the caller keeps one empty.
    fn insert(&self, key: u64, word: u64) {
        let mask = self.rows.len() - 1;
        let mut i = key as usize & mask;
        while self.rows[i].key.load(Relaxed) != 0 {
            i = (i + 1) & mask;
        }
        self.rows[i].put(key, word);
    }

    /// Empties row `hole` and moves later entries of the run back, so that no search ends early.
    fn remove(&self, mut hole: usize) {
        let mask = self.rows.len() - 1;
        let mut i = hole;
        loop {
            i = (i + 1) & mask;
            let key = self.rows[i].key.load(Relaxed);
            if key == 0 {
                break;
            }
            let from_home = i.wrapping_sub(key as usize) & mask;
            let from_hole = i.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.rows[hole].put(key, self.rows[i].word.load(Relaxed));
                hole = i;
            }
        }
        self.rows[hole].put(0, 0);
    }
}

impl Row {
    fn put(&self, key: u64, word: u64) {
        self.word.store(word, Release);
        self.key.store(key, Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_of_bit_sets(
            // Few segments and homes, so that runs are long and wrap around.
            steps in prop::collection::vec((0_u64..2, 1_u64..40, 0_u32..64, any::<bool>()), 0..400),
        ) {
            let (table, mut writer) = Table::new();
            let mut model: HashMap<u64, u64> = HashMap::new();
            for (segment, home, bit, set) in steps {
                let key = segment << 56 | (home % 3) << 20 | (home * 5);
                let word = model.entry(key).or_default();
                if set {
                    writer.set(key, 1 << bit);
                    *word |= 1 << bit;
                } else {
                    writer.clear(key, 1 << bit);
                    *word &= !(1 << bit);
                }
                prop_assert_eq!(table.get(key), *word);
            }
            model.retain(|_, w| *w != 0);
            prop_assert_eq!(writer.len(), model.len());
            writer.fit();
            for (key, word) in model {
                prop_assert_eq!(table.get(key), word);
            }
        }
    }

    #[test]
    fn memory_follows_the_number_of_keys() {
        let (table, mut writer) = Table::new();
        let key = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let rows = |t: &Table| t.segments.iter().map(|s| s.load().rows.len()).sum::<usize>();
        (0..100_000).for_each(|i| writer.set(key(i), 1));
        assert!(rows(&table) <= 100_000 * 4, "{}", rows(&table));
        (0..100_000).for_each(|i| writer.clear(key(i), 1));
        writer.fit();
        assert_eq!(rows(&table), SEGMENTS * MIN_ROWS);
    }
}
