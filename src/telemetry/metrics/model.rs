//! What is counted by model: `inference_objective_*`. One [`ModelMetrics`] holds everything of a pair of model
//! names, so that a request looks up once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::family::{Cap, Family, Named, OVERFLOW};
use super::histogram::Histogram;
use super::page::{Page, Value};
use super::{buckets, catalogue};

/// Distinct error codes counted per model pair; the protocol has fewer than ten.
const MAX_ERROR_CODES: usize = 16;

/// Lines of the page that a pair takes at most: seven histograms and four more.
const PAIR_LINES: usize = 190;

/// Bytes of the page that pairs a model server has answered for take at most, about.
const MAX_PAGE: usize = 16 << 20;

/// Pairs shown that no model server has answered for yet.
pub(super) const MAX_UNPROVEN: usize = 64;

/// Handles of one (model, target model) pair.
#[derive(Debug)]
pub struct ModelMetrics {
    /// False for the empty model name of requests that failed before they were read.
    named: bool,
    /// A model server has answered for this pair.
    served: AtomicBool,
    requests: AtomicU64,
    /// Errors by code. A list behind a lock: errors are rare, codes few, and it is held for one addition only.
    errors: Mutex<Vec<(Box<str>, u64)>>,
    running: AtomicI64,
    /// Whether anything ever ran: the gauge stays on the page at 0 from then on.
    ran: AtomicBool,
    seconds: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
    cached_tokens: Histogram,
    seconds_per_token: Histogram,
}

impl Default for ModelMetrics {
    fn default() -> Self {
        ModelMetrics::new(false)
    }
}

impl ModelMetrics {
    pub(super) fn new(named: bool) -> Self {
        ModelMetrics {
            named,
            served: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            errors: Mutex::default(),
            running: AtomicI64::new(0),
            ran: AtomicBool::new(false),
            seconds: Histogram::new(buckets::REQUEST_SECONDS),
            request_bytes: Histogram::new(buckets::REQUEST_BYTES),
            response_bytes: Histogram::new(buckets::RESPONSE_BYTES),
            input_tokens: Histogram::new(buckets::PROMPT_TOKENS),
            output_tokens: Histogram::new(buckets::OUTPUT_TOKENS),
            cached_tokens: Histogram::new(buckets::PROMPT_TOKENS),
            seconds_per_token: Histogram::new(buckets::SECONDS_PER_TOKEN),
        }
    }

    /// A request was accepted and scheduled; `bytes` as forwarded.
    pub fn accepted(&self, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.request_bytes.observe(bytes as f64);
    }

    /// A request started (+1) or stopped (-1) running. Not counted for the empty model name.
    pub fn running(&self, by: i64) {
        if self.named {
            self.running.fetch_add(by, Ordering::Relaxed);
            self.ran.store(true, Ordering::Relaxed);
        }
    }

    /// An exchange ended in an error. Codes past the first sixteen are counted as `other`.
    pub fn error(&self, code: &str) {
        let mut errors = self.errors.lock();
        let full = errors.len() >= MAX_ERROR_CODES;
        let known = |errors: &Vec<(Box<str>, u64)>, code: &str| errors.iter().position(|e| *e.0 == *code);
        let at = known(&errors, code).or_else(|| full.then(|| known(&errors, OVERFLOW)).flatten());
        match at {
            Some(at) => errors[at].1 += 1,
            None => errors.push(((if full { OVERFLOW } else { code }).into(), 1)),
        }
    }

    /// A response reached its end. A duration of zero is left out: it was not measured.
    pub fn completed(&self, took: Duration, response_bytes: u64) {
        if !took.is_zero() {
            self.seconds.observe(took.as_secs_f64());
        }
        self.response_bytes.observe(response_bytes as f64);
    }

    /// Tokens of a finished exchange. Prompt and completion tokens of zero are left out; cached ones count
    /// always. `took` gives the normalized time per output token: zero (not streamed) leaves that out.
    pub fn tokens(&self, prompt: u64, completion: u64, cached: u64, took: Duration) {
        if prompt > 0 {
            self.input_tokens.observe(prompt as f64);
        }
        if completion > 0 {
            self.output_tokens.observe(completion as f64);
            if !took.is_zero() {
                self.seconds_per_token
                    .observe(took.as_secs_f64() / completion as f64);
            }
        }
        self.cached_tokens.observe(cached as f64);
    }
}

/// The store of all pairs. Model names are the client's choice, so a pair takes a lasting place only once a model
/// server has answered for it; until then it has one of a few places, or is counted under `other`.
#[derive(Debug)]
pub(super) struct Models {
    served: Family<2, ModelMetrics>,
    unproven: Family<2, ModelMetrics>,
    /// Held by whoever adds a pair or moves one.
    moving: Mutex<()>,
}

type Labels = Named<2>;

