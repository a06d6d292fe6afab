//! The simulated KV cache: blocks in use, blocks kept for reuse, least recently used evicted first
//! (simulator.md §11.1). A prompt reuses the leading blocks that are there, without gaps.

use std::collections::HashMap;
use std::sync::Arc;

use hashlink::LinkedHashSet;
use parking_lot::Mutex;
use xxhash_rust::xxh64::Xxh64;

use super::KvCacheConfig;

/// The cache of one simulator; cheap to clone.
#[derive(Clone, Debug)]
pub struct KvCache {
    config: KvCacheConfig,
    blocks: Arc<Mutex<Blocks>>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// References by block, 1 or more.
    used: HashMap<u64, u32>,
    /// Blocks nobody uses, oldest first.
    unused: LinkedHashSet<u64>,
}

/// The blocks a request holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    cache: KvCache,
    hashes: Vec<u64>,
    /// Tokens that were in the cache.
    pub cached_tokens: usize,
}

/// The request needs more blocks than can be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kv cache does not have sufficient capacity to store this request")]
pub struct NoCapacity;

impl KvCache {
    /// An empty cache.
    pub fn new(config: KvCacheConfig) -> Self {
        KvCache {
            config,
            blocks: Arc::default(),
        }
    }

    /// Takes the blocks of a prompt.
    ///
    /// # Errors
    /// They do not fit; nothing has changed.
    pub fn start(&self, model: &str, tokens: &[&str]) -> Result<Held, NoCapacity> {
        let hashes = block_hashes(model, tokens, self.config.block_size);
        let mut blocks = self.blocks.lock();
        let present = |b: &Blocks, h: &u64| b.used.contains_key(h) || b.unused.contains(h);
        let reused = hashes.iter().take_while(|h| present(&blocks, h)).count();
        let needed = hashes.iter().filter(|h| !blocks.used.contains_key(h)).count();
        if blocks.used.len() + needed > self.config.blocks {
            return Err(NoCapacity);
        }
        for hash in &hashes {
            blocks.unused.remove(hash);
            *blocks.used.entry(*hash).or_insert(0) += 1;
        }
        while blocks.used.len() + blocks.unused.len() > self.config.blocks {
            blocks.unused.pop_front();
        }
        drop(blocks);
        Ok(Held {
            cache: self.clone(),
            hashes,
            cached_tokens: reused * self.config.block_size,
        })
    }

    /// Blocks in use, a share of all: 0..=1.
    pub fn usage(&self) -> f64 {
        self.blocks.lock().used.len() as f64 / self.config.blocks.max(1) as f64
    }

    /// Tokens per block, and blocks.
    pub fn config(&self) -> KvCacheConfig {
        self.config
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut blocks = self.cache.blocks.lock();
        // The last block first, so that the beginning of a prompt outlives its end.
        for hash in self.hashes.iter().rev() {
            let Some(references) = blocks.used.get_mut(hash) else {
                continue;
            };
            *references -= 1;
            if *references == 0 {
                blocks.used.remove(hash);
                blocks.unused.insert(*hash);
            }
        }
    }
}

/// Chained hashes of the whole blocks of a prompt.
fn block_hashes(model: &str, tokens: &[&str], block_size: usize) -> Vec<u64> {
    let mut parent = xxhash_rust::xxh64::xxh64(model.as_bytes(), 0);
    let chain = tokens.chunks_exact(block_size.max(1)).map(|block| {
        let mut hasher = Xxh64::new(parent);
        for token in block {
            hasher.update(token.as_bytes());
            hasher.update(&[0xff]);
        }
        parent = hasher.digest();
        parent
    });
    chain.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(blocks: usize) -> KvCache {
        KvCache::new(KvCacheConfig {
            block_size: 2,
            blocks,
        })
    }

    #[test]
    fn a_repeated_prefix_is_cached_and_the_tail_is_not() {
        let cache = cache(8);
        let first = cache.start("m", &["a", "b", "c", "d", "e"]).unwrap();
        assert_eq!((first.cached_tokens, cache.usage()), (0, 0.25));
        let second = cache.start("m", &["a", "b", "x", "y"]).unwrap();
        assert_eq!((second.cached_tokens, cache.usage()), (2, 0.375));
        drop((first, second));
        assert_eq!(cache.usage(), 0.0);
        assert_eq!(cache.start("m", &["a", "b", "c", "d"]).unwrap().cached_tokens, 4);
        assert_eq!(cache.start("other", &["a", "b"]).unwrap().cached_tokens, 0);
    }

    #[test]
    fn the_oldest_unused_blocks_are_evicted_and_used_ones_never() {
        let cache = cache(3);
        drop(cache.start("m", &["a", "b", "c", "d"]).unwrap());
        let held = cache.start("m", &["x", "y", "z", "w"]).unwrap();
        // Of the first prompt its beginning is left: its end was evicted.
        assert_eq!(cache.start("m", &["a", "b", "c", "d"]).unwrap_err(), NoCapacity);
        assert_eq!(cache.start("m", &["a", "b"]).unwrap().cached_tokens, 2);
        drop(held);
    }
}
