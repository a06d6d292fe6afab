//! The plugin types of metrics collection: where pages come from and what is read from them. Registered by
//! `config`; each puts a typed value into `roles.extension`, which `app` hands to the poller.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::plugin::{Context, ParamDoc, Params, ParamsError, PluginType, Roles};

use super::engine::{DEFAULT_ENGINE, EngineConfig, Engines};
use super::fetch::Scheme;

/// What a `metrics-data-source` overrides; `None` leaves the flag's value. It is the extension of the plugin
/// of that type; the two extractor types carry [`Engines`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsSource {
    /// Overrides `--model-server-metrics-scheme`.
    pub scheme: Option<Scheme>,
    /// Overrides `--model-server-metrics-path`.
    pub path: Option<String>,
    /// Overrides `--model-server-metrics-https-insecure-skip-verify`.
    pub insecure_skip_verify: Option<bool>,
}

/// The plugin types of this floor.
pub fn plugin_types() -> Vec<PluginType> {
    vec![SOURCE, CORE_EXTRACTOR, PROTOCOL_EXTRACTOR]
}

const SOURCE: PluginType = PluginType {
    name: "metrics-data-source",
    help: "Says how the metrics pages of endpoints are fetched.",
    params: SOURCE_PARAMS,
    make: make_source,
};

const CORE_EXTRACTOR: PluginType = PluginType {
    name: "core-metrics-extractor",
    help: "Says which metrics of which engine are read.",
    params: EXTRACTOR_PARAMS,
    make: |_, params| extractor(params, EXTRACTOR_PARAMS),
};

const PROTOCOL_EXTRACTOR: PluginType = PluginType {
    name: "model-server-protocol-metrics",
    help: "The older name of core-metrics-extractor; also takes the specs of the default engine directly.",
    params: PROTOCOL_PARAMS,
    make: |_, params| extractor(params, PROTOCOL_PARAMS),
};

const fn doc(name: &'static str, kind: &'static str, default: &'static str, help: &'static str) -> ParamDoc {
    ParamDoc {
        name,
        kind,
        default,
        help,
    }
}

const SOURCE_PARAMS: &[ParamDoc] = &[
    doc("scheme", "string", "value of the flag", "`http` or `https`."),
    doc("path", "string", "value of the flag", "Path of the metrics page."),
    doc(
        "insecureSkipVerify",
        "bool",
        "value of the flag",
        "Accept any certificate of an endpoint.",
    ),
];

const LABEL_KEY: ParamDoc = doc(
    "engineLabelKey",
    "string",
    "llm-d.ai/engine-type, then inference.networking.k8s.io/engine-type",
    "Label of an endpoint that names its engine.",
);
const DEFAULT: ParamDoc = doc(
    "defaultEngine",
    "string",
    DEFAULT_ENGINE,
    "Engine of endpoints that name none, or an unknown one.",
);
const CONFIGS: ParamDoc = doc(
    "engineConfigs",
    "list",
    "[]",
    "Engines besides the built-in ones, or in place of one of the same name.",
);

const EXTRACTOR_PARAMS: &[ParamDoc] = &[LABEL_KEY, DEFAULT, CONFIGS];

const PROTOCOL_PARAMS: &[ParamDoc] = &[
    LABEL_KEY,
    DEFAULT,
    CONFIGS,
    doc(
        "queuedRequestsSpec",
        "string",
        "of the default engine",
        "Metric of waiting requests.",
    ),
    doc(
        "queueRequestsSpec",
        "string",
        "of the default engine",
        "Same as queuedRequestsSpec.",
    ),
    doc(
        "runningRequestsSpec",
        "string",
        "of the default engine",
        "Metric of running requests.",
    ),
    doc(
        "kvUsageSpec",
        "string",
        "of the default engine",
        "Metric of KV-cache use.",
    ),
    doc(
        "loraSpec",
        "string",
        "of the default engine",
        "Metric with LoRA adapters in its labels.",
    ),
    doc(
        "cacheInfoSpec",
        "string",
        "of the default engine",
        "Metric with the cache's shape in its labels.",
    ),
];

/// Keys of an entry of `engineConfigs`.
const ENGINE_KEYS: &[&str] = &[
    "name",
    "queuedRequestsSpec",
    "queueRequestsSpec",
    "runningRequestsSpec",
    "kvUsageSpec",
    "loraSpec",
    "cacheInfoSpec",
    "cacheBlockSizeLabelName",
    "cacheNumBlocksLabelName",
    "cacheBlockSizeSpec",
    "cacheNumBlocksSpec",
];

