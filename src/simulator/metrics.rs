//! vLLM's metrics, by vLLM's names (simulator.md §10). Gauges are read from the engine when the page is, so that
//! they are exact; counters and histograms are recorded when a request succeeds.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::engine::Engine;
use super::kv_cache::KvCache;

const TTFT: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const TPOT: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const LATENCY: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    finish_reason: String,
    model_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cache {
    block_size: String,
    num_gpu_blocks: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lora {
    max_lora: String,
    running_lora_adapters: String,
    waiting_lora_adapters: String,
}

type Gauges<L> = Family<L, Gauge<f64, AtomicU64>>;
type Histograms = Family<Model, Histogram, fn() -> Histogram>;
type Tokens = Family<Model, Histogram, PowersOf125>;

/// Makes histograms with bounds 1, 2, 5, 10, … up to the context length.
#[derive(Clone)]
struct PowersOf125(usize);

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for PowersOf125 {
    fn new_metric(&self) -> Histogram {
        Histogram::new(bounds_125(self.0))
    }
}

fn bounds_125(max: usize) -> Vec<f64> {
    let steps = (0..).flat_map(|e| [1usize, 2, 5].map(|m| m.saturating_mul(10usize.saturating_pow(e))));
    steps.take_while(|b| *b <= max).map(|b| b as f64).collect()
}

/// How a request went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Finish reason.
    pub finish_reason: &'static str,
    /// Prompt tokens.
    pub prompt: usize,
    /// Of them, found in the cache; `None` without a cache.
    pub cached: Option<usize>,
    /// Generated tokens.
    pub generated: usize,
    /// `max_tokens`, where given.
    pub max_tokens: Option<usize>,
    /// Time in the queue, where it was queued.
    pub queued: Option<Duration>,
    /// From the slot to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// From arrival to the last token.
    pub total: Duration,
}

/// All metrics of one simulator.
pub struct Metrics {
    registry: Registry,
    model: Model,
    running: Gauges<Model>,
    waiting: Gauges<Model>,
    kv_usage: Gauges<Model>,
    lora: Gauges<Lora>,
    max_loras: usize,
    ttft: Histograms,
    tpot: Histograms,
    itl: Histograms,
    e2e: Histograms,
    queue: Histograms,
    inference: Histograms,
    prefill: Histograms,
    decode: Histograms,
    prompt_tokens: Tokens,
    generation_tokens: Tokens,
    max_generation_tokens: Tokens,
    max_tokens: Tokens,
    prompt_total: Family<Model, Counter>,
    generation_total: Family<Model, Counter>,
    success: Family<Finished, Counter>,
    cache_queries: Family<Model, Counter>,
    cache_hits: Family<Model, Counter>,
}

fn histograms(bounds: fn() -> Histogram) -> Histograms {
    Family::new_with_constructor(bounds)
}

