//! What `inference-sim` is told about latencies, slots, cache, events, failures and made-up metrics. Called by
//! `settings`.

use std::sync::Arc;
use std::time::Duration;

use super::live::Source;
use super::settings::duration;
use crate::base::flags::Parsed;
use crate::simulator::engine;
use crate::simulator::failure::{Failures, Kind};
use crate::simulator::kv_cache::hash::Algorithm;
use crate::simulator::kv_events::Layout;
use crate::simulator::kv_events::publisher::{self, Again, Target, Topic};
use crate::simulator::latency::{Calculator, Latency, Spread};
use crate::simulator::machine::Settings;
use crate::simulator::metrics::fake::Fake;
use crate::simulator::metrics::page::Labels;

/// What is known already.
pub struct Known<'a> {
    /// Name of the base model.
    pub model: &'a str,
    /// Name in metrics.
    pub served: &'a str,
    /// Port.
    pub port: u16,
    /// Seed.
    pub seed: u64,
    /// Names and layouts are those of v0.5.0.
    pub v050: bool,
}

/// Reads it all; what is wrong goes to `errors`.
pub fn read(
    p: &Parsed,
    source: &Arc<Source>,
    known: &Known,
    notes: &mut Vec<String>,
    errors: &mut Vec<String>,
) -> Settings {
    let lists = &source.lists;
    let env = &|name: &str| source.env(name);
    let number = |name: &str| usize::try_from(p.int(name)).unwrap_or(0);
    let calculator = calculator(p.text("latency-calculator"), errors);
    let latency = latency(p, calculator, notes, errors);
    let lora_load = span(p, "lora-load-time", "LoRA load time", notes, errors);
    let batch_tokens = batch_tokens(p, &latency, errors);
    let max_model_len = number("max-model-len");
    let labels = Labels {
        model: known.served.to_owned(),
        max_loras: number("max-loras"),
        cache: (number("block-size"), number("kv-cache-size")),
        gpu_cache_name: known.v050,
    };
    Settings {
        model: known.model.to_owned(),
        seed: known.seed,
        engine: engine::Config {
            max_running: number("max-num-seqs"),
            max_waiting: number("max-waiting-queue-length"),
            max_loras: number("max-loras"),
            max_cpu_loras: number("max-cpu-loras"),
            lora_load,
            latency,
            batch_tokens,
            cache: p.bool("enable-kvcache"),
            sampled_ttft: choice(p, "ttft-metric", &["wall-clock", "sampled"], errors) == "sampled",
            max_model_len,
            labels,
            fake: fake(lists[3].as_deref(), max_model_len, errors),
        },
        failures: failures(p, lists[2].as_deref(), errors),
        hashing: (
            match choice(p, "kv-hash-algorithm", &["sha256-cbor", "fnv64"], errors) {
                "fnv64" => Algorithm::Fnv64,
                _ => Algorithm::Sha256Cbor,
            },
            hash_seed(p, env),
        ),
        events: events(p, env, known, errors),
        reader: source.reader(),
    }
}

/// A duration that is not negative.
pub fn span(
    p: &Parsed,
    name: &str,
    words: &str,
    notes: &mut Vec<String>,
    errors: &mut Vec<String>,
) -> Duration {
    let value = duration(p, name, notes)
        .and_then(|d| d.to_std().ok_or_else(|| format!("{words} cannot be negative")));
    value.unwrap_or_else(|e| {
        errors.push(e);
        Duration::ZERO
    })
}

/// One of a few words.
fn choice<'a>(p: &'a Parsed, name: &str, words: &[&str], errors: &mut Vec<String>) -> &'a str {
    let given = p.text(name);
    if !words.contains(&given) {
        errors.push(format!(
            "invalid {name} '{given}', valid values are: {}",
            words.join(", ")
        ));
    }
    given
}

fn calculator(name: &str, errors: &mut Vec<String>) -> Calculator {
    match name {
        "" => Calculator::Default,
        "constant" => Calculator::Constant,
        "per-token" => Calculator::PerToken,
        other => {
            errors.push(format!(
                "unknown latency-calculator {other}, supported calculators are: constant and per-token"
            ));
            Calculator::Default
        }
    }
}

fn latency(p: &Parsed, calculator: Calculator, notes: &mut Vec<String>, errors: &mut Vec<String>) -> Latency {
    // Flag, flag of the deviation, and what the reference calls mean, deviation, and both of them in its third text.
    let rows = [
        (
            "time-to-first-token",
            "time-to-first-token-std-dev",
            [
                "time to first token",
                "time to first token",
                "time to first token",
            ],
        ),
        (
            "inter-token-latency",
            "inter-token-latency-std-dev",
            [
                "inter token latency",
                "inter token latency",
                "inter token latency",
            ],
        ),
        (
            "prefill-time-per-token",
            "prefill-time-std-dev",
            ["prefill time per token", "prefill time", "prefill time per token"],
        ),
        (
            "kv-cache-transfer-latency",
            "kv-cache-transfer-latency-std-dev",
            [
                "kv-cache tranfer time",
                "kv-cache tranfer time",
                "kv-cache tranfer",
            ],
        ),
        (
            "kv-cache-transfer-time-per-token",
            "kv-cache-transfer-time-std-dev",
            [
                "kv-cache tranfer time per token",
                "kv-cache tranfer time",
                "kv-cache tranfer time",
            ],
        ),
    ];
    let [ttft, itl, prefill, transfer, per_token] = rows.map(|(mean, deviation, words)| -> Spread {
        let [of_mean, of_deviation, in_ratio] = words;
        let mean = span(p, mean, of_mean, notes, errors);
        let words = format!("{of_deviation} standard deviation");
        let deviation = span(p, deviation, &words, notes, errors);
        if deviation > mean.mul_f64(0.3) {
            let whose = if in_ratio == "kv-cache tranfer" {
                in_ratio
            } else {
                of_deviation
            };
            errors.push(format!(
                "{whose} standard deviation cannot be more than 30% of {in_ratio}"
            ));
        }
        (mean, deviation)
    });
    Latency {
        calculator,
        time_to_first_token: ttft,
        inter_token: itl,
        prefill_overhead: span(p, "prefill-overhead", "prefill overhead", notes, errors),
        prefill_per_token: prefill,
        transfer,
        transfer_per_token: per_token,
        load_factor: p.float("time-factor-under-load"),
    }
}

