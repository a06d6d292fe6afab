//! Metrics that are made up (simulator.md §10.3): what `--fake-metrics` says is on the page instead of what happens.
//! Read by `app::sim`, shown by the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::generator::Generator;
use super::histogram::Histogram;
use super::lora_info::State;
use super::page::Gauges;
use super::{FINISH_REASONS, LATENCY, Stats, TPOT, TTFT};

/// Made-up metrics, checked.
#[derive(Clone, Debug)]
pub struct Fake {
    /// Running, waiting, share of the cache.
    gauges: [Gauge; 3],
    /// Series of `lora_requests_info`.
    pub loras: Vec<State>,
    /// Counters and histograms.
    pub stats: Stats,
    /// Finish reasons without a request are shown too.
    pub all_reasons: bool,
}

/// A value over time, and when that began.
#[derive(Clone, Copy, Debug)]
struct Gauge {
    value: Generator,
    begun: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Given {
    running_requests: Option<Value>,
    waiting_requests: Option<Value>,
    kv_cache_usage: Option<Value>,
    loras: Vec<Value>,
    ttft_buckets_values: Option<Vec<i64>>,
    tpot_buckets_values: Option<Vec<i64>>,
    request_tpot_buckets_values: Option<Vec<i64>>,
    e2erl_buckets_values: Option<Vec<i64>>,
    queue_time_buckets_values: Option<Vec<i64>>,
    inf_time_buckets_values: Option<Vec<i64>>,
    prefill_time_buckets_values: Option<Vec<i64>>,
    decode_time_buckets_values: Option<Vec<i64>>,
    request_prompt_tokens: Option<Vec<i64>>,
    request_generation_tokens: Option<Vec<i64>>,
    request_max_generation_tokens: Option<Vec<i64>>,
    request_params_max_tokens: Option<Vec<i64>>,
    request_success_total: Option<BTreeMap<String, i64>>,
    #[serde(alias = "totalprompttokens")]
    total_prompt_tokens: Option<i64>,
    #[serde(alias = "totalgenerationtokens")]
    total_generation_tokens: Option<i64>,
    prefix_cache_hits: Option<i64>,
    prefix_cache_queries: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lora {
    #[serde(default)]
    running: String,
    #[serde(default)]
    waiting: String,
    timestamp: f64,
}

impl Fake {
    /// Reads the JSON of `--fake-metrics`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(json: &str, max_model_len: usize) -> Result<Self, Vec<String>> {
        // By way of an object: a list would be taken for the fields in their order.
        let given: Given = serde_json::from_str::<serde_json::Map<String, Value>>(json)
            .and_then(|map| serde_json::from_value(Value::Object(map)))
            .map_err(|e| vec![format!("fake-metrics must be a JSON object of known keys: {e}")])?;
        let mut errors = Vec::new();
        let fake = Reader { errors: &mut errors }.fake(&given, max_model_len);
        if errors.is_empty() { Ok(fake) } else { Err(errors) }
    }

    /// The gauges `elapsed` after the start.
    pub fn gauges(&self, elapsed: Duration) -> Gauges {
        let [running, waiting, usage] = self.gauges.map(|g| g.value.at(elapsed.saturating_sub(g.begun)));
        Gauges {
            running: running.trunc(),
            waiting: waiting.trunc(),
            cache_usage: usage,
        }
    }

    /// These metrics instead of `old` ones, `elapsed` after the start: functions that are new begin now.
    #[must_use]
    pub fn after(mut self, old: &Fake, elapsed: Duration) -> Fake {
        for (new, old) in self.gauges.iter_mut().zip(&old.gauges) {
            new.begun = if new.value == old.value {
                old.begun
            } else {
                elapsed
            };
        }
        self
    }
}

struct Reader<'a> {
    errors: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn check(&mut self, ok: bool, text: impl Into<String>) {
        if !ok {
            self.errors.push(text.into());
        }
    }

    fn fake(&mut self, given: &Given, max_model_len: usize) -> Fake {
        let running = self.generator(&given.running_requests);
        let waiting = self.generator(&given.waiting_requests);
        let usage = self.generator(&given.kv_cache_usage);
        self.check(
            running.least() >= 0.0 && waiting.least() >= 0.0,
            "fake metrics request counters cannot be negative",
        );
        self.check(
            usage.least() >= 0.0 && usage.most() <= 1.0,
            "fake metrics KV cache usage must be between 0 and 1",
        );
        let mut stats = Stats::new(max_model_len);
        self.times(&mut stats, given);
        self.tokens(&mut stats, given);
        self.success(&mut stats, given);
        self.prefix_cache(&mut stats, given);
        let begun = Duration::ZERO;
        Fake {
            gauges: [running, waiting, usage].map(|value| Gauge { value, begun }),
            loras: given.loras.iter().filter_map(|l| self.lora(l)).collect(),
            stats,
            all_reasons: given.request_success_total.is_some(),
        }
    }

