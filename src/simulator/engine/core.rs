//! What the engine decides: who runs, who waits, when each token is due, which blocks are whose. Times come in from
//! outside, so that tests drive it through hours in no time. Called by [`super::Engine`], under its lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

#[cfg(test)]
use super::Counts;
use super::lora::Adapters;
use super::queue::Queue;
use super::request::{Nanos, Phase, Request};
use super::step::Step;
use super::ticket::Cell;
use super::{Config, Job, Refused, nanos};
use crate::simulator::kv_cache::{KvCache, NoCapacity};
use crate::simulator::kv_events::Outbox;
use crate::simulator::latency::Latency;
use crate::simulator::metrics::Stats;
use crate::simulator::metrics::lora_info::LoraInfo;
use crate::simulator::metrics::page::Gauges;

/// Requests that may go before the first one in the queue, per slot and in any case.
const PATIENCE: (usize, usize) = (4, 64);

/// Time between two turns of the thread, at least: what comes due in between is handed out together, this much late at
/// most. A turn costs more than a token.
const GRAIN: Nanos = 1_000_000;

/// The state of an engine.
pub struct Core {
    pub(super) config: Config,
    pub(super) requests: HashMap<u64, Box<Request>>,
    pub(super) next_order: u64,
    pub(super) queue: Queue,
    pub(super) adapters: Adapters,
    /// Running requests by the number of their start: the last one is the youngest.
    pub(super) running: BTreeMap<u64, u64>,
    pub(super) starts: u64,
    /// Requests that wait for a time of their own.
    pub(super) due: BTreeSet<(Nanos, u64)>,
    pub(super) step: Option<Step>,
    /// Draws the times of steps.
    pub(super) rng: SmallRng,
    pub(super) cache: Option<KvCache>,
    pub(super) cache_on: bool,
    /// Counts how often the cache was emptied: what was held before is not given back after.
    pub(super) generation: u32,
    /// The next one in the queue waits for blocks.
    pub(super) short_of_blocks: bool,
    pub(super) events: Option<Outbox>,
    pub(super) stats: Stats,
    pub(super) lora: LoraInfo,
    pub(super) since_1970: Duration,
    pub(super) wakes: Vec<Arc<Cell>>,
    /// What the thread waits for, while it waits.
    pub(super) sleeping: Option<Nanos>,
    /// When the thread may have its next turn.
    pub(super) next_turn: Nanos,
    pub(super) ended: bool,
}

impl Core {
    /// An idle engine that starts `since_1970`.
    pub fn new(config: Config, events: Option<Outbox>, since_1970: Duration) -> Self {
        let patience = PATIENCE.0.saturating_mul(config.max_running).max(PATIENCE.1);
        let mut lora = LoraInfo::default();
        lora.record(String::new(), String::new(), since_1970.as_secs_f64());
        Core {
            requests: HashMap::new(),
            next_order: 0,
            queue: Queue::new(patience),
            adapters: Adapters::new(config.max_loras, config.max_cpu_loras),
            running: BTreeMap::new(),
            starts: 0,
            due: BTreeSet::new(),
            step: None,
            rng: SmallRng::seed_from_u64(0),
            cache: config.cache.then(|| KvCache::new(config.labels.cache.1)),
            cache_on: config.cache,
            generation: 0,
            short_of_blocks: false,
            events,
            stats: Stats::new(config.max_model_len),
            lora,
            since_1970,
            wakes: Vec::new(),
            sleeping: None,
            next_turn: 0,
            ended: false,
            config,
        }
    }

    /// Latencies of all that is drawn from now on.
    pub fn set_latency(&mut self, latency: Latency) {
        self.config.latency = latency;
    }

