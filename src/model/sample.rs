//! What the last scrape of an endpoint said.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// One endpoint's state as of its last successful scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests waiting in the engine's queue.
    pub waiting: u32,
    /// Requests in the engine's running batch.
    pub running: u32,
    /// KV-cache use, a fraction 0..=1 as reported.
    pub kv_usage: f64,
    /// LoRA state.
    pub lora: Lora,
    /// Tokens per KV-cache block; 0 when not reported.
    pub block_size: u32,
    /// KV-cache blocks on the accelerator; 0 when not reported.
    pub num_blocks: u32,
    /// When the sample was taken; `None` before the first successful scrape.
    pub updated: Option<Instant>,
}

/// LoRA adapters an endpoint reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lora {
    /// Adapters with running requests.
    pub active: HashSet<Box<str>>,
    /// Adapters with waiting requests.
    pub waiting: HashSet<Box<str>>,
    /// How many distinct adapters one batch can hold.
    pub max: u32,
    /// Distinct adapters in `active ∪ waiting`.
    pub distinct: u32,
}

impl Lora {
    /// Builds the sets and counts the distinct adapters.
    pub fn new(active: HashSet<Box<str>>, waiting: HashSet<Box<str>>, max: u32) -> Self {
        let distinct = u32::try_from(active.union(&waiting).count()).unwrap_or(u32::MAX);
        Lora {
            active,
            waiting,
            max,
            distinct,
        }
    }
}

/// The numbers of a [`Sample`] one decision uses, copied out so that a decision is a pure function of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    /// Requests waiting.
    pub waiting: u32,
    /// Requests running.
    pub running: u32,
    /// KV-cache use, 0..=1.
    pub kv_usage: f64,
    /// Tokens per KV-cache block; 0 when not reported.
    pub block_size: u32,
    /// KV-cache blocks; 0 when not reported.
    pub num_blocks: u32,
    /// Is the target model an adapter with running requests here?
    pub adapter_active: bool,
    /// Is the target model an adapter with waiting requests here?
    pub adapter_waiting: bool,
    /// Distinct adapters running or waiting.
    pub adapters: u32,
    /// Adapter capacity of a batch.
    pub max_adapters: u32,
    /// When the sample was taken.
    pub updated: Option<Instant>,
}

impl Sample {
    /// The numbers of this sample, with `adapter`'s standing resolved.
    #[inline]
    pub fn signals(&self, adapter: &str) -> Signals {
        let lora = &self.lora;
        Signals {
            waiting: self.waiting,
            running: self.running,
            kv_usage: self.kv_usage,
            block_size: self.block_size,
            num_blocks: self.num_blocks,
            adapter_active: has(&lora.active, adapter),
            adapter_waiting: has(&lora.waiting, adapter),
            adapters: lora.distinct,
            max_adapters: lora.max,
            updated: self.updated,
        }
    }
}

/// Is `name` in `set`? Looking through a handful of names is cheaper than hashing one.
#[inline]
fn has(set: &HashSet<Box<str>>, name: &str) -> bool {
    match set.len() {
        0 => false,
        1..=8 => set.iter().any(|s| **s == *name),
        _ => set.contains(name),
    }
}

impl Signals {
    /// Is the sample at most `limit` old at `now`? Never true before the first scrape.
    pub fn fresh(&self, now: Instant, limit: Duration) -> bool {
        self.updated
            .is_some_and(|at| now.saturating_duration_since(at) <= limit)
    }
}
