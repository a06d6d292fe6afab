//! Engines: which metric of which server says what. Built-in ones, those of the configuration, and the
//! mapping of the v0.5.0 flags (runtime.md §5.3, plugins.md §1.4). Used by the poller and by `plugins`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use crate::wire::prometheus::{Compiled, MetricSpec, Query, SpecError, Winner};

/// Labels that name an endpoint's engine, in the order they are looked at.
pub const ENGINE_LABELS: [&str; 2] = ["llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type"];

/// The engine of endpoints that name none, unless configured otherwise.
pub const DEFAULT_ENGINE: &str = "vllm";

/// The metric specs of one engine. An empty spec means that the metric is not scraped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EngineConfig {
    /// Value of the engine label.
    pub name: String,
    /// Gauge or counter of waiting requests.
    #[serde(alias = "queueRequestsSpec")]
    pub queued_requests_spec: String,
    /// Gauge or counter of running requests.
    pub running_requests_spec: String,
    /// Gauge of KV-cache use, 0..=1.
    pub kv_usage_spec: String,
    /// Series with labels `running_lora_adapters`, `waiting_lora_adapters`, `max_lora`.
    pub lora_spec: String,
    /// Series whose labels hold block size and block count.
    pub cache_info_spec: String,
    /// Label of the cache information that holds the block size; empty: `block_size`.
    pub cache_block_size_label_name: String,
    /// Label of the cache information that holds the number of blocks; empty: `num_gpu_blocks`.
    pub cache_num_blocks_label_name: String,
    /// Gauge of the block size, for engines that report it as a metric of its own.
    pub cache_block_size_spec: String,
    /// Gauge of the number of blocks, for engines that report it as a metric of its own.
    pub cache_num_blocks_spec: String,
}

/// The five metric flags of v0.5.0, as typed.
#[derive(Clone, Copy, Debug)]
pub struct FlagSpecs<'a> {
    /// `--total-queued-requests-metric`
    pub queued: &'a str,
    /// `--total-running-requests-metric`
    pub running: &'a str,
    /// `--kv-cache-usage-percentage-metric`
    pub kv_usage: &'a str,
    /// `--lora-info-metric`
    pub lora: &'a str,
    /// `--cache-info-metric`
    pub cache_info: &'a str,
}

/// An engine ready to read pages: its queries, and what each answer means.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) wanted: Compiled,
    pub(super) slots: Slots,
}

/// Which query answers what, by index; `None` when the engine does not report it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    pub waiting: Option<usize>,
    pub running: Option<usize>,
    pub kv_usage: Option<usize>,
    pub lora: Option<usize>,
    pub cache_info: Option<usize>,
    pub block_size: Option<usize>,
    pub num_blocks: Option<usize>,
    pub block_size_label: String,
    pub num_blocks_label: String,
}

/// All engines, and which endpoint runs which.
#[derive(Clone, Debug)]
pub struct Engines {
    label_keys: Vec<String>,
    by_name: HashMap<String, Arc<Engine>>,
    default: Arc<Engine>,
}

impl Default for Engines {
    /// The built-in engines, `vllm` for endpoints that name none.
    fn default() -> Self {
        let by_name: HashMap<String, Arc<Engine>> = built_in()
            .into_iter()
            .filter_map(|config| Some((config.name.clone(), Arc::new(config.compile().ok()?))))
            .collect();
        Engines {
            label_keys: ENGINE_LABELS.map(Into::into).into(),
            default: by_name.get(DEFAULT_ENGINE).cloned().unwrap_or_else(Engine::blind),
            by_name,
        }
    }
}