fn make_source(_: &Context, params: &Params) -> Result<Roles, ParamsError> {
    let known: Vec<&str> = SOURCE.param_names();
    let source: MetricsSource = go_keys(params, &known).decode(&known)?;
    Ok(extension(source))
}

fn extension<T: Send + Sync + 'static>(value: T) -> Roles {
    Roles {
        extension: Some(Arc::new(value)),
        ..Roles::default()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExtractorParams {
    engine_label_key: String,
    default_engine: String,
    engine_configs: Vec<Value>,
    #[serde(flatten)]
    direct: DirectSpecs,
}

/// Specs of the default engine, given beside `engineConfigs` rather than in it.
#[derive(Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DirectSpecs {
    #[serde(alias = "queueRequestsSpec")]
    queued_requests_spec: Option<String>,
    running_requests_spec: Option<String>,
    kv_usage_spec: Option<String>,
    lora_spec: Option<String>,
    cache_info_spec: Option<String>,
}

fn extractor(params: &Params, docs: &[ParamDoc]) -> Result<Roles, ParamsError> {
    let known: Vec<&str> = docs.iter().map(|p| p.name).collect();
    let params: ExtractorParams = go_keys(params, &known).decode(&known)?;
    let mut configs = engine_configs(params.engine_configs)?;
    if params.direct != DirectSpecs::default() {
        if !configs.is_empty() || !params.default_engine.is_empty() {
            return Err(ParamsError::one(
                "metric specs can be given directly or in engineConfigs, not both",
            ));
        }
        configs.push(params.direct.over(EngineConfig::vllm()));
    }
    Engines::new(&params.engine_label_key, &params.default_engine, &configs)
        .map(extension)
        .map_err(ParamsError)
}

impl DirectSpecs {
    fn over(self, config: EngineConfig) -> EngineConfig {
        EngineConfig {
            queued_requests_spec: self.queued_requests_spec.unwrap_or(config.queued_requests_spec),
            running_requests_spec: self.running_requests_spec.unwrap_or(config.running_requests_spec),
            kv_usage_spec: self.kv_usage_spec.unwrap_or(config.kv_usage_spec),
            lora_spec: self.lora_spec.unwrap_or(config.lora_spec),
            cache_info_spec: self.cache_info_spec.unwrap_or(config.cache_info_spec),
            ..config
        }
    }
}

fn engine_configs(entries: Vec<Value>) -> Result<Vec<EngineConfig>, ParamsError> {
    let mut configs = Vec::new();
    let mut mistakes = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match engine_config(entry) {
            Ok(config) => configs.push(config),
            Err(e) => mistakes.extend(e.0.into_iter().map(|m| format!("engineConfigs[{index}]: {m}"))),
        }
    }
    if mistakes.is_empty() {
        Ok(configs)
    } else {
        Err(ParamsError(mistakes))
    }
}

fn engine_config(entry: Value) -> Result<EngineConfig, ParamsError> {
    if entry.get("customMetrics").is_some() {
        return Err(ParamsError::one(
            "customMetrics is not supported: no plugin reads custom attributes of endpoints",
        ));
    }
    go_keys(&Params::new(Some(entry)), ENGINE_KEYS).decode(ENGINE_KEYS)
}