fn batch_tokens(p: &Parsed, latency: &Latency, errors: &mut Vec<String>) -> Option<usize> {
    let tokens = p.int("max-num-batched-tokens");
    if !(1..=10_000_000).contains(&tokens) {
        errors.push(format!(
            "max-num-batched-tokens must be between 1 and 10000000, got {tokens}"
        ));
    }
    if choice(p, "latency-model", &["formula", "batch-step"], errors) != "batch-step" {
        return None;
    }
    if !latency.time_to_first_token.0.is_zero() || latency.calculator == Calculator::Constant {
        errors.push(
            "latency-model batch-step has no constant time to first token: give prefill-overhead and \
             prefill-time-per-token instead"
                .to_owned(),
        );
    }
    usize::try_from(tokens).ok()
}

fn failures(p: &Parsed, kinds: Option<&[String]>, errors: &mut Vec<String>) -> Failures {
    let mut parsed = Vec::new();
    for kind in kinds.unwrap_or_default() {
        match Kind::parse(kind) {
            Ok(kind) => parsed.push(kind),
            Err(e) => errors.push(e),
        }
    }
    Failures {
        rate: u8::try_from(p.int("failure-injection-rate")).unwrap_or(0),
        kinds: parsed,
    }
}

fn fake(values: Option<&[String]>, max_model_len: usize, errors: &mut Vec<String>) -> Option<Arc<Fake>> {
    let [json] = values? else {
        errors.push("fake-metrics needs one JSON object after it".to_owned());
        return None;
    };
    match Fake::read(json, max_model_len) {
        Ok(fake) => Some(Arc::new(fake)),
        Err(wrong) => {
            errors.extend(wrong);
            None
        }
    }
}

/// The flag (or YAML), else the environment.
fn hash_seed(p: &Parsed, env: &dyn Fn(&str) -> Option<String>) -> String {
    let given = p.text("hash-seed");
    if given.is_empty() {
        env("PYTHONHASHSEED").unwrap_or_default()
    } else {
        given.to_owned()
    }
}

fn events(
    p: &Parsed,
    env: &dyn Fn(&str) -> Option<String>,
    known: &Known,
    errors: &mut Vec<String>,
) -> Option<(Target, Layout)> {
    let endpoint = p.text("zmq-endpoint");
    let layout = match choice(p, "kv-event-format", &["block", "request", "map"], errors) {
        "request" => Layout::Request,
        "map" => Layout::Map,
        _ => Layout::Block,
    };
    let by_port = choice(p, "kv-event-topic", &["ip", "ip-port"], errors) == "ip-port";
    let replay = replay(p, errors);
    if (endpoint.is_empty() && replay.is_none()) || !p.bool("enable-kvcache") {
        return None;
    }
    if !endpoint.is_empty()
        && let Err(e) = publisher::check(endpoint)
    {
        errors.push(e);
    }
    let (model, port) = (known.model.to_owned(), known.port);
    let ip = env("POD_IP").unwrap_or_default();
    let topic = match (known.v050, by_port) {
        (true, _) => Topic::Localhost(port, model),
        (false, true) => Topic::IpPort(ip, port, model),
        (false, false) => Topic::Ip(ip, model),
    };
    let target = Target {
        endpoint: Some(endpoint.to_owned()).filter(|e| !e.is_empty()),
        topic,
        batch: usize::try_from(p.int("event-batch-size")).unwrap_or(1),
        rank: u16::try_from(p.int("data-parallel-rank")).unwrap_or(0),
        replay,
    };
    Some((target, layout))
}

/// Where and how sent events can be asked for again.
fn replay(p: &Parsed, errors: &mut Vec<String>) -> Option<Again> {
    let with_topic = choice(p, "kv-events-replay-frames", &["topic", "vllm"], errors) == "topic";
    let endpoint = p.text("kv-events-replay-endpoint");
    if endpoint.is_empty() {
        return None;
    }
    let messages = p.int("kv-events-replay-queue-size");
    if messages < 1 {
        errors.push("kv-events-replay-queue-size cannot be less than 1".to_owned());
    }
    let last_rank = p.int("data-parallel-rank").max(0) + p.int("data-parallel-size") - 1;
    match publisher::listening(endpoint) {
        Ok((_, port)) if i64::from(port).saturating_add(last_rank) > 65_535 => {
            errors.push(format!(
                "kv-events-replay-endpoint {endpoint}: the ports of {last_rank} further ranks must end at 65535"
            ));
            None
        }
        Ok((address, port)) => Some(Again {
            address,
            port,
            messages: usize::try_from(messages).unwrap_or(1),
            with_topic,
        }),
        Err(e) => {
            errors.push(e);
            None
        }
    }
}
