//! The engine of one simulator: jobs go in, tokens come due, slots and blocks come back (simulator.md §6, §8, §11).
//!
//! It runs by its own clock, on a thread of its own: tokens come due at absolute times whether or not somebody reads
//! them, and the last one gives back what the job holds. What a reader has not taken is a number, not a buffer. A
//! [`Ticket`] that is dropped takes its job out at once. `core` decides, without a clock or a thread of its own.

mod blocks;
mod core;
mod lora;
mod queue;
mod request;
mod step;
mod ticket;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, RwLock};

use self::core::Core;
pub use ticket::{Started, Ticket};

use super::kv_cache::NoCapacity;
use super::kv_events::Outbox;
use super::latency::Latency;
use super::metrics::fake::Fake;
use super::metrics::page::Labels;

/// Tokens that come due while the lock is held once; others get their turn in between.
const AT_ONCE: usize = 256;

/// What an engine is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Jobs running at once; at least 1.
    pub max_running: usize,
    /// Jobs waiting at most.
    pub max_waiting: usize,
    /// Adapters in slots; at least 1.
    pub max_loras: usize,
    /// Adapters in memory; at least `max_loras`.
    pub max_cpu_loras: usize,
    /// Time to load an adapter that is not in memory.
    pub lora_load: Duration,
    /// Latencies.
    pub latency: Latency,
    /// One loop of steps for all jobs, each step with so many tokens at most; `None`: every job by itself.
    pub batch_tokens: Option<usize>,
    /// The KV cache is simulated; its size stands in the labels.
    pub cache: bool,
    /// The time to the first token is counted as it was drawn, without the queue.
    pub sampled_ttft: bool,
    /// Context length, tokens.
    pub max_model_len: usize,
    /// What the metrics page says in any case.
    pub labels: Labels,
    /// What it says instead of what happens.
    pub fake: Option<Arc<Fake>>,
}

/// What is to be computed.
#[derive(Clone, Debug)]
pub struct Job {
    /// Adapter it needs.
    pub adapter: Option<Arc<str>>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer.
    pub output: usize,
    /// Why the answer will end.
    pub finish_reason: &'static str,
    /// `max_tokens`, where given.
    pub max_tokens: Option<usize>,
    /// The prompt was computed elsewhere: its blocks are transferred.
    pub remote_prefill: bool,
    /// Hashes of the whole blocks of prompt and answer together; empty where nothing is cached.
    pub blocks: Vec<u64>,
    /// Ids of the tokens of prompt and answer, for events that carry them.
    pub ids: Option<Arc<[u32]>>,
    /// End at once when a smaller share of the prompt is cached.
    pub cache_hit_threshold: Option<f64>,
    /// End at once in any case, as if too little were cached.
    pub cache_threshold_forced: bool,
    /// Makes its times reproducible.
    pub seed: u64,
    /// When the request arrived.
    pub arrived: Instant,
}

/// A job that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("Failed to enqueue request, waiting requests queue is full")]
    QueueFull,
    /// The prompt has more blocks than the whole cache.
    #[error("{0}")]
    TooLarge(#[from] NoCapacity),
}

/// Counts now.
#[cfg(test)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Running jobs.
    pub running: usize,
    /// Waiting jobs.
    pub waiting: usize,
    /// Blocks in use.
    pub blocks: usize,
    /// Adapters with running jobs, sorted.
    pub running_adapters: Vec<String>,
    /// Adapters with waiting jobs, sorted.
    pub waiting_adapters: Vec<String>,
}

/// A handle; cheap to clone. The engine ends with its last handle and ticket.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle(Arc<Shared>);

struct Shared {
    /// One lock for all: slots, queue, blocks and counters change together or not at all.
    core: Mutex<Core>,
    /// There is something earlier to do than what the thread waits for.
    earlier: Condvar,
    epoch: Instant,
    /// Read for a page, written by a change.
    fake: RwLock<Option<Arc<Fake>>>,
    labels: Labels,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.core.lock().end();
        self.0.earlier.notify_one();
    }
}