impl Metrics {
    /// Metrics labelled with `model`.
    pub fn new(model: &str, max_model_len: usize, max_loras: usize, cache: Option<&KvCache>) -> Self {
        let tokens = || Tokens::new_with_constructor(PowersOf125(max_model_len));
        let latency = || histograms(|| Histogram::new(LATENCY));
        let mut m = Metrics {
            registry: Registry::default(),
            model: Model {
                model_name: model.to_owned(),
            },
            running: Gauges::default(),
            waiting: Gauges::default(),
            kv_usage: Gauges::default(),
            lora: Gauges::default(),
            max_loras,
            ttft: histograms(|| Histogram::new(TTFT)),
            tpot: histograms(|| Histogram::new(TPOT)),
            itl: histograms(|| Histogram::new(TPOT)),
            e2e: latency(),
            queue: latency(),
            inference: latency(),
            prefill: latency(),
            decode: latency(),
            prompt_tokens: tokens(),
            generation_tokens: tokens(),
            max_generation_tokens: tokens(),
            max_tokens: tokens(),
            prompt_total: Family::default(),
            generation_total: Family::default(),
            success: Family::default(),
            cache_queries: Family::default(),
            cache_hits: Family::default(),
        };
        m.register();
        if let Some(cache) = cache {
            let config = cache.config();
            let info: Gauges<Cache> = Family::default();
            m.registry.register(
                "vllm:cache_config_info",
                "Information of the LLMEngine CacheConfig",
                info.clone(),
            );
            let labels = Cache {
                block_size: config.block_size.to_string(),
                num_gpu_blocks: config.blocks.to_string(),
            };
            info.get_or_create(&labels).set(1.0);
        }
        m
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "vllm:num_requests_running",
            "Number of requests currently running on GPU",
            self.running.clone(),
        );
        r.register(
            "vllm:num_requests_waiting",
            "Prometheus metric for the number of queued requests",
            self.waiting.clone(),
        );
        r.register(
            "vllm:kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage",
            self.kv_usage.clone(),
        );
        r.register(
            "vllm:lora_requests_info",
            "Running stats on lora requests",
            self.lora.clone(),
        );
        for (name, help, family) in [
            (
                "time_to_first_token_seconds",
                "Histogram of time to first token in seconds",
                &self.ttft,
            ),
            (
                "time_per_output_token_seconds",
                "Histogram of time per output token in seconds",
                &self.tpot,
            ),
            (
                "inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds",
                &self.itl,
            ),
            (
                "e2e_request_latency_seconds",
                "Histogram of end to end request latency in seconds",
                &self.e2e,
            ),
            (
                "request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request",
                &self.queue,
            ),
            (
                "request_inference_time_seconds",
                "Histogram of time spent in RUNNING phase for request",
                &self.inference,
            ),
            (
                "request_prefill_time_seconds",
                "Histogram of time spent in PREFILL phase for request",
                &self.prefill,
            ),
            (
                "request_decode_time_seconds",
                "Histogram of time spent in DECODE phase for request",
                &self.decode,
            ),
        ] {
            r.register(format!("vllm:{name}"), help, family.clone());
        }
        for (name, help, family) in [
            (
                "request_prompt_tokens",
                "Number of prefill tokens processed",
                &self.prompt_tokens,
            ),
            (
                "request_generation_tokens",
                "Number of generation tokens processed",
                &self.generation_tokens,
            ),
            (
                "max_num_generation_tokens",
                "Maximum number of requested generation tokens",
                &self.max_generation_tokens,
            ),
            (
                "request_params_max_tokens",
                "Histogram of the max_tokens request parameter",
                &self.max_tokens,
            ),
        ] {
            r.register(format!("vllm:{name}"), help, family.clone());
        }
        for (name, help, family) in [
            (
                "prompt_tokens",
                "Number of prefill tokens processed",
                &self.prompt_total,
            ),
            (
                "generation_tokens",
                "Number of generation tokens processed",
                &self.generation_total,
            ),
            (
                "prefix_cache_queries",
                "Prefix cache queries, in terms of number of queried tokens",
                &self.cache_queries,
            ),
            (
                "prefix_cache_hits",
                "Prefix cache hits, in terms of number of cached tokens",
                &self.cache_hits,
            ),
        ] {
            r.register(format!("vllm:{name}"), help, family.clone());
        }
        r.register(
            "vllm:request_success",
            "Count of successfully processed requests",
            self.success.clone(),
        );
    }

    /// A request has succeeded.
    pub fn succeeded(&self, o: &Outcome) {
        let seconds =
            |family: &Histograms, d: Duration| family.get_or_create(&self.model).observe(d.as_secs_f64());
        let count = |family: &Tokens, n: usize| family.get_or_create(&self.model).observe(n as f64);
        seconds(&self.ttft, o.prefill);
        if o.generated > 1 {
            let per_token = o.decode / u32::try_from(o.generated - 1).unwrap_or(u32::MAX);
            seconds(&self.tpot, per_token);
            for _ in 1..o.generated {
                seconds(&self.itl, per_token);
            }
        }
        seconds(&self.e2e, o.total);
        if let Some(queued) = o.queued {
            seconds(&self.queue, queued);
        }
        seconds(&self.inference, o.prefill + o.decode);
        seconds(&self.prefill, o.prefill);
        seconds(&self.decode, o.decode);
        count(&self.prompt_tokens, o.prompt);
        count(&self.generation_tokens, o.generated);
        count(&self.max_generation_tokens, o.generated);
        if let Some(max) = o.max_tokens {
            count(&self.max_tokens, max);
        }
        self.prompt_total
            .get_or_create(&self.model)
            .inc_by(o.prompt as u64);
        self.generation_total
            .get_or_create(&self.model)
            .inc_by(o.generated as u64);
        let model_name = self.model.model_name.clone();
        self.success
            .get_or_create(&Finished {
                finish_reason: o.finish_reason.to_owned(),
                model_name,
            })
            .inc();
        if let Some(cached) = o.cached {
            self.cache_queries
                .get_or_create(&self.model)
                .inc_by(o.prompt as u64);
            self.cache_hits.get_or_create(&self.model).inc_by(cached as u64);
        }
    }

    /// The page, in OpenMetrics text.
    pub fn encode(&self, engine: &Engine, cache: Option<&KvCache>) -> String {
        let counts = engine.counts();
        self.running.get_or_create(&self.model).set(counts.running as f64);
        self.waiting.get_or_create(&self.model).set(counts.waiting as f64);
        self.kv_usage
            .get_or_create(&self.model)
            .set(cache.map_or(0.0, KvCache::usage));
        // One series: the state now. The reference keeps every combination it has ever had.
        self.lora.clear();
        let lora = Lora {
            max_lora: self.max_loras.to_string(),
            running_lora_adapters: counts.running_adapters.join(","),
            waiting_lora_adapters: counts.waiting_adapters.join(","),
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.lora.get_or_create(&lora).set(now.as_secs_f64());
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_bounds_end_at_the_context_length() {
        assert_eq!(bounds_125(0), Vec::<f64>::new());
        assert_eq!(bounds_125(5), [1.0, 2.0, 5.0]);
        assert_eq!(bounds_125(100).last(), Some(&100.0));
        assert_eq!(bounds_125(32_768).last(), Some(&20_000.0));
    }
}
