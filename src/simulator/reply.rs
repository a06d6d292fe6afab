//! Decides what to say: the prompt again, a stored answer, random sentences, or calls of tools (simulator.md §5, §7,
//! §12). Called by [`super::choice`] before the work begins; the same seed decides the same.

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Compat;
use super::api::{Refusal, ToolChoice};
use super::dataset::Wanted;
use super::server::Simulator;
use super::text;
use super::tokenizer::Tokens;
use super::tools::Tool;
use super::tools::calls::{self, Call};

/// Longest answer without a limit in v0.5.0, tokens.
const V050_LENGTH: usize = 128;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Prompt, as it is counted.
    pub prompt: Arc<Tokens>,
    /// What echo mode repeats, where that is not the prompt.
    pub echo: Option<Arc<Tokens>>,
    /// Key of the prompt in the dataset, where there is one.
    pub hash: Option<[u8; 32]>,
    /// Limit of generated tokens, where given.
    pub max_tokens: Option<usize>,
    /// Exactly that many.
    pub ignore_eos: bool,
    /// This is the prefill half.
    pub remote_decode: bool,
    /// Tools that can be called.
    pub tools: Arc<[Tool]>,
    /// Which of them are to be.
    pub tool_choice: ToolChoice,
    /// Calls at most.
    pub max_calls: usize,
    /// What asks, with its id, for errors; empty without tools.
    pub what: Arc<str>,
    /// Decides.
    pub seed: u64,
}

/// What will be said.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Tokens of the text; empty where tools are called.
    pub text: Arc<Tokens>,
    /// Calls.
    pub calls: Vec<Call>,
    /// Why it ends.
    pub finish_reason: &'static str,
}

impl Reply {
    /// Tokens it counts for.
    pub fn tokens(&self) -> usize {
        self.text.len() + self.calls.iter().map(Call::tokens).sum::<usize>()
    }
}

/// Decides what to say.
///
/// # Errors
/// The tools cannot be called, or the dataset has no answer.
pub async fn decide(sim: &Simulator, question: &Question) -> Result<Reply, Refusal> {
    let mut rng = SmallRng::seed_from_u64(question.seed);
    let ranges = &sim.config.tools;
    let mut calls = calls::make(
        &question.tools,
        &question.tool_choice,
        ranges,
        &sim.tokenizer,
        &mut rng,
    )
    .map_err(|e| {
        Refusal::new(
            500,
            format!("failed to create response for {} {e}", question.what),
        )
    })?;
    calls.truncate(question.max_calls);
    if !calls.is_empty() {
        return Ok(Reply {
            text: Arc::default(),
            calls,
            finish_reason: "tool_calls",
        });
    }
    let (text, at_limit) = said(sim, question, &mut rng).await?;
    let finish_reason = match (question.remote_decode, at_limit) {
        (true, _) => "remote_decode",
        (false, true) => "length",
        (false, false) => "stop",
    };
    Ok(Reply {
        text,
        calls: Vec::new(),
        finish_reason,
    })
}

/// The text, and whether it ends because it may not be longer.
async fn said(
    sim: &Simulator,
    question: &Question,
    rng: &mut SmallRng,
) -> Result<(Arc<Tokens>, bool), Refusal> {
    let max = question.max_tokens;
    let v050 = sim.config.compat == Compat::V050;
    let room = sim.config.max_model_len.saturating_sub(question.prompt.len());
    if sim.config.echo {
        let mut text = question.echo.clone().unwrap_or_else(|| question.prompt.clone());
        let cut = max.filter(|max| v050 && *max < text.len());
        if let Some(max) = cut {
            Arc::make_mut(&mut text).truncate(max);
        }
        let at_limit = if v050 {
            cut.is_some()
        } else {
            max.is_some_and(|max| max <= text.len())
        };
        return Ok((text, at_limit));
    }
    if let (Some(dataset), Some(hash)) = (&sim.dataset, question.hash) {
        let limit = max.unwrap_or(room);
        let wanted = Wanted {
            limit,
            exact: question.ignore_eos,
            seed: question.seed,
        };
        let stored = dataset.answer(hash, wanted).await;
        let mut text = stored.map_err(|e| Refusal::new(500, e.to_string()))?;
        if question.ignore_eos {
            text::extend_to(&mut text, rng, limit, &sim.tokenizer);
        }
        let at_limit = text.len() == limit;
        return Ok((Arc::new(text), at_limit));
    }
    let (length, at_limit) = match max {
        None if v050 => (
            text::answer_length(rng, None, false, V050_LENGTH.min(room)).0,
            false,
        ),
        _ => text::answer_length(rng, max, question.ignore_eos, room),
    };
    Ok((
        Arc::new(text::random_tokens(rng, length, &sim.tokenizer)),
        at_limit,
    ))
}