    fn times(&mut self, stats: &mut Stats, given: &Given) {
        for (values, words, bounds, histogram) in [
            (
                &given.ttft_buckets_values,
                "time-to-first-token",
                &TTFT[..],
                &mut stats.ttft,
            ),
            (
                &given.tpot_buckets_values,
                "time-per-output-token",
                &TPOT[..],
                &mut stats.inter_token,
            ),
        ] {
            let Some(values) = values else { continue };
            self.check(
                values.iter().all(|n| *n >= 0),
                format!("{words} fake metrics should contain only non-negative values"),
            );
            self.check(
                values.len() <= bounds.len() + 1,
                format!("fake {words} array is too long"),
            );
            fill(histogram, values);
        }
        for (values, key, bounds, histogram) in [
            (
                &given.request_tpot_buckets_values,
                "request-tpot-buckets-values",
                &TPOT[..],
                &mut stats.request_tpot,
            ),
            (
                &given.e2erl_buckets_values,
                "e2erl-buckets-values",
                &LATENCY[..],
                &mut stats.e2e,
            ),
            (
                &given.queue_time_buckets_values,
                "queue-time-buckets-values",
                &LATENCY[..],
                &mut stats.queue,
            ),
            (
                &given.inf_time_buckets_values,
                "inf-time-buckets-values",
                &LATENCY[..],
                &mut stats.inference,
            ),
            (
                &given.prefill_time_buckets_values,
                "prefill-time-buckets-values",
                &LATENCY[..],
                &mut stats.prefill,
            ),
            (
                &given.decode_time_buckets_values,
                "decode-time-buckets-values",
                &LATENCY[..],
                &mut stats.decode,
            ),
        ] {
            self.list(values.as_deref(), key, bounds.len());
            fill(histogram, values.as_deref().unwrap_or_default());
        }
    }

    fn tokens(&mut self, stats: &mut Stats, given: &Given) {
        for (values, key, histogram) in [
            (
                &given.request_prompt_tokens,
                "request-prompt-tokens",
                &mut stats.prompt_tokens,
            ),
            (
                &given.request_generation_tokens,
                "request-generation-tokens",
                &mut stats.generation_tokens,
            ),
            (
                &given.request_max_generation_tokens,
                "request-max-generation-tokens",
                &mut stats.max_generation_tokens,
            ),
            (
                &given.request_params_max_tokens,
                "request-params-max-tokens",
                &mut stats.params_max_tokens,
            ),
        ] {
            self.list(values.as_deref(), key, histogram.bounds().len());
            fill(histogram, values.as_deref().unwrap_or_default());
        }
        for (total, values, key, histogram, out) in [
            (
                given.total_prompt_tokens,
                &given.request_prompt_tokens,
                "total-prompt-tokens",
                &stats.prompt_tokens,
                &mut stats.prompt_total,
            ),
            (
                given.total_generation_tokens,
                &given.request_generation_tokens,
                "total-generation-tokens",
                &stats.generation_tokens,
                &mut stats.generation_total,
            ),
        ] {
            self.check(
                total.is_none_or(|n| n >= 0),
                format!("fake metrics {key} cannot be negative"),
            );
            let estimate = values.as_ref().map(|v| estimated(histogram.bounds(), v));
            *out = total.map(i64::unsigned_abs).or(estimate);
        }
    }

    fn success(&mut self, stats: &mut Stats, given: &Given) {
        for (reason, n) in given.request_success_total.iter().flatten() {
            self.check(
                *n >= 0,
                format!("fake metrics request-success-total.{reason} cannot be negative, got {n}"),
            );
            match FINISH_REASONS.iter().find(|r| *r == reason) {
                Some(known) => {
                    stats.success.insert(known, n.unsigned_abs());
                }
                None => self.check(
                    false,
                    format!(
                        "invalid finish reason in request-success-total: {reason} (valid reasons: [{}])",
                        FINISH_REASONS.join(" ")
                    ),
                ),
            }
        }
    }

    fn prefix_cache(&mut self, stats: &mut Stats, given: &Given) {
        match (given.prefix_cache_queries, given.prefix_cache_hits) {
            (None, None) => {}
            (Some(queries), Some(hits)) if 0 <= hits && hits <= queries => {
                stats.cache = Some((queries.unsigned_abs(), hits.unsigned_abs()));
            }
            _ => self.check(
                false,
                "fake metrics prefix-cache-hits and prefix-cache-queries must be given together, hits at most queries",
            ),
        }
    }

