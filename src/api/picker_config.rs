//! The EndpointPickerConfig document, both API versions (plugins.md §1.1, §1.4; decision 7).

use std::time::Duration;

use super::document::{At, Mistakes, Node, Place};

/// The older API version, which calls the data layer `data`.
pub const X_K8S: &str = "inference.networking.x-k8s.io/v1alpha1";
/// The newer API version, which calls it `dataLayer`.
pub const LLM_D: &str = "llm-d.ai/v1alpha1";
/// The kind of the document.
pub const KIND: &str = "EndpointPickerConfig";

/// A reference to a plugin by name, and where it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginRef {
    /// Name of the plugin.
    pub name: String,
    /// Where.
    pub at: Place,
    /// Path in the document.
    pub path: String,
}

/// An entry of `plugins`.
#[derive(Clone, Debug)]
pub struct PluginEntry {
    /// Its name; its type when none is given.
    pub name: String,
    /// Its type.
    pub type_name: String,
    /// `parameters`, as written.
    pub parameters: Option<Node>,
    /// Where the entry stands.
    pub at: Place,
    /// Path in the document.
    pub path: String,
}

/// An entry of `schedulingProfiles`.
#[derive(Clone, Debug)]
pub struct ProfileEntry {
    /// Its name.
    pub name: String,
    /// Plugins by reference, with the weight where one is given.
    pub plugins: Vec<(PluginRef, Option<f64>)>,
    /// Where the entry stands.
    pub at: Place,
    /// Path in the document.
    pub path: String,
}

/// `saturationDetector`; `None` leaves the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SaturationDetector {
    /// Above 0.
    pub queue_depth_threshold: Option<u32>,
    /// Between 0 and 1, exclusive.
    pub kv_cache_util_threshold: Option<f64>,
    /// Above 0.
    pub metrics_staleness_threshold: Option<Duration>,
    /// A detector plugin.
    pub plugin_ref: Option<PluginRef>,
}

/// `dataLayer`, or `data`.
#[derive(Clone, Debug, Default)]
pub struct DataLayer {
    /// Sources, each with its extractors.
    pub sources: Vec<(PluginRef, Vec<PluginRef>)>,
    /// Where endpoints come from.
    pub discovery: Option<PluginRef>,
}

/// The document.
#[derive(Clone, Debug, Default)]
pub struct PickerConfig {
    /// Gates and whether each is on, with their places.
    pub feature_gates: Vec<(String, bool, Place)>,
    /// Plugins in order.
    pub plugins: Vec<PluginEntry>,
    /// Profiles in order; `None` when the section is absent.
    pub profiles: Option<Vec<ProfileEntry>>,
    /// Saturation thresholds.
    pub saturation: SaturationDetector,
    /// Data layer, where the section is present.
    pub data_layer: Option<DataLayer>,
    /// Sections that are checked but have no effect yet.
    pub idle_sections: Vec<&'static str>,
}

const COMMON: [&str; 7] = [
    "apiVersion",
    "kind",
    "featureGates",
    "plugins",
    "schedulingProfiles",
    "saturationDetector",
    "flowControl",
];

/// Reads the document; what is wrong goes to `m`.
pub fn read(root: &Node, m: &mut Mistakes) -> PickerConfig {
    let root = At::root(root);
    let version = api_version(&root);
    let newer = version.as_deref() == Some(LLM_D);
    let mut known = COMMON.to_vec();
    known.extend(if newer {
        &["dataLayer", "requestHandler", "parser"][..]
    } else {
        &["data"]
    });
    let document = root.object(&known, m);
    match document.get("apiVersion") {
        None => m.add(
            document.at,
            "",
            format!("apiVersion is missing: write apiVersion: {LLM_D}"),
        ),
        Some(at) => {
            let text = at.text(m).unwrap_or(LLM_D);
            if text != LLM_D && text != X_K8S {
                at.wrong(
                    m,
                    format!("unknown apiVersion \"{text}\": use {LLM_D} or {X_K8S}"),
                );
            }
        }
    }
    match document.get("kind") {
        None => m.add(document.at, "", format!("kind is missing: write kind: {KIND}")),
        Some(at) => {
            let text = at.text(m).unwrap_or(KIND);
            if text != KIND {
                at.wrong(m, format!("unknown kind \"{text}\": use {KIND}"));
            }
        }
    }
    let profiles = document.get("schedulingProfiles").map(|at| {
        at.list(m)
            .iter()
            .enumerate()
            .filter_map(|(i, at)| profile(i, at, m))
            .collect()
    });
    let mut idle_sections = Vec::new();
    if let Some(at) = document.get("flowControl") {
        flow_control(at, newer, m);
        idle_sections.push("flowControl");
    }
    if let Some(at) = document.get("requestHandler") {
        parsers(at, m);
        idle_sections.push("requestHandler");
    }
    if let Some(at) = document.get("parser") {
        plugin_ref(at, &["pluginRef"], m);
        idle_sections.push("parser");
    }
    PickerConfig {
        feature_gates: document
            .list("featureGates", m)
            .iter()
            .filter_map(|at| gate(at, newer, m))
            .collect(),
        plugins: document
            .list("plugins", m)
            .iter()
            .filter_map(|at| plugin(at, m))
            .collect(),
        profiles,
        saturation: document
            .get("saturationDetector")
            .map(|at| saturation(at, newer, m))
            .unwrap_or_default(),
        data_layer: document
            .get(if newer { "dataLayer" } else { "data" })
            .map(|at| data_layer(at, newer, m)),
        idle_sections,
    }
}

