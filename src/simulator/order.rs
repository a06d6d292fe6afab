//! From a request, whatever its protocol, to the choices that answer it: the checks in their order (simulator.md §3),
//! the prompt cut into tokens, and one job a choice. Called by [`super::http`] and [`super::grpc`].

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::api::answer::Usage;
use super::api::{Refusal, ToolChoice};
use super::choice::{self, Choice};
use super::dataset::prompt_hash;
use super::reply::Question;
use super::server::{Asked, RequestId, Simulator};
use super::tokenizer::{Tokenizer, Tokens};
use super::tools::Tool;
use super::work::Job;
use super::{Compat, EchoChat};

/// Choices of one answer at most.
const MAX_CHOICES: usize = 128;

/// Texts longer than this are cut on a thread that may block, bytes: first for the simple tokenizer, then for a
/// model's own, which is slower.
const CUT_ASIDE: (usize, usize) = (1 << 20, 8 << 10);

/// A prompt.
#[derive(Clone, Debug)]
pub enum Input {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// Messages: who, and what.
    Messages(Vec<(String, String)>),
}

/// What a request wants, in no protocol's words.
#[derive(Debug, Default)]
pub struct Wish {
    /// Model or adapter.
    pub model: String,
    /// Prompts.
    pub inputs: Vec<Input>,
    /// Answers to each prompt.
    pub n: Option<i64>,
    /// Limit of generated tokens.
    pub max_tokens: Option<i64>,
    /// Exactly that many.
    pub ignore_eos: bool,
    /// As events.
    pub stream: bool,
    /// This is the prefill half.
    pub remote_decode: bool,
    /// This is the decode half.
    pub remote_prefill: bool,
    /// Least share of the prompt that must be cached.
    pub cache_hit_threshold: Option<f64>,
    /// End at once, as if too little were cached.
    pub cache_threshold_forced: bool,
    /// Tools that can be called, or what is wrong with them.
    pub tools: Option<Result<Vec<Tool>, String>>,
    /// Which of them are to be.
    pub tool_choice: Option<ToolChoice>,
    /// Calls at most; `None`: any number.
    pub max_calls: Option<usize>,
    /// What it is called in errors about its tools.
    pub kind: &'static str,
}

/// A request that has passed its checks.
pub struct Order {
    /// Its id.
    pub id: RequestId,
    /// Its model.
    pub model: Asked,
    /// Answers to each prompt.
    pub n: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    arrived: Instant,
    /// Taken by `start`, so that a long prompt is not kept while its answer waits and streams.
    prompts: Vec<Ready>,
    template: Question,
    remote_prefill: bool,
    cache_hit_threshold: Option<f64>,
    cache_threshold_forced: bool,
}

struct Ready {
    tokens: Arc<Tokens>,
    echo: Option<Arc<Tokens>>,
    hash: Option<[u8; 32]>,
}

/// A choice on its way.
pub type Starting = BoxFuture<'static, Result<Choice, Refusal>>;