    /// Takes a job in.
    pub fn submit(&mut self, mut job: Job, arrived: Nanos, now: Nanos) -> Result<(u64, Arc<Cell>), Refused> {
        if let Some(cache) = self.cache.as_ref().filter(|_| self.cache_on) {
            if job.prompt / self.block_size() > cache.size() && !job.blocks.is_empty() {
                return Err(NoCapacity.into());
            }
            // An answer longer than the whole cache goes on without further blocks.
            job.blocks.truncate(cache.size());
        } else {
            job.blocks = Vec::new();
        }
        job.blocks.shrink_to_fit();
        let order = self.next_order;
        let adapter = job.adapter.clone();
        let free = self.running.len() < self.config.max_running
            && !self.short_of_blocks
            && adapter.as_ref().is_none_or(|a| self.adapters.is_loadable(a))
            && self.queue.lets_pass(adapter.as_deref(), &self.adapters);
        let mut request = Box::new(Request::new(job, arrived.min(now)));
        let cell = request.cell.clone();
        if free && self.take_blocks(&mut request).is_ok() {
            self.next_order += 1;
            self.queue.pass();
            self.start(order, request, now);
        } else {
            if self.queue.len() >= self.config.max_waiting {
                return Err(Refused::QueueFull);
            }
            self.next_order += 1;
            self.short_of_blocks |= free;
            request.queued = Some(now);
            self.requests.insert(order, request);
            self.queue.push(order, adapter.clone());
            self.note_adapters(adapter.is_some(), now);
        }
        self.plan_step(now);
        Ok((order, cell))
    }

    /// Takes a job out.
    pub fn cancel(&mut self, order: u64, now: Nanos) {
        let Some(mut request) = self.requests.remove(&order) else {
            return;
        };
        if request.phase == Phase::Waiting {
            self.queue.remove(order, &request.job.adapter);
            // It may have been the one that waited for blocks.
            self.short_of_blocks = false;
        } else {
            self.release(order, &mut request);
        }
        self.note_adapters(request.job.adapter.is_some(), now);
        self.fill(now);
        self.plan_step(now);
    }