impl Default for Models {
    fn default() -> Self {
        let make: fn(&[Arc<str>; 2]) -> ModelMetrics = |labels| ModelMetrics::new(!labels[0].is_empty());
        let cap = Cap {
            page: MAX_PAGE,
            lines: PAIR_LINES,
            ..Cap::default()
        };
        let few = Cap {
            series: MAX_UNPROVEN,
            ..cap
        };
        Models {
            served: Family::capped(catalogue::MODEL, cap, make),
            unproven: Family::capped(catalogue::MODEL, few, make),
            moving: Mutex::default(),
        }
    }
}

impl Models {
    /// The handles of a pair, or those of `other`.
    pub(super) fn get(&self, pair: [&str; 2]) -> Arc<ModelMetrics> {
        if let Some(known) = self.find(pair) {
            return known;
        }
        // Requests that failed before they were read: no name was made up.
        if pair == ["", ""] {
            return self.served.get(pair);
        }
        let _one_at_a_time = self.moving.lock();
        let known = self
            .find(pair)
            .or_else(|| self.unproven.claim(pair, Instant::now()));
        known.unwrap_or_else(|| self.served.overflow())
    }

    fn find(&self, pair: [&str; 2]) -> Option<Arc<ModelMetrics>> {
        self.served.find(pair).or_else(|| self.unproven.find(pair))
    }

    /// A model server has answered for this pair, whose handles are `held`.
    pub(super) fn served(&self, pair: [&str; 2], held: &ModelMetrics) {
        // A client may name a model as the overflow series: that one is everybody's.
        if pair == [OVERFLOW; 2] || held.served.load(Ordering::Relaxed) {
            return;
        }
        let _one_at_a_time = self.moving.lock();
        let (unproven, now) = (self.unproven.find(pair), Instant::now());
        let moved = match unproven.clone() {
            Some(series) => self.served.adopt(pair, series, now),
            None => self.served.claim(pair, now).is_some(),
        };
        if moved {
            self.unproven.remove(pair);
            if let Some(series) = self.served.find(pair) {
                series.served.store(true, Ordering::Relaxed);
            }
        }
    }

    /// All pairs with their labels, ordered by them.
    fn all(&self) -> Vec<(Labels, Arc<ModelMetrics>)> {
        let _none_moves = self.moving.lock();
        let mut all = self.served.all();
        all.extend(self.unproven.all());
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn write(&self, page: &mut Page) -> fmt::Result {
        let all = self.all();
        let requests = all
            .iter()
            .map(|(l, m)| (l, m.requests.load(Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0);
        page.labelled(
            &catalogue::REQUESTS,
            requests.map(|(l, n)| (l.clone(), Value::Count(n))),
        )?;
        write_errors(page, &all)?;
        write_running(page, &all)?;
        let mut spread = |spec, of: fn(&ModelMetrics) -> &Histogram| {
            let seen = all.iter().map(|(l, m)| (l, of(m))).filter(|(_, h)| h.count() > 0);
            page.labelled(spec, seen.map(|(l, h)| (l.clone(), Value::Spread(h))))
        };
        spread(&catalogue::REQUEST_SECONDS, |m| &m.seconds)?;
        spread(&catalogue::REQUEST_BYTES, |m| &m.request_bytes)?;
        spread(&catalogue::RESPONSE_BYTES, |m| &m.response_bytes)?;
        spread(&catalogue::INPUT_TOKENS, |m| &m.input_tokens)?;
        spread(&catalogue::OUTPUT_TOKENS, |m| &m.output_tokens)?;
        spread(&catalogue::CACHED_TOKENS, |m| &m.cached_tokens)?;
        spread(&catalogue::SECONDS_PER_TOKEN, |m| &m.seconds_per_token)
    }
}

fn write_errors(page: &mut Page, all: &[(Labels, Arc<ModelMetrics>)]) -> fmt::Result {
    let series = all.iter().flat_map(|(labels, m)| {
        let [model, target] = labels.clone();
        let errors = m.errors.lock().clone();
        errors.into_iter().map(move |(code, n)| {
            let code = ("error_code", Arc::from(code));
            ([model.clone(), target.clone(), code], Value::Count(n))
        })
    });
    page.labelled(&catalogue::REQUEST_ERRORS, series)
}

/// The gauge knows the model only: pairs with one model and several targets add up.
fn write_running(page: &mut Page, all: &[(Labels, Arc<ModelMetrics>)]) -> fmt::Result {
    let mut running: BTreeMap<Arc<str>, i64> = BTreeMap::new();
    for ([(_, model), _], m) in all.iter().filter(|(_, m)| m.ran.load(Ordering::Relaxed)) {
        *running.entry(model.clone()).or_default() += m.running.load(Ordering::Relaxed);
    }
    let series = running
        .into_iter()
        .map(|(model, n)| ([("model_name", model)], Value::Level(n)));
    page.labelled(&catalogue::RUNNING, series)
}