/// The version, read ahead: the known fields depend on it.
fn api_version(root: &At<'_>) -> Option<String> {
    let mut ignored = Mistakes::default();
    let map = root.object(&["apiVersion"], &mut ignored);
    map.text("apiVersion", &mut ignored).map(str::to_owned)
}

fn gate(at: &At<'_>, newer: bool, m: &mut Mistakes) -> Option<(String, bool, Place)> {
    let text = at.text(m)?;
    let (name, on) = match text.split_once('=').filter(|_| newer) {
        None => (text, true),
        Some((name, "true")) => (name, true),
        Some((name, "false")) => (name, false),
        Some((name, value)) => {
            at.wrong(
                m,
                format!("feature gate \"{name}\" must be =true or =false, not \"{value}\""),
            );
            return None;
        }
    };
    Some((name.to_owned(), on, at.node.at))
}

fn plugin(at: &At<'_>, m: &mut Mistakes) -> Option<PluginEntry> {
    let entry = at.object(&["name", "type", "parameters"], m);
    let name = entry.text("name", m).filter(|n| !n.is_empty());
    let missing = format!("plugin '{}' is missing a type", name.unwrap_or(""));
    let type_name = entry.required_text("type", &missing, m)?;
    Some(PluginEntry {
        name: name.unwrap_or(type_name).to_owned(),
        type_name: type_name.to_owned(),
        parameters: entry.get("parameters").map(|p| p.node.clone()),
        at: at.node.at,
        path: at.path.clone(),
    })
}

fn profile(index: usize, at: &At<'_>, m: &mut Mistakes) -> Option<ProfileEntry> {
    let entry = at.object(&["name", "plugins"], m);
    let name = entry.required_text(
        "name",
        &format!("schedulingProfiles[{index}] is missing a name"),
        m,
    )?;
    let references = entry.list("plugins", m);
    let plugins = references.iter().enumerate().filter_map(|(i, at)| {
        let reference = at.object(&["pluginRef", "weight"], m);
        let missing = format!("schedulingProfiles[{name}].plugins[{i}] is missing a 'pluginRef'");
        let plugin = reference.required_text("pluginRef", &missing, m)?;
        let weight = reference.get("weight").and_then(|w| w.number(m));
        Some((
            PluginRef {
                name: plugin.to_owned(),
                at: at.node.at,
                path: at.path.clone(),
            },
            weight,
        ))
    });
    let plugins = plugins.collect::<Vec<_>>();
    Some(ProfileEntry {
        name: name.to_owned(),
        plugins,
        at: at.node.at,
        path: at.path.clone(),
    })
}

fn plugin_ref(at: &At<'_>, known: &[&str], m: &mut Mistakes) -> Option<PluginRef> {
    let object = at.object(known, m);
    let name = object.required_text("pluginRef", "pluginRef is missing", m)?;
    Some(PluginRef {
        name: name.to_owned(),
        at: at.node.at,
        path: at.path.clone(),
    })
}

fn saturation(at: &At<'_>, newer: bool, m: &mut Mistakes) -> SaturationDetector {
    let mut known = vec![
        "queueDepthThreshold",
        "kvCacheUtilThreshold",
        "metricsStalenessThreshold",
    ];
    if newer {
        known.push("pluginRef");
    }
    let object = at.object(&known, m);
    // Values that make no sense leave the default, as in the reference; values of a wrong type are mistakes.
    let queue = object.get("queueDepthThreshold").and_then(|q| q.int(m));
    let kv = object.get("kvCacheUtilThreshold").and_then(|k| k.number(m));
    let staleness = object
        .get("metricsStalenessThreshold")
        .and_then(|s| s.duration(m));
    SaturationDetector {
        queue_depth_threshold: queue.and_then(|q| u32::try_from(q).ok()).filter(|q| *q > 0),
        kv_cache_util_threshold: kv.filter(|k| *k > 0.0 && *k < 1.0),
        metrics_staleness_threshold: staleness.filter(|s| !s.is_zero()),
        plugin_ref: object.get("pluginRef").and_then(|name| {
            let text = name.text(m)?;
            Some(PluginRef {
                name: text.to_owned(),
                at: name.node.at,
                path: name.path.clone(),
            })
        }),
    }
}