/// Checks a request.
///
/// # Errors
/// The first thing that is wrong with it.
pub async fn check(sim: &Arc<Simulator>, id: RequestId, wish: Wish) -> Result<Order, Refusal> {
    let arrived = Instant::now();
    if sim.is_stopping() {
        return Err(Refusal::new(503, "server is shutting down"));
    }
    let model = sim
        .asked(&wish.model)
        .ok_or_else(|| Refusal::unknown_model(&wish.model))?;
    let tools = wish.tools.unwrap_or(Ok(Vec::new()));
    let tools = tools.map_err(|e| Refusal::new(400, format!("Tool validation failed: {e}")))?;
    if wish.max_tokens.is_some_and(|n| n <= 0) {
        return Err(Refusal::new(
            400,
            "Max completion tokens and max tokens should be positive",
        ));
    }
    if wish.remote_decode && wish.stream {
        return Err(Refusal::new(400, "Prefill does not support streaming"));
    }
    let max_tokens = wish.max_tokens.and_then(|n| usize::try_from(n).ok());
    if wish.ignore_eos && max_tokens.is_none() {
        let text = "Ignore_eos is true but max_completion_tokens (or max_tokens) is not set";
        return Err(Refusal::new(400, text));
    }
    let n = match wish.n {
        None => 1,
        Some(n) if n < 1 => return Err(Refusal::new(400, "n must be at least 1")),
        Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
    };
    if n.saturating_mul(wish.inputs.len().max(1)) > MAX_CHOICES {
        return Err(Refusal::new(
            400,
            format!("n times the number of prompts must be at most {MAX_CHOICES}"),
        ));
    }
    let mut prompts = Vec::with_capacity(wish.inputs.len());
    for input in wish.inputs {
        let ready = prepare(sim, input).await;
        fits(ready.tokens.len(), max_tokens, sim.config.max_model_len)?;
        prompts.push(ready);
    }
    let what = if tools.is_empty() {
        String::new()
    } else {
        format!("{} (req id {})", wish.kind, id.text)
    };
    let threshold = wish.cache_hit_threshold.filter(|t| (0.0..=1.0).contains(t));
    let global = Some(sim.config.cache_hit_threshold).filter(|t| *t > 0.0);
    Ok(Order {
        id,
        model,
        n,
        prompt_tokens: prompts.iter().map(|p| p.tokens.len()).sum(),
        arrived,
        prompts,
        template: Question {
            prompt: Arc::default(),
            echo: None,
            hash: None,
            max_tokens,
            ignore_eos: wish.ignore_eos,
            remote_decode: wish.remote_decode,
            tools: tools.into(),
            tool_choice: wish.tool_choice.unwrap_or(ToolChoice::Auto),
            max_calls: wish.max_calls.unwrap_or(usize::MAX),
            what: what.into(),
            seed: 0,
        },
        remote_prefill: wish.remote_prefill,
        cache_hit_threshold: threshold.or(global),
        cache_threshold_forced: wish.cache_threshold_forced,
    })
}

/// Does a prompt with what is asked for fit into the context?
fn fits(prompt: usize, max_tokens: Option<usize>, limit: usize) -> Result<(), Refusal> {
    let asked = max_tokens.unwrap_or(0);
    let total = prompt.saturating_add(asked);
    if total <= limit {
        return Ok(());
    }
    Err(Refusal::new(
        400,
        format!(
            "This model's maximum context length is {limit} tokens. However, you requested {total} tokens \
             ({prompt} in the messages, {asked} in the completion). Please reduce the length of the messages or \
             completion"
        ),
    ))
}

/// Cuts a text; a long one aside, so that others are not held up.
pub async fn cut(sim: &Arc<Simulator>, text: String) -> Tokens {
    let inline = match sim.tokenizer {
        Tokenizer::Simple => CUT_ASIDE.0,
        Tokenizer::Model(_) => CUT_ASIDE.1,
    };
    if text.len() <= inline {
        return sim.tokenizer.cut(text);
    }
    let aside = sim.clone();
    // Only a shutdown under way can lose the thread; the request is then lost too.
    tokio::task::spawn_blocking(move || aside.tokenizer.cut(text))
        .await
        .unwrap_or_default()
}

async fn prepare(sim: &Arc<Simulator>, input: Input) -> Ready {
    let hashed = sim.dataset.is_some();
    match input {
        Input::Ids(ids) => Ready {
            // Their text is only ever repeated.
            tokens: Arc::new(match sim.config.echo {
                true => Tokens::shown_ids(ids),
                false => Tokens::of_ids(ids),
            }),
            echo: None,
            hash: None,
        },
        Input::Text(text) => Ready {
            hash: hashed.then(|| prompt_hash([("user", text.as_str())].into_iter())),
            tokens: Arc::new(cut(sim, text).await),
            echo: None,
        },
        Input::Messages(messages) => {
            let pairs = messages.iter().map(|(role, text)| (role.as_str(), text.as_str()));
            let hash = hashed.then(|| prompt_hash(pairs));
            let last = repeated(sim, &messages);
            let echo = match last {
                Some(last) => Some(Arc::new(cut(sim, last).await)),
                None => None,
            };
            let texts: Vec<&str> = messages.iter().map(|(_, text)| text.as_str()).collect();
            let joined = texts.join(" ").trim().to_owned();
            Ready {
                tokens: Arc::new(cut(sim, joined).await),
                echo,
                hash,
            }
        }
    }
}

