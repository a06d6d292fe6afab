//! Writes the metrics page as OpenMetrics text; `wire::prom_text` makes the older format of it. Called by the engine.

use std::fmt::Write;

use super::histogram::Histogram;
use super::lora_info::State;
use super::{FINISH_REASONS, Stats};

/// What every page of a simulator says.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Model name.
    pub model: String,
    /// Adapters in slots at most.
    pub max_loras: usize,
    /// Tokens per block, and blocks.
    pub cache: (usize, usize),
    /// The gauge of the cache has the name it had in v0.5.0.
    pub gpu_cache_name: bool,
}

/// The gauges at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Requests running.
    pub running: f64,
    /// Requests waiting.
    pub waiting: f64,
    /// Share of the cache in use, 0 to 1.
    pub cache_usage: f64,
}

/// Writes a page; `all_reasons`: finish reasons without a request are written too.
pub fn write(
    labels: &Labels,
    gauges: &Gauges,
    lora: &mut dyn Iterator<Item = &State>,
    stats: &Stats,
    all_reasons: bool,
) -> String {
    let mut page = Page {
        out: String::with_capacity(16 << 10),
        model: format!("model_name=\"{}\"", escaped(&labels.model)),
    };
    page.gauge(
        "num_requests_running",
        "Number of requests currently running on GPU.",
        gauges.running,
    );
    page.gauge(
        "num_requests_waiting",
        "Prometheus metric for the number of queued requests.",
        gauges.waiting,
    );
    let (name, help) = if labels.gpu_cache_name {
        (
            "gpu_cache_usage_perc",
            "Prometheus metric for the fraction of KV-cache blocks currently in use (from 0 to 1).",
        )
    } else {
        (
            "kv_cache_usage_perc",
            "Prometheus metric for the fraction of KV-cache blocks currently in use (from 0 to 1).",
        )
    };
    page.gauge(name, help, gauges.cache_usage);
    page.cache_config(labels.cache);
    page.lora(labels.max_loras, lora);
    page.histograms(stats);
    page.counters(stats, all_reasons);
    page.out.push_str("# EOF\n");
    page.out
}

struct Page {
    out: String,
    model: String,
}

impl Page {
    fn declare(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.declare(name, "gauge", help);
        let _ = writeln!(self.out, "vllm:{name}{{{}}} {value:?}", self.model);
    }

    fn cache_config(&mut self, (block_size, blocks): (usize, usize)) {
        self.declare(
            "cache_config_info",
            "gauge",
            "Information of the LLMEngine CacheConfig.",
        );
        let _ = writeln!(
            self.out,
            "vllm:cache_config_info{{block_size=\"{block_size}\",num_gpu_blocks=\"{blocks}\"}} 1"
        );
    }