    /// Does what is due, at most `limit` things. Is there more?
    pub fn advance(&mut self, now: Nanos, limit: usize) -> bool {
        for _ in 0..limit {
            let timed = self.due.first().copied().filter(|(due, _)| *due <= now);
            let step = self.step.as_ref().map(|s| s.ends).filter(|ends| *ends <= now);
            match (timed, step) {
                (Some((due, order)), ends) if ends.is_none_or(|ends| due <= ends) => {
                    self.due.pop_first();
                    self.fire(order, due, now);
                    self.plan_step(now);
                }
                (_, Some(ends)) => self.end_step(ends, now),
                _ => return false,
            }
        }
        true
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Nanos> {
        let timed = self.due.first().map(|(due, _)| *due);
        let step = self.step.as_ref().map(|s| s.ends);
        timed.into_iter().chain(step).min()
    }

    /// Counts now.
    #[cfg(test)]
    pub fn counts(&self) -> Counts {
        Counts {
            running: self.running.len(),
            waiting: self.queue.len(),
            blocks: self.cache.as_ref().map_or(0, KvCache::used),
            running_adapters: self.adapters.running().map(str::to_owned).collect(),
            waiting_adapters: self.queue.adapters().map(str::to_owned).collect(),
        }
    }

    /// All that is on the metrics page.
    pub fn snapshot(&self) -> (Gauges, LoraInfo, Stats) {
        let used = self.cache.as_ref().map_or(0, KvCache::used);
        let size = self.config.labels.cache.1.max(1);
        let gauges = Gauges {
            running: self.running.len() as f64,
            waiting: self.queue.len() as f64,
            cache_usage: used as f64 / size as f64,
        };
        (gauges, self.lora.clone(), self.stats.clone())
    }

    /// Who is to be woken.
    pub fn take_wakes(&mut self) -> Vec<Arc<Cell>> {
        std::mem::take(&mut self.wakes)
    }

    /// Gives the emptied list back, for its room.
    pub fn give_back(&mut self, wakes: Vec<Arc<Cell>>) {
        if self.wakes.is_empty() {
            self.wakes = wakes;
        }
    }

    /// The thread sleeps until then; `None`: until it is woken.
    pub fn sleep(&mut self) -> Option<Nanos> {
        let until = self.next_due().map(|due| due.max(self.next_turn));
        self.sleeping = Some(until.unwrap_or(Nanos::MAX));
        until
    }

    /// The thread is awake.
    pub fn awake(&mut self, now: Nanos) {
        self.sleeping = None;
        self.next_turn = now.saturating_add(GRAIN);
    }

    /// Is there something to do before the thread would wake up?
    pub fn is_earlier(&self) -> bool {
        let due = self.next_due().unwrap_or(Nanos::MAX).max(self.next_turn);
        self.sleeping.is_some_and(|until| due < until)
    }

    /// Ends the engine; nobody is left who could wait for it.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Has it ended?
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn block_size(&self) -> usize {
        self.config.labels.cache.0.max(1)
    }

    /// Starts a request that has its blocks.
    fn start(&mut self, order: u64, mut request: Box<Request>, now: Nanos) {
        self.starts += 1;
        request.start_number = self.starts;
        self.running.insert(self.starts, order);
        let adapter = request.job.adapter.clone();
        let at_hand = adapter.as_ref().is_none_or(|a| self.adapters.begin(a));
        let cached = request.cell.cached().filter(|_| self.cache_on);
        if !self.cache_on {
            request.cell.start(None);
        }
        if request.started.is_none() {
            request.started = Some(now);
            if let Some(cached) = cached {
                self.stats.looked_up(request.job.prompt, cached);
            }
            self.wakes.push(request.cell.clone());
        }
        let share = cached.unwrap_or(0) as f64 / request.job.prompt.max(1) as f64;
        let too_little = cached.is_some() && request.job.cache_hit_threshold.is_some_and(|t| share < t);
        if request.produced == 0 && (too_little || request.job.cache_threshold_forced) {
            self.note_adapters(adapter.is_some(), now);
            self.requests.insert(order, request);
            self.finish(order, now, true);
            return;
        }
        let load = if at_hand {
            Duration::ZERO
        } else {
            self.config.lora_load
        };
        self.set_out(&mut request, cached.unwrap_or(0), load, now);
        if let Phase::Timed(due) | Phase::Pausing(due) = request.phase {
            self.due.insert((due, order));
        }
        self.requests.insert(order, request);
        self.note_adapters(adapter.is_some(), now);
    }

    /// Says when the first token of a start comes, or that it comes by steps.
    fn set_out(&mut self, request: &mut Request, cached: usize, load_time: Duration, now: Nanos) {
        let prompt = request.job.prompt + request.produced;
        let remote = request.job.remote_prefill && request.produced == 0;
        let latency = self.config.latency;
        if self.config.batch_tokens.is_some() {
            let wait = if remote {
                latency.first_token(&mut request.rng, 1.0, prompt, cached, true)
            } else {
                Duration::ZERO
            };
            // A prompt that is all cached, or elsewhere, still takes part in a step for its first token.
            let left = if remote {
                1
            } else {
                prompt.saturating_sub(cached).max(1)
            };
            request.phase = if (wait + load_time).is_zero() {
                Phase::Prefill { left, begun: remote }
            } else {
                Phase::Pausing(now + nanos(wait + load_time))
            };
            return;
        }
        let factor = latency.load(self.running.len(), self.config.max_running);
        let time = latency.first_token(&mut request.rng, factor, prompt, cached, remote) + load_time;
        request.drawn = nanos(time);
        request.phase = Phase::Timed(now.saturating_add(nanos(time)));
    }

    /// The time of a request's own has come.
    fn fire(&mut self, order: u64, due: Nanos, now: Nanos) {
        let Some(request) = self.requests.get_mut(&order) else {
            return;
        };
        if let Phase::Pausing(_) = request.phase {
            let cached = request.cell.cached().unwrap_or(0);
            let prompt = request.job.prompt + request.produced;
            let remote = request.job.remote_prefill && request.produced == 0;
            let left = if remote {
                1
            } else {
                prompt.saturating_sub(cached).max(1)
            };
            request.phase = Phase::Prefill { left, begun: remote };
            return;
        }
        if !self.token(order, now) {
            return;
        }
        let factor = self
            .config
            .latency
            .load(self.running.len(), self.config.max_running);
        let latency = self.config.latency;
        let Some(request) = self.requests.get_mut(&order) else {
            return;
        };
        let next = due.saturating_add(nanos(latency.next_token(&mut request.rng, factor)));
        request.phase = Phase::Timed(next);
        self.due.insert((next, order));
    }

    /// A request's next token is there. Does it go on, running?
    pub(super) fn token(&mut self, order: u64, now: Nanos) -> bool {
        let Some(request) = self.requests.get_mut(&order) else {
            return false;
        };
        if request.job.output == 0 {
            self.finish(order, now, false);
            return false;
        }
        request.produced += 1;
        match request.first {
            None => {
                request.first = Some(now);
                let drawn = self.config.sampled_ttft.then_some(request.drawn);
                let time = drawn.unwrap_or(now.saturating_sub(request.arrived));
                self.stats.ttft.observe(time as f64 / 1e9);
            }
            Some(_) => {
                let gap = now.saturating_sub(request.latest);
                self.stats.inter_token.observe(gap as f64 / 1e9);
            }
        }
        request.latest = now;
        let over = request.produced >= request.job.output;
        request
            .cell
            .produce(u32::try_from(request.produced).unwrap_or(u32::MAX));
        if self
            .wakes
            .last()
            .is_none_or(|last| !Arc::ptr_eq(last, &request.cell))
        {
            self.wakes.push(request.cell.clone());
        }
        let goes_on = self.grow(order, over, now);
        if over {
            self.finish(order, now, false);
        }
        goes_on && !over
    }

    /// Ends a request; `below`: because too little was cached.
    pub(super) fn finish(&mut self, order: u64, now: Nanos, below: bool) {
        let Some(mut request) = self.requests.remove(&order) else {
            return;
        };
        let reason = if below {
            "cache_threshold"
        } else {
            request.job.finish_reason
        };
        self.release(order, &mut request);
        self.stats.succeeded(&request.outcome(now, reason));
        request.cell.finish(below);
        self.wakes.push(request.cell.clone());
        self.note_adapters(request.job.adapter.is_some(), now);
        self.fill(now);
    }

    /// Gives back what a running request holds.
    pub(super) fn release(&mut self, order: u64, request: &mut Request) {
        self.running.remove(&request.start_number);
        if let Phase::Timed(due) | Phase::Pausing(due) = request.phase {
            self.due.remove(&(due, order));
        }
        if let Some(adapter) = &request.job.adapter {
            self.adapters.end(adapter);
        }
        if request.held > 0 && request.generation == self.generation {
            if let Some(cache) = &mut self.cache {
                cache.release(&request.job.blocks[..request.held]);
            }
            self.short_of_blocks = false;
        }
        request.held = 0;
    }

    /// Starts who can run now.
    pub(super) fn fill(&mut self, now: Nanos) {
        while self.running.len() < self.config.max_running && !self.short_of_blocks {
            let Some((order, adapter)) = self.queue.next(&self.adapters) else {
                return;
            };
            let Some(mut request) = self.requests.remove(&order) else {
                self.queue.remove(order, &adapter);
                continue;
            };
            if self.take_blocks(&mut request).is_err() {
                self.requests.insert(order, request);
                self.short_of_blocks = true;
                return;
            }
            let first = self.queue.is_first(order);
            self.queue.remove(order, &adapter);
            if !first {
                self.queue.pass();
            }
            self.start(order, request, now);
        }
    }

    /// Records which adapters run and wait, where that may have changed.
    pub(super) fn note_adapters(&mut self, concerned: bool, now: Nanos) {
        if !concerned {
            return;
        }
        let join = |names: &mut dyn Iterator<Item = &str>| {
            let mut out = String::new();
            for name in names {
                if !out.is_empty() {
                    out.push(',');
                }
                out.push_str(name);
            }
            out
        };
        let running = join(&mut self.adapters.running());
        let waiting = join(&mut self.queue.adapters());
        let time = self.since_1970 + Duration::from_nanos(now);
        self.lora.record(running, waiting, time.as_secs_f64());
    }
}
