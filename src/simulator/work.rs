//! The one place where answers meet the engine: a [`Job`] goes in, a [`Run`] comes out and says when each token's
//! time has come. Dropping a run gives everything back. Called by [`super::choice`].

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::api::Refusal;
use super::engine::{self, Refused, Ticket};
use super::reply::Reply;
use super::server::{Asked, Simulator};
use super::tokenizer::Tokens;

/// What is to be computed, but for what the answer will be.
#[derive(Clone, Debug)]
pub struct Job {
    /// Model.
    pub model: Asked,
    /// Prompt.
    pub prompt: Arc<Tokens>,
    /// `max_tokens`, where given.
    pub max_tokens: Option<usize>,
    /// The prompt was computed elsewhere: its blocks are transferred.
    pub remote_prefill: bool,
    /// End at once when a smaller share of the prompt is cached.
    pub cache_hit_threshold: Option<f64>,
    /// End at once in any case, as if too little were cached.
    pub cache_threshold_forced: bool,
    /// Makes the times reproducible.
    pub seed: u64,
    /// When the request arrived.
    pub arrived: Instant,
}

/// A job that runs.
pub struct Run {
    ticket: Ticket,
    taken: usize,
    /// Prompt tokens found in the cache; `None` without a cache.
    pub cached: Option<usize>,
    /// Too little was cached: nothing is to be generated.
    pub below_threshold: bool,
}

/// Hands a job in and waits until it runs.
///
/// # Errors
/// The queue is full, or the prompt has more blocks than the cache.
pub async fn start(sim: &Simulator, job: Job, reply: &Reply) -> Result<Run, Refusal> {
    let output = reply.tokens();
    let ids = || match sim.config.cache_generated {
        true => ids_of(&job.prompt, reply),
        false => job.prompt.ids(),
    };
    let (blocks, ids) = sim.machine.blocks(job.model.adapter.as_deref(), ids);
    let ticket = sim.machine.engine.submit(engine::Job {
        adapter: job.model.adapter,
        prompt: job.prompt.len(),
        output,
        finish_reason: reply.finish_reason,
        max_tokens: job.max_tokens,
        remote_prefill: job.remote_prefill,
        blocks,
        ids,
        cache_hit_threshold: job.cache_hit_threshold,
        cache_threshold_forced: job.cache_threshold_forced,
        seed: job.seed,
        arrived: job.arrived,
    });
    let ticket = ticket.map_err(|refused| {
        let status = match refused {
            Refused::QueueFull => 429,
            Refused::TooLarge(_) => 500,
        };
        Refusal::new(status, refused.to_string())
    })?;
    let started = ticket.started().await;
    Ok(Run {
        ticket,
        taken: 0,
        cached: started.cached,
        below_threshold: started.below_threshold,
    })
}

/// Ids of all tokens of prompt and answer, in order.
fn ids_of(prompt: &Tokens, reply: &Reply) -> Vec<u32> {
    let mut ids = Vec::with_capacity(prompt.len() + reply.tokens());
    prompt.add_ids(&mut ids);
    reply.text.add_ids(&mut ids);
    for call in &reply.calls {
        // A call's name and its brackets have no tokens of their own.
        let around = call.tokens() - call.arguments.len();
        ids.extend(std::iter::repeat_n(0, around));
        call.arguments.add_ids(&mut ids);
    }
    ids
}

impl Run {
    /// Waits until `n` more tokens are there, and takes them. They may have been there for long.
    pub fn poll_advance(&mut self, cx: &mut Context<'_>, n: usize) -> Poll<()> {
        let ready = self.ticket.poll_reach(cx, self.taken + n);
        if ready.is_ready() {
            self.taken += n;
        }
        ready
    }

    /// Waits until all are there.
    pub async fn end(&self) {
        self.ticket.reach(usize::MAX).await;
    }
}