impl Shared {
    fn now(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }

    /// Changes the core, then wakes whom that concerns, with the lock free.
    fn change<R>(&self, change: impl FnOnce(&mut Core, u64) -> R) -> R {
        let (result, wakes, earlier) = {
            let mut core = self.core.lock();
            let now = self.now();
            let result = change(&mut core, now);
            // What takes no time is there at once, without a turn of the thread.
            core.advance(now, AT_ONCE);
            (result, core.take_wakes(), core.is_earlier())
        };
        if earlier {
            self.earlier.notify_one();
        }
        wakes.iter().for_each(|cell| cell.wake());
        result
    }

    fn run(&self) {
        let mut core = self.core.lock();
        while !core.has_ended() {
            let more = core.advance(self.now(), AT_ONCE);
            let mut wakes = core.take_wakes();
            if !wakes.is_empty() {
                drop(core);
                wakes.drain(..).for_each(|cell| cell.wake());
                core = self.core.lock();
                core.give_back(wakes);
                continue;
            }
            if more {
                continue;
            }
            match core.sleep() {
                Some(due) => {
                    let until = self.epoch + Duration::from_nanos(due);
                    self.earlier.wait_until(&mut core, until);
                }
                None => self.earlier.wait(&mut core),
            }
            core.awake(self.now());
        }
    }
}

impl Engine {
    /// An idle engine; changes of its cache go to `events`.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn new(config: Config, events: Option<Outbox>) -> io::Result<Self> {
        let since_1970 = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            fake: RwLock::new(config.fake.clone()),
            labels: config.labels.clone(),
            core: Mutex::new(Core::new(config, events, since_1970)),
            earlier: Condvar::new(),
        });
        let running = shared.clone();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || running.run())?;
        Ok(Engine(Arc::new(Handle(shared))))
    }

    /// Hands a job in: it runs, or waits.
    ///
    /// # Errors
    /// It can do neither.
    pub fn submit(&self, job: Job) -> Result<Ticket, Refused> {
        let shared = &self.0.0;
        let arrived = nanos(job.arrived.saturating_duration_since(shared.epoch));
        let (order, cell) = shared.change(|core, now| core.submit(job, arrived, now))?;
        Ok(Ticket::new(self.clone(), order, cell))
    }

    fn cancel(&self, order: u64) {
        self.0.0.change(|core, now| core.cancel(order, now));
    }

    /// Time since the start.
    pub fn age(&self) -> Duration {
        self.0.0.epoch.elapsed()
    }

    /// Counts now.
    #[cfg(test)]
    pub fn counts(&self) -> Counts {
        self.0.0.core.lock().counts()
    }

    /// Empties the cache and turns it off, or on again.
    pub fn switch_cache(&self, on: bool) {
        self.0.0.change(|core, now| core.switch_cache(on, now));
    }

    /// Latencies from now on, of jobs that run already, too, and made-up metrics. A function of time that stays goes
    /// on, a new one begins.
    pub fn change(&self, latency: Latency, fake: Option<Arc<Fake>>) {
        let shared = &self.0.0;
        shared.core.lock().set_latency(latency);
        let mut shown = shared.fake.write();
        *shown = fake.map(|fake| match shown.as_ref() {
            Some(old) => Arc::new(Fake::clone(&fake).after(old, shared.epoch.elapsed())),
            None => fake,
        });
    }

    /// The metrics page, as OpenMetrics text.
    pub fn page(&self) -> String {
        let shared = &self.0.0;
        let fake = shared.fake.read().clone();
        if let Some(fake) = fake {
            let gauges = fake.gauges(shared.epoch.elapsed());
            let mut loras = fake.loras.iter();
            return super::metrics::page::write(
                &shared.labels,
                &gauges,
                &mut loras,
                &fake.stats,
                fake.all_reasons,
            );
        }
        let (gauges, lora, stats) = shared.core.lock().snapshot();
        super::metrics::page::write(&shared.labels, &gauges, &mut lora.states(), &stats, false)
    }
}

/// A time in nanoseconds; more than 584 years are as good as 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
