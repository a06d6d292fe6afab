//! Tests of the engine's core in virtual time, and of the engine on its thread.

mod batch;
mod blocks;
mod bounds;
mod order;
mod threads;
mod times;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::ticket::Cell;
use super::{Config, Job, Refused};
use crate::simulator::latency::Latency;
use crate::simulator::metrics::Stats;
use crate::simulator::metrics::page::Labels;

const MS: u64 = 1_000_000;

/// An engine without a cache, with `slots` slots and room for `loras` adapters.
fn config(slots: usize, loras: usize) -> Config {
    Config {
        max_running: slots,
        max_waiting: 2000,
        max_loras: loras,
        max_cpu_loras: loras,
        lora_load: Duration::ZERO,
        latency: Latency {
            load_factor: 1.0,
            ..Latency::default()
        },
        batch_tokens: None,
        cache: false,
        sampled_ttft: false,
        max_model_len: 1024,
        labels: Labels {
            model: "m".to_owned(),
            max_loras: loras,
            cache: (4, 16),
            gpu_cache_name: false,
        },
        fake: None,
    }
}

fn ttft(mut config: Config, ms: u64) -> Config {
    config.latency.time_to_first_token = (Duration::from_millis(ms), Duration::ZERO);
    config
}

fn job(prompt: usize, output: usize) -> Job {
    Job {
        adapter: None,
        prompt,
        output,
        finish_reason: "stop",
        max_tokens: None,
        remote_prefill: false,
        blocks: Vec::new(),
        ids: None,
        cache_hit_threshold: None,
        cache_threshold_forced: false,
        seed: 0,
        arrived: Instant::now(),
    }
}

fn with(adapter: &str) -> Job {
    Job {
        adapter: (!adapter.is_empty()).then(|| Arc::from(adapter)),
        ..job(5, 1)
    }
}

/// A core, driven from one due time to the next.
struct Drive {
    core: Core,
    /// By name: the order and what its owner sees.
    open: BTreeMap<usize, (u64, Arc<Cell>)>,
    /// When each ended, milliseconds.
    ended: Vec<(u64, usize)>,
}

impl Drive {
    fn new(config: Config) -> Self {
        Drive {
            core: Core::new(config, None, Duration::from_secs(1000)),
            open: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    /// Lets time pass until then.
    fn until(&mut self, ms: u64) {
        while let Some(due) = self.core.next_due().filter(|due| *due <= ms * MS) {
            self.core.advance(due, 1);
            self.note(due);
        }
    }

    fn note(&mut self, now: u64) {
        let over: Vec<usize> = self
            .open
            .iter()
            .filter(|(_, (_, cell))| cell.is_over())
            .map(|(name, _)| *name)
            .collect();
        for name in over {
            self.open.remove(&name);
            self.ended.push((now / MS, name));
        }
    }

    fn submit(&mut self, name: usize, ms: u64, job: Job) -> Result<(), Refused> {
        self.until(ms);
        let open = self.core.submit(job, ms * MS, ms * MS)?;
        self.open.insert(name, open);
        self.note(ms * MS);
        Ok(())
    }

    fn cancel(&mut self, name: usize, ms: u64) {
        self.until(ms);
        let (order, _) = self.open.remove(&name).unwrap();
        self.core.cancel(order, ms * MS);
        // The place may have gone to one that ended at once.
        self.note(ms * MS);
    }

    fn stats(&self) -> Stats {
        self.core.snapshot().2
    }

    /// Names in the order they ended, those that ended together in one group.
    fn groups(&self) -> Vec<Vec<usize>> {
        let groups = self.ended.chunk_by(|a, b| a.0 == b.0);
        groups
            .map(|g| g.iter().map(|(_, name)| *name).collect())
            .collect()
    }

    fn running_and_waiting(&self) -> (usize, usize) {
        let counts = self.core.counts();
        (counts.running, counts.waiting)
    }

    fn assert_idle(&self) {
        let (gauges, _, _) = self.core.snapshot();
        assert_eq!(
            (gauges.running, gauges.waiting, gauges.cache_usage),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(self.core.next_due(), None);
    }
}