    fn list(&mut self, values: Option<&[i64]>, key: &str, bounds: usize) {
        let values = values.unwrap_or_default();
        self.check(
            values.iter().all(|n| *n >= 0),
            format!("fake metrics {key} cannot contain negative values"),
        );
        self.check(
            values.len() <= bounds + 1,
            format!(
                "fake metrics {key} has {} values for {} buckets",
                values.len(),
                bounds + 1
            ),
        );
    }

    /// An object, or its JSON in a string as YAML has it.
    fn lora(&mut self, value: &Value) -> Option<State> {
        let parsed = match value {
            Value::String(text) => serde_json::from_str::<Lora>(text),
            other => serde_json::from_value::<Lora>(other.clone()),
        };
        match parsed {
            Ok(lora) => Some(State {
                running: lora.running,
                waiting: lora.waiting,
                time: lora.timestamp,
            }),
            Err(e) => {
                self.check(
                    false,
                    format!("fake metrics loras must be objects {{running, waiting, timestamp}}: {e}"),
                );
                None
            }
        }
    }

    fn generator(&mut self, value: &Option<Value>) -> Generator {
        let read = match value {
            None => Ok(Generator::Fixed(0.0)),
            Some(Value::Number(n)) => Ok(Generator::Fixed(n.as_f64().unwrap_or(0.0))),
            Some(Value::String(text)) => Generator::parse(text),
            Some(other) => Err(format!(
                "fake metrics value {other} is neither a number nor a function"
            )),
        };
        read.unwrap_or_else(|e| {
            self.errors.push(e);
            Generator::Fixed(0.0)
        })
    }
}

fn fill(histogram: &mut Histogram, values: &[i64]) {
    for (at, n) in values.iter().enumerate() {
        histogram.observe_at(at, u64::try_from(*n).unwrap_or(0));
    }
}