impl Engines {
    /// Engines of a configuration, with the built-in ones appended unless `configs` has one of that name.
    /// `label_key` replaces both of [`ENGINE_LABELS`]; empty strings mean the defaults.
    ///
    /// # Errors
    /// Every mistake, in the order of `configs`.
    pub fn new(label_key: &str, default: &str, configs: &[EngineConfig]) -> Result<Self, Vec<String>> {
        let mut engines = Engines::default();
        if !label_key.is_empty() {
            engines.label_keys = vec![label_key.into()];
        }
        let mut own: HashMap<String, Arc<Engine>> = HashMap::new();
        let mut mistakes = Vec::new();
        for config in configs {
            match checked(config, own.contains_key(&config.name)) {
                Ok(engine) => drop(own.insert(config.name.clone(), Arc::new(engine))),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        let default = if default.is_empty() {
            DEFAULT_ENGINE
        } else {
            default
        };
        let named = configs.iter().any(|c| c.name == default);
        engines.by_name.extend(own);
        match engines.by_name.get(default) {
            Some(engine) => engines.default = engine.clone(),
            None if named => {}
            None => mistakes.push(format!("defaultEngine \"{default}\" not found in engineConfigs")),
        }
        if mistakes.is_empty() {
            Ok(engines)
        } else {
            Err(mistakes)
        }
    }

    /// The built-in engines, with the default one made of the five flags of v0.5.0 in their own grammar.
    ///
    /// # Errors
    /// Every spec that cannot be read.
    pub fn from_flags(flags: FlagSpecs<'_>) -> Result<Self, Vec<String>> {
        let config = EngineConfig {
            name: DEFAULT_ENGINE.into(),
            queued_requests_spec: flags.queued.into(),
            running_requests_spec: flags.running.into(),
            kv_usage_spec: flags.kv_usage.into(),
            lora_spec: flags.lora.into(),
            cache_info_spec: flags.cache_info.into(),
            ..EngineConfig::default()
        };
        let engine = Arc::new(config.compile_as(MetricSpec::parse_flag)?);
        let mut engines = Engines::default();
        engines.by_name.insert(config.name, engine.clone());
        engines.default = engine;
        Ok(engines)
    }

    /// The engine of an endpoint with these labels: the one its engine label names, else the default.
    pub fn of(&self, labels: &BTreeMap<String, String>) -> &Arc<Engine> {
        let named = self
            .label_keys
            .iter()
            .find_map(|key| labels.get(key).filter(|v| !v.is_empty()));
        named
            .and_then(|name| self.by_name.get(name))
            .unwrap_or(&self.default)
    }
}

fn checked(config: &EngineConfig, taken: bool) -> Result<Engine, String> {
    let name = &config.name;
    match name.as_str() {
        "" => return Err("engine config name cannot be empty".into()),
        "default" => return Err("engine config name cannot be \"default\" (reserved)".into()),
        _ => {}
    }
    let mapping = match taken {
        true => Err(format!("mapping for engine type \"{name}\" already exists")),
        false => config.compile().map_err(|mistakes| mistakes.join("; ")),
    };
    mapping.map_err(|e| format!("failed to create mapping for engine \"{name}\": {e}"))
}

type Grammar = fn(&str) -> Result<Option<MetricSpec>, SpecError>;

impl EngineConfig {
    /// The built-in default.
    pub(super) fn vllm() -> Self {
        EngineConfig {
            lora_spec: "vllm:lora_requests_info".into(),
            cache_info_spec: "vllm:cache_config_info".into(),
            ..engine(
                DEFAULT_ENGINE,
                "vllm:num_requests_waiting",
                "vllm:num_requests_running",
                "vllm:kv_cache_usage_perc",
            )
        }
    }

    /// Prepares the specs, read as selectors.
    ///
    /// # Errors
    /// Every spec that cannot be read.
    pub fn compile(&self) -> Result<Engine, Vec<String>> {
        self.compile_as(MetricSpec::parse)
    }

    fn compile_as(&self, grammar: Grammar) -> Result<Engine, Vec<String>> {
        let mut build = Build {
            grammar,
            queries: Vec::new(),
            mistakes: Vec::new(),
        };
        let or = |label: &str, default: &str| if label.is_empty() { default } else { label }.to_owned();
        let slots = Slots {
            waiting: build.value("WaitingRequests", &self.queued_requests_spec),
            running: build.value("RunningRequests", &self.running_requests_spec),
            kv_usage: build.value("KVCacheUsage", &self.kv_usage_spec),
            lora: build.labelled("loraReqInfoStr", &self.lora_spec, Winner::LargestValue),
            cache_info: build.labelled("cacheInfoMetric", &self.cache_info_spec, Winner::Latest),
            block_size: build.value("cacheBlockSizeSpec", &self.cache_block_size_spec),
            num_blocks: build.value("cacheNumBlocksSpec", &self.cache_num_blocks_spec),
            block_size_label: or(&self.cache_block_size_label_name, "block_size"),
            num_blocks_label: or(&self.cache_num_blocks_label_name, "num_gpu_blocks"),
        };
        if build.mistakes.is_empty() {
            let wanted = Compiled::new(build.queries);
            Ok(Engine { wanted, slots })
        } else {
            Err(build.mistakes)
        }
    }
}

struct Build {
    grammar: Grammar,
    queries: Vec<Query>,
    mistakes: Vec<String>,
}

impl Build {
    fn value(&mut self, what: &str, text: &str) -> Option<usize> {
        self.query(what, text, Winner::Latest, false)
    }

    fn labelled(&mut self, what: &str, text: &str, winner: Winner) -> Option<usize> {
        self.query(what, text, winner, true)
    }

    fn query(&mut self, what: &str, text: &str, winner: Winner, keep_labels: bool) -> Option<usize> {
        match (self.grammar)(text) {
            Err(e) => {
                self.mistakes.push(format!("error parsing {what}: {e}"));
                None
            }
            Ok(spec) => spec.map(|spec| {
                self.queries.push(Query {
                    spec,
                    winner,
                    keep_labels,
                });
                self.queries.len() - 1
            }),
        }
    }
}

impl Engine {
    /// An engine that reports nothing.
    fn blind() -> Arc<Self> {
        Arc::new(Engine {
            wanted: Compiled::default(),
            slots: Slots::default(),
        })
    }
}

fn engine(name: &str, queued: &str, running: &str, kv_usage: &str) -> EngineConfig {
    EngineConfig {
        name: name.into(),
        queued_requests_spec: queued.into(),
        running_requests_spec: running.into(),
        kv_usage_spec: kv_usage.into(),
        ..EngineConfig::default()
    }
}

/// The engines everybody has.
fn built_in() -> Vec<EngineConfig> {
    vec![
        EngineConfig::vllm(),
        EngineConfig {
            cache_info_spec: "sglang:cache_config_info".into(),
            cache_block_size_label_name: "page_size".into(),
            cache_num_blocks_label_name: "num_pages".into(),
            ..engine(
                "sglang",
                "sglang:num_queue_reqs",
                "sglang:num_running_reqs",
                "sglang:token_usage",
            )
        },
        EngineConfig {
            cache_block_size_spec: "trtllm_kv_cache_tokens_per_block".into(),
            cache_num_blocks_spec: "trtllm_kv_cache_max_blocks".into(),
            ..engine(
                "trtllm-serve",
                "trtllm_num_requests_waiting",
                "trtllm_num_requests_running",
                "trtllm_kv_cache_utilization",
            )
        },
        EngineConfig {
            cache_block_size_spec: "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}".into(),
            cache_num_blocks_spec: "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}".into(),
            ..engine(
                "triton-tensorrt-llm",
                "nv_trt_llm_request_metrics{request_type=waiting}",
                "nv_trt_llm_request_metrics{request_type=scheduled}",
                "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
            )
        },
        engine(
            "triton",
            "nv_inference_pending_request_count",
            "nv_inference_exec_count",
            "",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_engine_can_be_prepared() {
        let engines = Engines::default();
        let names: Vec<String> = built_in().into_iter().map(|c| c.name).collect();
        assert_eq!(
            names,
            ["vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm", "triton"]
        );
        assert!(names.iter().all(|n| engines.by_name.contains_key(n)));
    }

    #[test]
    fn flags_of_v0_5_0_make_the_default_engine_and_tell_every_mistake() {
        let mut flags = FlagSpecs {
            queued: "q{a=\"b\"}",
            running: "r",
            kv_usage: "",
            lora: "",
            cache_info: "c",
        };
        let engines = Engines::from_flags(flags).unwrap();
        let engine = engines.of(&BTreeMap::new());
        assert_eq!(engine.wanted.queries()[0].spec.labels[0].1, "\"b\"");
        assert!(engine.slots.kv_usage.is_none() && engine.slots.lora.is_none());
        (flags.queued, flags.lora, flags.cache_info) = (" ", "m{}", "{a=b}");
        assert_eq!(
            Engines::from_flags(flags).unwrap_err(),
            [
                "error parsing WaitingRequests: empty metric name in spec:  ",
                "error parsing loraReqInfoStr: invalid metric spec string: m{}, missing or malformed label block",
                "error parsing cacheInfoMetric: empty metric name in spec: {a=b}",
            ]
        );
    }
}
