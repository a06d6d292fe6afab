//! vLLM's metrics, by vLLM's names (simulator.md §10). The engine counts into a [`Stats`] it owns, under its own
//! lock, so that a page is exact at one moment; [`page`] writes it, and [`fake`] makes one up.

pub mod fake;
mod generator;
pub mod histogram;
pub mod lora_info;
pub mod page;

use std::collections::BTreeMap;

use histogram::Histogram;

/// Bounds of times to first token, seconds.
pub const TTFT: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// Bounds of times between tokens, seconds.
pub const TPOT: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Bounds of times of whole requests, seconds.
pub const LATENCY: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

/// Why requests can end.
pub const FINISH_REASONS: [&str; 5] = ["stop", "length", "tool_calls", "remote_decode", "cache_threshold"];

/// Bounds 1, 2, 5, 10, … up to the context length.
pub fn bounds_125(max: usize) -> Vec<f64> {
    let steps = (0..).flat_map(|e| [1usize, 2, 5].map(|m| m.saturating_mul(10usize.saturating_pow(e))));
    steps
        .take_while(|b| *b <= max && *b < usize::MAX)
        .map(|b| b as f64)
        .collect()
}

/// Everything counted.
#[derive(Clone, Debug)]
pub struct Stats {
    /// From arrival (or, as the reference had it, as sampled) to the first token.
    pub ttft: Histogram,
    /// Between two tokens.
    pub inter_token: Histogram,
    /// Mean time per token of a request, its first one left out.
    pub request_tpot: Histogram,
    /// From arrival to the end.
    pub e2e: Histogram,
    /// In the queue, where a request was queued.
    pub queue: Histogram,
    /// From start to end.
    pub inference: Histogram,
    /// From start to the first token.
    pub prefill: Histogram,
    /// From the first token to the last.
    pub decode: Histogram,
    /// Prompt tokens of a request.
    pub prompt_tokens: Histogram,
    /// Its generated tokens.
    pub generation_tokens: Histogram,
    /// The most of one of its choices.
    pub max_generation_tokens: Histogram,
    /// `max_tokens`, where given.
    pub params_max_tokens: Histogram,
    /// Prompt tokens, all in all.
    pub prompt_total: Option<u64>,
    /// Generated tokens.
    pub generation_total: Option<u64>,
    /// Requests by finish reason.
    pub success: BTreeMap<&'static str, u64>,
    /// Prompt tokens looked up in the cache, and found there.
    pub cache: Option<(u64, u64)>,
    /// Requests whose blocks were taken away.
    pub preemptions: u64,
}

/// How a request went, times in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Finish reason.
    pub finish_reason: &'static str,
    /// Prompt tokens.
    pub prompt: usize,
    /// Generated tokens.
    pub generated: usize,
    /// `max_tokens`, where given.
    pub max_tokens: Option<usize>,
    /// Time in the queue, where it was queued.
    pub queued: Option<f64>,
    /// From start to the first token.
    pub prefill: f64,
    /// From the first token to the last.
    pub decode: f64,
    /// From arrival to the last token.
    pub total: f64,
}

impl Stats {
    /// Nothing has been counted; no series but those of gauges.
    pub fn new(max_model_len: usize) -> Self {
        let tokens = || Histogram::new(bounds_125(max_model_len));
        let latency = || Histogram::new(LATENCY);
        Stats {
            ttft: Histogram::new(TTFT),
            inter_token: Histogram::new(TPOT),
            request_tpot: Histogram::new(TPOT),
            e2e: latency(),
            queue: latency(),
            inference: latency(),
            prefill: latency(),
            decode: latency(),
            prompt_tokens: tokens(),
            generation_tokens: tokens(),
            max_generation_tokens: tokens(),
            params_max_tokens: tokens(),
            prompt_total: None,
            generation_total: None,
            success: BTreeMap::new(),
            cache: None,
            preemptions: 0,
        }
    }

    /// Counts a request that has succeeded; its times to tokens are counted as they come.
    pub fn succeeded(&mut self, o: &Outcome) {
        if o.generated > 1 {
            self.request_tpot.observe(o.decode / (o.generated - 1) as f64);
        }
        self.e2e.observe(o.total);
        if let Some(queued) = o.queued {
            self.queue.observe(queued);
        }
        self.inference.observe(o.prefill + o.decode);
        self.prefill.observe(o.prefill);
        self.decode.observe(o.decode);
        self.prompt_tokens.observe(o.prompt as f64);
        self.generation_tokens.observe(o.generated as f64);
        self.max_generation_tokens.observe(o.generated as f64);
        if let Some(max) = o.max_tokens {
            self.params_max_tokens.observe(max as f64);
        }
        *self.prompt_total.get_or_insert(0) += o.prompt as u64;
        *self.generation_total.get_or_insert(0) += o.generated as u64;
        *self.success.entry(o.finish_reason).or_insert(0) += 1;
    }

    /// Counts a look into the cache.
    pub fn looked_up(&mut self, tokens: usize, found: usize) {
        let (queries, hits) = self.cache.get_or_insert((0, 0));
        *queries += tokens as u64;
        *hits += found as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_bounds_end_at_the_context_length() {
        let rows = [
            (0, 0.0),
            (1, 1.0),
            (5, 5.0),
            (10, 10.0),
            (99, 50.0),
            (100, 100.0),
            (999, 500.0),
            (1024, 1000.0),
            (4096, 2000.0),
            (32_768, 20_000.0),
        ];
        for (max, last) in rows {
            assert_eq!(bounds_125(max).last().copied().unwrap_or(0.0), last, "{max}");
        }
        assert_eq!(bounds_125(5), [1.0, 2.0, 5.0]);
        assert!(bounds_125(usize::MAX).len() < 70);
    }
}