/// Tokens in a histogram's observations, each taken for the middle of its bucket; the last bucket reaches to twice
/// its lower bound.
fn estimated(bounds: &[f64], values: &[i64]) -> u64 {
    let edge = |at: usize| {
        let last = bounds.last().copied().unwrap_or(0.0);
        bounds.get(at).copied().unwrap_or(2.0 * last)
    };
    let bucket = |(at, n): (usize, &i64)| {
        let lower = at.checked_sub(1).map_or(0.0, edge);
        ((lower + edge(at)) / 2.0 * *n as f64) as u64
    };
    values.iter().enumerate().map(bucket).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Fake, Vec<String>> {
        Fake::read(json, 1024)
    }

    #[test]
    fn totals_are_estimated_from_the_middles_of_buckets() {
        let rows: [(&[f64], &[i64], u64); 7] = [
            (&[1.0, 2.0, 5.0], &[10, 20, 30], 140),
            (&[10.0], &[1], 5),
            (&[10.0, 20.0], &[2, 3], 55),
            (&[10.0, 20.0, 50.0], &[1, 1, 1, 1], 130),
            (&[1.0, 10.0, 100.0], &[0, 5, 0, 2], 327),
            (&[1.0], &[1], 0),
            (&[10.0, 100.0, 1000.0], &[0, 0, 0, 4], 6000),
        ];
        for (bounds, values, expected) in rows {
            assert_eq!(estimated(bounds, values), expected, "{bounds:?} {values:?}");
        }
    }

    #[test]
    fn counts_stand_for_observations_at_the_bounds() {
        let json = r#"{"running-requests":10,"waiting-requests":30,"kv-cache-usage":0.4,
            "request-success-total":{"stop":20},"request-prompt-tokens":[10,20,30],
            "request-generation-tokens":[10,20,30],"ttft-buckets-values":[1,2,3],"tpot-buckets-values":[0,0,1,2,3],
            "loras":[{"running":"a","waiting":"b","timestamp":1257894567},"{\"running\":\"c\",\"waiting\":\"\",\"timestamp\":2}"]}"#;
        let fake = read(json).unwrap();
        let gauges = fake.gauges(Duration::ZERO);
        assert_eq!(
            (gauges.running, gauges.waiting, gauges.cache_usage),
            (10.0, 30.0, 0.4)
        );
        let ttft = &fake.stats.ttft;
        assert_eq!(
            [ttft.up_to(0.001), ttft.up_to(0.005), ttft.up_to(0.01)],
            [1, 3, 6]
        );
        let tpot = &fake.stats.inter_token;
        assert_eq!([tpot.up_to(0.05), tpot.up_to(0.075), tpot.up_to(0.1)], [1, 3, 6]);
        assert_eq!(fake.stats.prompt_tokens.up_to(5.0), 60);
        assert_eq!(
            (fake.stats.prompt_total, fake.stats.generation_total),
            (Some(140), Some(140))
        );
        assert_eq!(fake.stats.success[&"stop"], 20);
        assert!(fake.all_reasons);
        assert_eq!(
            (fake.loras[0].time, fake.loras[1].running.as_str()),
            (1_257_894_567.0, "c")
        );
    }

    #[test]
    fn explicit_totals_win_and_the_overflow_bucket_is_the_last() {
        let json = r#"{"total-prompt-tokens":12345,"totalgenerationtokens":67890,"request-prompt-tokens":[1],
            "ttft-buckets-values":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]}"#;
        let fake = read(json).unwrap();
        assert_eq!(
            (fake.stats.prompt_total, fake.stats.generation_total),
            (Some(12_345), Some(67_890))
        );
        assert!(fake.stats.ttft.cumulative().all(|(_, n)| n == 0));
        assert_eq!(fake.stats.ttft.count(), 1);
        for key in ["e2erl", "queue-time", "inf-time", "prefill-time", "decode-time"] {
            let fake = read(&format!("{{\"{key}-buckets-values\":[0,1,2]}}")).unwrap();
            let s = &fake.stats;
            let all = [&s.e2e, &s.queue, &s.inference, &s.prefill, &s.decode];
            let filled = all.iter().find(|h| h.count() > 0).unwrap();
            let first: Vec<u64> = filled.cumulative().map(|(_, n)| n).take(4).collect();
            assert_eq!(first, [0, 1, 3, 3], "{key}");
        }
    }

    #[test]
    fn functions_that_stay_go_on_and_new_ones_begin() {
        let [old, new] = ["ramp:0:8:4s", "ramp:8:0:4s"].map(|waiting| {
            let json = format!(r#"{{"running-requests":"ramp:0:8:4s","waiting-requests":"{waiting}"}}"#);
            read(&json).unwrap()
        });
        let at = Duration::from_secs;
        let now = new.after(&old, at(2));
        let values = |fake: &Fake, t| (fake.gauges(at(t)).running, fake.gauges(at(t)).waiting);
        assert_eq!([values(&now, 2), values(&now, 3)], [(4.0, 8.0), (6.0, 6.0)]);
        let later = now.clone().after(&now, at(3));
        assert_eq!(values(&later, 4), (8.0, 4.0));
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            ("[]", "must be a JSON object"),
            ("1", "must be a JSON object"),
            (r#"{"runing-requests":1}"#, "unknown field `runing-requests`"),
            (
                r#"{"running-requests":-1}"#,
                "fake metrics request counters cannot be negative",
            ),
            (
                r#"{"waiting-requests":"ramp:-1:3:1s"}"#,
                "fake metrics request counters cannot be negative",
            ),
            (
                r#"{"kv-cache-usage":1.5}"#,
                "fake metrics KV cache usage must be between 0 and 1",
            ),
            (
                r#"{"running-requests":"ramp:1:2"}"#,
                "need func:start:end:period in fake metric generation function",
            ),
            (
                r#"{"running-requests":"jump:1:2:1s"}"#,
                "unknown format in fake metric generation function",
            ),
            (
                r#"{"running-requests":"ramp:1:2:0s"}"#,
                "the period must be a positive duration",
            ),
            (
                r#"{"ttft-buckets-values":[-1]}"#,
                "time-to-first-token fake metrics should contain only non-negative values",
            ),
            (
                r#"{"tpot-buckets-values":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}"#,
                "fake time-per-output-token array is too long",
            ),
            (
                r#"{"request-prompt-tokens":[-1]}"#,
                "fake metrics request-prompt-tokens cannot contain negative values",
            ),
            (
                r#"{"request-success-total":{"stop":-2}}"#,
                "fake metrics request-success-total.stop cannot be negative, got -2",
            ),
            (
                r#"{"request-success-total":{"done":2}}"#,
                "invalid finish reason in request-success-total: done (valid reasons: [stop length",
            ),
            (r#"{"prefix-cache-hits":2}"#, "must be given together"),
            (
                r#"{"loras":[{"running":"a"}]}"#,
                "fake metrics loras must be objects",
            ),
        ];
        for (json, text) in rows {
            let errors = read(json).map(|_| ()).unwrap_err();
            assert!(errors.join("\n").contains(text), "{json}: {errors:?}");
        }
    }
}