/// Keys as Go reads them: without regard to case (each becomes the `known` spelling), `null` as absent.
fn go_keys(params: &Params, known: &[&str]) -> Params {
    let Some(Value::Object(map)) = params.value() else {
        return params.clone();
    };
    let given = map.iter().filter(|(_, value)| !value.is_null());
    let spelled = given.map(|(key, value)| {
        let known = known.iter().find(|k| k.eq_ignore_ascii_case(key));
        (known.map_or(key.as_str(), |k| k).to_owned(), value.clone())
    });
    Params::new(Some(Value::Object(spelled.collect())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::base::clock::Clock;

    fn make(plugin: &PluginType, params: Value) -> Result<Roles, String> {
        let context = Context {
            name: plugin.name.into(),
            metrics: Arc::default(),
            clock: Clock::default(),
        };
        (plugin.make)(&context, &Params::new(Some(params))).map_err(|e| e.to_string())
    }

    /// Name of the metric of waiting requests for an endpoint labelled `engine`.
    fn waiting(roles: &Roles, key: &str, engine: &str) -> String {
        let engines = roles.extension.clone().unwrap().downcast::<Engines>().unwrap();
        let engine = engines.of(&BTreeMap::from([(key.into(), engine.into())])).clone();
        let slot = engine.slots.waiting.unwrap();
        engine.wanted.queries()[slot].spec.name.clone()
    }

    #[test]
    fn a_source_overrides_only_what_it_names_in_any_case() {
        let roles = make(
            &SOURCE,
            json!({"Scheme": "https", "PATH": null, "insecureSkipVerify": false}),
        );
        let source = roles
            .unwrap()
            .extension
            .unwrap()
            .downcast::<MetricsSource>()
            .unwrap();
        let want = MetricsSource {
            scheme: Some(Scheme::Https),
            path: None,
            insecure_skip_verify: Some(false),
        };
        assert_eq!(*source, want);
        assert_eq!(
            make(&SOURCE, json!({"shceme": "http"})).err().unwrap(),
            "unknown parameter \"shceme\" (did you mean \"scheme\"?)"
        );
        assert!(make(&SOURCE, json!({"scheme": "HTTP"})).is_err());
    }

    #[test]
    fn an_engine_is_found_by_label_and_own_engines_replace_built_in_ones() {
        let configs = json!({"engineConfigs": [
            {"name": "vllm", "queuedRequestsSpec": "mine"},
            {"name": "other", "QueueRequestsSpec": "theirs{a=\"b\"}"},
        ]});
        let [new, old] = super::super::ENGINE_LABELS;
        for plugin in [CORE_EXTRACTOR, PROTOCOL_EXTRACTOR] {
            let roles = make(&plugin, configs.clone()).unwrap();
            for (key, engine, want) in [
                (new, "other", "theirs"),
                (old, "other", "theirs"),
                (new, "sglang", "sglang:num_queue_reqs"),
                (new, "", "mine"),
                (new, "unheard-of", "mine"),
                ("another/label", "sglang", "mine"),
            ] {
                assert_eq!(waiting(&roles, key, engine), want, "{key}={engine}");
            }
        }
        let roles = make(
            &CORE_EXTRACTOR,
            json!({"engineLabelKey": "mine", "defaultEngine": "triton-tensorrt-llm"}),
        );
        let roles = roles.unwrap();
        assert_eq!(
            waiting(&roles, "mine", "trtllm-serve"),
            "trtllm_num_requests_waiting"
        );
        assert_eq!(waiting(&roles, new, "trtllm-serve"), "nv_trt_llm_request_metrics");
        assert_eq!(
            waiting(&roles, "mine", "triton"),
            "nv_inference_pending_request_count"
        );
    }

    #[test]
    fn the_older_extractor_takes_specs_of_the_default_engine_directly() {
        let roles = make(
            &PROTOCOL_EXTRACTOR,
            json!({"queueRequestsSpec": "q", "loraSpec": ""}),
        )
        .unwrap();
        assert_eq!(waiting(&roles, "", ""), "q");
        let engines = roles.extension.unwrap().downcast::<Engines>().unwrap();
        let slots = engines.of(&BTreeMap::new()).slots.clone();
        assert!(slots.lora.is_none() && slots.running.is_some());
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let rows = [
            (
                json!({"engineConfigs": [{"name": ""}, {"name": "default"}, {"name": "a"}, {"name": "a"}],
                       "defaultEngine": "b"}),
                "engine config name cannot be empty; engine config name cannot be \"default\" (reserved); \
                 failed to create mapping for engine \"a\": mapping for engine type \"a\" already exists; \
                 defaultEngine \"b\" not found in engineConfigs",
            ),
            (
                json!({"engineConfigs": [{"name": "a", "queuedRequestsSpec": "m{", "kvUsageSpec": "m{}x"}]}),
                "failed to create mapping for engine \"a\": error parsing WaitingRequests: invalid metric spec \
                 string: m{, missing or malformed label block; error parsing KVCacheUsage: invalid characters \
                 after label section in: m{}x",
            ),
            (
                json!({"engineConfigs": [{"nam": "a"}, {"name": "a", "customMetrics": []}]}),
                "engineConfigs[0]: unknown parameter \"nam\" (did you mean \"name\"?); engineConfigs[1]: \
                 customMetrics is not supported: no plugin reads custom attributes of endpoints",
            ),
            (json!({"kvUsageSpec": "m"}), "unknown parameter \"kvUsageSpec\""),
        ];
        for (params, want) in rows {
            assert_eq!(make(&CORE_EXTRACTOR, params).err().unwrap(), want);
        }
        let both = json!({"kvUsageSpec": "m", "engineConfigs": [{"name": "a"}]});
        assert_eq!(
            make(&PROTOCOL_EXTRACTOR, both).err().unwrap(),
            "metric specs can be given directly or in engineConfigs, not both"
        );
    }
}
