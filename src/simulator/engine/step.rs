//! The batch steps of a virtual engine loop, as vLLM has them: every step gives each decoding request one token and
//! spends what is left of its token budget on prompts, in pieces where they are long. All of a step's tokens come at
//! its end, so that a long prompt makes the others wait, and many others make a prompt wait. Part of the core.

use std::collections::HashMap;
use std::time::Duration;

use super::core::Core;
use super::nanos;
use super::request::{Nanos, Phase, Request};

/// A step under way.
#[derive(Debug)]
pub struct Step {
    /// When its tokens are there.
    pub ends: Nanos,
    /// Who takes part, with how many tokens.
    pub shares: Vec<(u64, usize)>,
    /// Number of the latest start when it began.
    pub starts: u64,
}

/// What a step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who takes part, with how many tokens.
    pub shares: Vec<(u64, usize)>,
    /// Requests that decode.
    pub decoding: usize,
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// A prompt begins in it.
    pub begins: bool,
}

/// Plans a step of at most `budget` tokens for `running`, oldest first.
pub fn plan(
    running: impl Iterator<Item = u64>,
    requests: &mut HashMap<u64, Box<Request>>,
    budget: usize,
) -> Plan {
    let mut plan = Plan::default();
    let mut left = budget.max(1);
    let mut prompts = Vec::new();
    for order in running {
        match requests.get(&order).map(|r| r.phase) {
            Some(Phase::Decode) if left > 0 => {
                plan.shares.push((order, 1));
                plan.decoding += 1;
                left -= 1;
            }
            Some(Phase::Prefill { left, begun }) => prompts.push((order, left, begun)),
            _ => {}
        }
    }
    for (order, tokens, begun) in prompts {
        if left == 0 {
            break;
        }
        let share = tokens.min(left);
        plan.begins |= !begun;
        if let Some(request) = requests.get_mut(&order) {
            request.phase = Phase::Prefill {
                left: tokens,
                begun: true,
            };
        }
        plan.shares.push((order, share));
        plan.prompt_tokens += share;
        left -= share;
    }
    plan
}

impl Core {
    /// Begins a step, if none is under way and there is something to do.
    pub(super) fn plan_step(&mut self, now: Nanos) {
        let Some(budget) = self.config.batch_tokens else {
            return;
        };
        if self.step.is_some() {
            return;
        }
        let plan = plan(self.running.values().copied(), &mut self.requests, budget);
        if plan.shares.is_empty() {
            return;
        }
        let latency = self.config.latency;
        let factor = latency.load(self.running.len(), self.config.max_running);
        let mut time = Duration::ZERO;
        if plan.prompt_tokens > 0 {
            time += latency.prefill(&mut self.rng, factor, plan.prompt_tokens, plan.begins);
        }
        if plan.decoding > 0 {
            time += latency.next_token(&mut self.rng, factor);
        }
        self.step = Some(Step {
            ends: now.saturating_add(nanos(time)),
            shares: plan.shares,
            starts: self.starts,
        });
    }

    /// Hands out the tokens of a step, and begins the next one where it ended.
    pub(super) fn end_step(&mut self, ends: Nanos, now: Nanos) {
        let Some(step) = self.step.take() else { return };
        for (order, tokens) in step.shares {
            // Who was stopped and started again meanwhile is another request to this step.
            let request = self.requests.get_mut(&order);
            let Some(request) = request.filter(|r| r.start_number <= step.starts) else {
                continue;
            };
            match request.phase {
                Phase::Prefill { left, begun } if left > tokens => {
                    let left = left - tokens;
                    request.phase = Phase::Prefill { left, begun };
                }
                Phase::Prefill { .. } | Phase::Decode => {
                    request.phase = Phase::Decode;
                    self.token(order, now);
                }
                _ => {}
            }
        }
        self.plan_step(ends);
    }
}