/// The message echo mode repeats, where that is not all of them.
fn repeated(sim: &Simulator, messages: &[(String, String)]) -> Option<String> {
    let config = &sim.config;
    let v050 = config.compat == Compat::V050;
    if !config.echo || !(v050 || config.echo_chat == EchoChat::Last) {
        return None;
    }
    let mut said = messages.iter().rev().filter(|(role, _)| !v050 || role == "user");
    Some(said.next().map(|(_, text)| text.clone()).unwrap_or_default())
}

impl Order {
    /// The prefill half?
    pub fn is_remote_decode(&self) -> bool {
        self.template.remote_decode
    }

    /// The choices, all on their way: `n` for each prompt, in order.
    pub fn start(&mut self, sim: &Arc<Simulator>) -> Vec<Starting> {
        let prompts = std::mem::take(&mut self.prompts);
        let one = |index: usize| -> Starting {
            let prompt = &prompts[index / self.n];
            let seed = mixed(sim.config.seed, self.id.number, index as u64);
            let question = Question {
                prompt: prompt.tokens.clone(),
                echo: prompt.echo.clone(),
                hash: prompt.hash,
                seed,
                ..self.template.clone()
            };
            let job = Job {
                model: self.model.clone(),
                prompt: prompt.tokens.clone(),
                max_tokens: self.template.max_tokens,
                remote_prefill: self.remote_prefill,
                cache_hit_threshold: self.cache_hit_threshold,
                cache_threshold_forced: self.cache_threshold_forced,
                seed: seed.wrapping_add(1),
                arrived: self.arrived,
            };
            choice::start(sim.clone(), index, question, job).boxed()
        };
        (0..prompts.len() * self.n).map(one).collect()
    }

    /// Waits for all choices to end.
    ///
    /// # Errors
    /// The first of them that fails; the others are given up.
    pub async fn whole(&mut self, sim: &Arc<Simulator>) -> Result<(Vec<Choice>, Usage), Refusal> {
        let whole = |starting: Starting| async move {
            let mut choice = starting.await?;
            choice.all().await;
            Ok(choice)
        };
        let choices = futures::future::try_join_all(self.start(sim).into_iter().map(whole)).await?;
        let mut usage = Usage {
            prompt: self.prompt_tokens,
            ..Usage::default()
        };
        choices.iter().for_each(|c| self.add(&mut usage, c));
        Ok((choices, usage))
    }

    /// Adds what a choice has used; a prompt counts once.
    pub fn add(&self, usage: &mut Usage, choice: &Choice) {
        usage.completion += choice.reply.tokens();
        if choice.index.is_multiple_of(self.n)
            && let Some(cached) = choice.cached()
        {
            *usage.cached.get_or_insert(0) += cached;
        }
    }
}

/// One seed for each choice of each request.
fn mixed(seed: u64, number: u64, index: u64) -> u64 {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    seed.wrapping_add(spread)
        .wrapping_add(index.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_fits_up_to_the_last_token() {
        assert!(fits(5, Some(5), 10).is_ok());
        assert!(fits(10, None, 10).is_ok());
        let error = fits(5, Some(8), 10).unwrap_err();
        assert_eq!(error.status, 400);
        assert!(error.message.starts_with(
            "This model's maximum context length is 10 tokens. However, you requested 13 tokens (5 in the messages, \
             8 in the completion). Please reduce"
        ));
        assert!(fits(1, Some(usize::MAX), 10).is_err());
    }
}
