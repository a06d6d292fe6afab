//! The batch steps of a virtual engine loop, as vLLM has them: every step gives each decoding request one token and
//! spends what is left of its token budget on prompts, in pieces where they are long. All of a step's tokens come at
//! its end, so that a long prompt makes the others wait, and many others make a prompt wait. Called by the core.

use std::collections::HashMap;

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
