//! The one place where answers meet the engine: a [`Job`] goes in, a [`Run`] comes out and says when each token's
//! time has come. Dropping either gives everything back. Called by [`super::choice`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::api::Refusal;
use super::engine::{Admission, Slot};
use super::kv_cache::Held;
use super::metrics::Outcome;
use super::server::{Asked, Simulator};
use super::tokenizer::Tokens;

/// What is to be computed.
#[derive(Clone, Debug)]
pub struct Job {
    /// Model.
    pub model: Asked,
    /// Prompt.
    pub prompt: Arc<Tokens>,
    /// Tokens the answer will have.
    pub output: usize,
    /// `max_tokens`, where given.
    pub max_tokens: Option<usize>,
    /// The prompt was computed elsewhere: its blocks are transferred.
    pub remote_prefill: bool,
    /// Stop at once when a smaller share of the prompt is cached.
    pub cache_hit_threshold: Option<f64>,
    /// Stop at once in any case, as if too little were cached.
    pub cache_threshold_forced: bool,
    /// Makes the times reproducible.
    pub seed: u64,
    /// When the request arrived.
    pub arrived: Instant,
}

/// A job that runs.
pub struct Run {
    sim: Arc<Simulator>,
    prompt_tokens: usize,
    max_tokens: Option<usize>,
    rng: SmallRng,
    load: f64,
    first_token: Option<Duration>,
    arrived: Instant,
    queued: Option<Duration>,
    started: Instant,
    first_at: Option<Instant>,
    asleep: bool,
    /// Prompt tokens found in the cache; `None` without a cache.
    pub cached: Option<usize>,
    /// Too little was cached: nothing is to be generated.
    pub below_threshold: bool,
    // In this order: blocks are free before the slot is.
    _held: Option<Held>,
    _slot: Slot,
}

/// Waits for a slot and takes the blocks of the prompt.
///
/// # Errors
/// The queue is full, the server stops, or the blocks do not fit.
pub async fn start(sim: &Arc<Simulator>, job: Job) -> Result<Run, Refusal> {
    let (slot, queued) = match sim.engine.admit(job.model.adapter.as_deref()) {
        Admission::Running(slot) => (slot, None),
        Admission::Full => {
            return Err(Refusal::new(
                429,
                "Failed to enqueue request, waiting requests queue is full",
            ));
        }
        Admission::Waiting(place) => {
            let slot = place
                .slot()
                .await
                .ok_or_else(|| Refusal::new(503, "server is shutting down"))?;
            (slot, Some(job.arrived.elapsed()))
        }
    };
    let tokens: Vec<&str> = job.prompt.iter().collect();
    let held = sim
        .live_cache()
        .map(|c| c.start(&job.model.name, &tokens))
        .transpose();
    let held = held.map_err(|e| Refusal::new(500, e.to_string()))?;
    let cached = held.as_ref().map(|h| h.cached_tokens);
    let n = job.prompt.len();
    let rate = cached.unwrap_or(0) as f64 / n.max(1) as f64;
    let too_little = cached.is_some() && job.cache_hit_threshold.is_some_and(|least| rate < least);
    let mut rng = SmallRng::seed_from_u64(job.seed);
    let config = &sim.config;
    let load = config
        .latency
        .load(sim.engine.counts().running, config.max_num_seqs);
    let first_token = config.latency.first_token(&mut rng, load, n, cached.unwrap_or(0));
    Ok(Run {
        sim: sim.clone(),
        prompt_tokens: n,
        max_tokens: job.max_tokens,
        rng,
        load,
        first_token: Some(first_token),
        arrived: job.arrived,
        queued,
        started: Instant::now(),
        first_at: None,
        asleep: sim.is_asleep(),
        cached,
        below_threshold: too_little || job.cache_threshold_forced,
        _held: held,
        _slot: slot,
    })
}

impl Run {
    /// Waits until `n` more tokens are there.
    pub async fn advance(&mut self, n: usize) {
        let mut left = n;
        if left > 0
            && let Some(first) = self.first_token.take()
        {
            self.pause(first).await;
            self.first_at = Some(Instant::now());
            left -= 1;
        }
        let latency = self.sim.config.latency;
        let rest: Duration = (0..left)
            .map(|_| latency.next_token(&mut self.rng, self.load))
            .sum();
        self.pause(rest).await;
    }

    async fn pause(&self, time: Duration) {
        if !time.is_zero() && !self.asleep {
            tokio::time::sleep(time).await;
        }
    }

    /// Counts the request as served and gives everything back.
    pub fn finish(self, finish_reason: &'static str, generated: usize) {
        let decode = self.first_at.map(|f| f.elapsed()).unwrap_or_default();
        self.sim.metrics.succeeded(&Outcome {
            finish_reason,
            prompt: self.prompt_tokens,
            cached: self.cached,
            generated,
            max_tokens: self.max_tokens,
            queued: self.queued,
            prefill: self.started.elapsed().saturating_sub(decode),
            decode,
            total: self.arrived.elapsed(),
        });
    }
}