fn data_layer(at: &At<'_>, newer: bool, m: &mut Mistakes) -> DataLayer {
    let known: &[&str] = if newer {
        &[
            "injectDefaults",
            "sources",
            "discovery",
            "peerDiscovery",
            "crossReplicaSyncerPluginRef",
            "crossReplicaSyncInterval",
        ]
    } else {
        // `discovery` is ours in the older version: without it a file of endpoints could not be named there.
        &["sources", "discovery"]
    };
    let object = at.object(known, m);
    if let Some(defaults) = object.get("injectDefaults") {
        defaults.bool(m);
    }
    for unbuilt in [
        "peerDiscovery",
        "crossReplicaSyncerPluginRef",
        "crossReplicaSyncInterval",
    ] {
        if let Some(at) = object.get(unbuilt) {
            at.wrong(
                m,
                format!("{unbuilt} is not available: replicas do not share their state"),
            );
        }
    }
    let source = |at: &At<'_>, m: &mut Mistakes| {
        let reference = plugin_ref(at, &["pluginRef", "extractors"], m)?;
        let object = at.object(&["pluginRef", "extractors"], &mut Mistakes::default());
        let extractors = object.list("extractors", m);
        Some((
            reference,
            extractors
                .iter()
                .filter_map(|e| plugin_ref(e, &["pluginRef"], m))
                .collect(),
        ))
    };
    DataLayer {
        sources: object
            .list("sources", m)
            .iter()
            .filter_map(|at| source(at, m))
            .collect(),
        discovery: object
            .get("discovery")
            .and_then(|at| plugin_ref(at, &["pluginRef"], m)),
    }
}

fn parsers(at: &At<'_>, m: &mut Mistakes) {
    for parser in at.object(&["parsers"], m).list("parsers", m) {
        plugin_ref(&parser, &["pluginRef"], m);
    }
}

fn flow_control(at: &At<'_>, newer: bool, m: &mut Mistakes) {
    let mut known = vec![
        "maxBytes",
        "defaultRequestTTL",
        "defaultPriorityBand",
        "priorityBands",
    ];
    let mut band_known = vec!["priority", "maxBytes"];
    if newer {
        known.extend([
            "maxRequests",
            "noEndpointRequestTTL",
            "defaultNegativePriorityBand",
            "usageLimitPolicyPluginRef",
            "saturationDetector",
            "enableEviction",
        ]);
        band_known.extend(["maxRequests", "fairnessPolicyRef", "orderingPolicyRef"]);
    }
    let object = at.object(&known, m);
    for name in ["defaultRequestTTL", "noEndpointRequestTTL"] {
        if let Some(ttl) = object.get(name) {
            ttl.duration(m);
        }
    }
    limits(&object, newer, m);
    let templates = ["defaultPriorityBand", "defaultNegativePriorityBand"]
        .into_iter()
        .filter_map(|n| object.get(n));
    let bands = templates.cloned().chain(object.list("priorityBands", m));
    for band in bands.collect::<Vec<_>>() {
        let band = band.object(&band_known, m);
        limits(&band, newer, m);
        if let Some(priority) = band.get("priority") {
            priority.int(m);
        }
    }
}

/// `maxBytes` and `maxRequests`: not negative; bytes may be a quantity in the newer version.
fn limits(object: &super::document::Object<'_>, newer: bool, m: &mut Mistakes) {
    for name in ["maxBytes", "maxRequests"] {
        let Some(at) = object.get(name) else { continue };
        let quantity =
            newer && name == "maxBytes" && matches!(at.node.value, super::document::Value::Text(_));
        if quantity {
            if at.text(m).is_some_and(|t| !is_quantity(t)) {
                at.wrong(m, "must be a number of bytes, or a quantity such as 1G or 512Mi");
            }
        } else if at.int(m).is_some_and(|n| n < 0) {
            at.wrong(m, format!("{name} must not be negative"));
        }
    }
}

fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<f64>().is_ok_and(|n| n >= 0.0)
        && matches!(unit, "" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti")
}
