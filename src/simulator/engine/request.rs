//! One job as the engine's core keeps it.

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Job;
use super::ticket::Cell;
use crate::simulator::metrics::Outcome;

/// A time since the engine's start, nanoseconds.
pub type Nanos = u64;

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the queue.
    Waiting,
    /// Its next token has a time of its own.
    Timed(Nanos),
    /// It joins the steps at that time.
    Pausing(Nanos),
    /// Takes part in steps: so many tokens of the prompt are left; `begun`: its fixed part is paid.
    Prefill { left: usize, begun: bool },
    /// Takes part in steps, one token each.
    Decode,
}

/// A job, and how far it is.
#[derive(Debug)]
pub struct Request {
    /// What is to be computed.
    pub job: Job,
    /// What the owner sees.
    pub cell: Arc<Cell>,
    /// Draws its times.
    pub rng: SmallRng,
    /// Where it stands.
    pub phase: Phase,
    /// Tokens generated.
    pub produced: usize,
    /// Leading blocks it holds, of the cache of this generation.
    pub held: usize,
    /// Counts how often the cache was emptied.
    pub generation: u32,
    /// Number of its latest start: later is younger.
    pub start_number: u64,
    /// When it arrived.
    pub arrived: Nanos,
    /// When it was queued.
    pub queued: Option<Nanos>,
    /// When it first ran.
    pub started: Option<Nanos>,
    /// When its first token came.
    pub first: Option<Nanos>,
    /// When its latest token came.
    pub latest: Nanos,
    /// Time to first token as drawn.
    pub drawn: Nanos,
}

impl Request {
    /// A request that has not started.
    pub fn new(job: Job, arrived: Nanos) -> Self {
        Request {
            rng: SmallRng::seed_from_u64(job.seed),
            job,
            cell: Arc::default(),
            phase: Phase::Waiting,
            produced: 0,
            held: 0,
            generation: 0,
            start_number: 0,
            arrived,
            queued: None,
            started: None,
            first: None,
            latest: 0,
            drawn: 0,
        }
    }

    /// Whole blocks of what is computed so far.
    pub fn blocks_now(&self, block_size: usize) -> usize {
        let tokens = self.job.prompt + self.produced;
        (tokens / block_size.max(1)).min(self.job.blocks.len())
    }

    /// How it went, ending now.
    pub fn outcome(&self, now: Nanos, finish_reason: &'static str) -> Outcome {
        let started = self.started.unwrap_or(now);
        let first = self.first.unwrap_or(now);
        let between = |from: Nanos, to: Nanos| to.saturating_sub(from) as f64 / 1e9;
        Outcome {
            finish_reason,
            prompt: self.job.prompt,
            generated: self.produced,
            max_tokens: self.job.max_tokens,
            queued: self.queued.map(|queued| between(queued, started)),
            prefill: between(started, first),
            decode: self.first.map_or(0.0, |first| between(first, self.latest)),
            total: between(self.arrived, now),
        }
    }
}