    fn lora(&mut self, max: usize, states: &mut dyn Iterator<Item = &State>) {
        self.declare("lora_requests_info", "gauge", "Running stats on lora requests.");
        for state in states {
            let _ = writeln!(
                self.out,
                "vllm:lora_requests_info{{max_lora=\"{max}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"}} {:?}",
                escaped(&state.running),
                escaped(&state.waiting),
                state.time
            );
        }
    }

    fn histograms(&mut self, s: &Stats) {
        let rows = [
            (
                "time_to_first_token_seconds",
                "Histogram of time to first token in seconds.",
                &s.ttft,
            ),
            (
                "time_per_output_token_seconds",
                "Histogram of time per output token in seconds.",
                &s.inter_token,
            ),
            (
                "inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds.",
                &s.inter_token,
            ),
            (
                "request_time_per_output_token_seconds",
                "Histogram of time_per_output_token_seconds per request.",
                &s.request_tpot,
            ),
            (
                "e2e_request_latency_seconds",
                "Histogram of end to end request latency in seconds.",
                &s.e2e,
            ),
            (
                "request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request.",
                &s.queue,
            ),
            (
                "request_inference_time_seconds",
                "Histogram of time spent in RUNNING phase for request.",
                &s.inference,
            ),
            (
                "request_prefill_time_seconds",
                "Histogram of time spent in PREFILL phase for request.",
                &s.prefill,
            ),
            (
                "request_decode_time_seconds",
                "Histogram of time spent in DECODE phase for request.",
                &s.decode,
            ),
            (
                "request_prompt_tokens",
                "Number of prefill tokens processed.",
                &s.prompt_tokens,
            ),
            (
                "request_generation_tokens",
                "Number of generation tokens processed.",
                &s.generation_tokens,
            ),
            (
                "max_num_generation_tokens",
                "Histogram of maximum number of requested generation tokens.",
                &s.max_generation_tokens,
            ),
            (
                "request_params_max_tokens",
                "Histogram of the max_tokens request parameter.",
                &s.params_max_tokens,
            ),
        ];
        for (name, help, histogram) in rows {
            self.histogram(name, help, histogram);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        let count = h.count();
        if count == 0 {
            return;
        }
        self.declare(name, "histogram", help);
        let model = &self.model;
        for (bound, n) in h.cumulative() {
            let _ = writeln!(
                self.out,
                "vllm:{name}_bucket{{le=\"{bound:?}\",{model}}} {}",
                whole(n)
            );
        }
        let _ = writeln!(
            self.out,
            "vllm:{name}_bucket{{le=\"+Inf\",{model}}} {count}\nvllm:{name}_sum{{{model}}} {sum:?}\nvllm:{name}_count{{{model}}} {count}",
            sum = h.sum(),
            count = whole(count),
        );
    }

    fn counters(&mut self, s: &Stats, all_reasons: bool) {
        let cache = s.cache;
        let rows = [
            (
                "prompt_tokens",
                "Total number of prompt tokens processed.",
                s.prompt_total,
            ),
            (
                "generation_tokens",
                "Total number of generated tokens.",
                s.generation_total,
            ),
            (
                "prefix_cache_queries",
                "Prefix cache queries, in terms of number of queried tokens.",
                cache.map(|c| c.0),
            ),
            (
                "prefix_cache_hits",
                "Prefix cache hits, in terms of number of cached tokens.",
                cache.map(|c| c.1),
            ),
            (
                "num_preemptions",
                "Cumulative number of preemption from the engine.",
                Some(s.preemptions).filter(|n| *n > 0),
            ),
        ];
        for (name, help, value) in rows {
            if let Some(value) = value {
                self.declare(name, "counter", help);
                let _ = writeln!(self.out, "vllm:{name}_total{{{}}} {}", self.model, whole(value));
            }
        }
        let counted = |reason: &str| s.success.get(reason).copied();
        let reasons = FINISH_REASONS.iter().filter_map(|r| {
            let n = counted(r).or(all_reasons.then_some(0))?;
            Some((*r, n))
        });
        let mut declared = false;
        for (reason, n) in reasons {
            if !declared {
                self.declare(
                    "request_success",
                    "counter",
                    "Count of successfully processed requests.",
                );
                declared = true;
            }
            let _ = writeln!(
                self.out,
                "vllm:request_success_total{{finish_reason=\"{reason}\",{}}} {}",
                self.model,
                whole(n)
            );
        }
    }
}

/// A count, from a million on as a number with a point, which the older format turns into an exponent as Go does.
fn whole(n: u64) -> String {
    if n < 1_000_000 {
        n.to_string()
    } else {
        format!("{:?}", n as f64)
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::prom_text::Format;

    fn labels() -> Labels {
        Labels {
            model: "m".to_owned(),
            max_loras: 1,
            cache: (8, 16),
            gpu_cache_name: false,
        }
    }

    fn page(stats: &Stats) -> String {
        let open = write(
            &labels(),
            &Gauges::default(),
            &mut std::iter::empty(),
            stats,
            false,
        );
        Format::Prometheus.render(open)
    }

    #[test]
    fn an_unused_server_has_gauges_only() {
        let page = page(&Stats::new(1024));
        let samples: Vec<&str> = page.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "vllm:num_requests_running{model_name=\"m\"} 0",
                "vllm:num_requests_waiting{model_name=\"m\"} 0",
                "vllm:kv_cache_usage_perc{model_name=\"m\"} 0",
                "vllm:cache_config_info{block_size=\"8\",num_gpu_blocks=\"16\"} 1",
            ]
        );
        for line in [
            "# HELP vllm:num_requests_running Number of requests currently running on GPU.\n",
            "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig.\n",
        ] {
            assert!(page.contains(line), "{line}");
        }
    }

    #[test]
    fn numbers_look_as_go_prints_them() {
        let mut stats = Stats::new(2000);
        stats.prompt_total = Some(1_000_000);
        stats.generation_total = Some(999_999);
        stats.prompt_tokens.observe(1.0);
        let page = page(&stats);
        for line in [
            "vllm:prompt_tokens_total{model_name=\"m\"} 1e+06",
            "vllm:generation_tokens_total{model_name=\"m\"} 999999",
            "vllm:request_prompt_tokens_bucket{le=\"1\",model_name=\"m\"} 1",
            "vllm:request_prompt_tokens_bucket{le=\"1000\",model_name=\"m\"} 1",
            "vllm:request_prompt_tokens_bucket{le=\"+Inf\",model_name=\"m\"} 1",
            "vllm:request_prompt_tokens_sum{model_name=\"m\"} 1",
            "# HELP vllm:prompt_tokens_total Total number of prompt tokens processed.",
            "# HELP vllm:generation_tokens_total Total number of generated tokens.",
            "# TYPE vllm:prompt_tokens_total counter",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }
}
