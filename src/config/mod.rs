//! F7: `EndpointPickerConfig`: load, defaults, check, and build into live plugins. Every mistake of a document
//! is reported at once, with its place.

mod build;
mod data_layer;
mod effective;
mod kept;
mod plugins;
mod profiles;
mod references;

use std::sync::Arc;
use std::time::Duration;

use crate::api::document::{Mistakes, Node, Value};
use crate::api::picker_config::{self, PickerConfig};
use crate::base::clock::Clock;
use crate::base::suggest;
use crate::discovery::file::FileDiscoverySettings;
use crate::plugin::PluginInstance;
use crate::saturation::UtilizationDetector;
use crate::scheduling::Scheduler;
use crate::telemetry::metrics::Metrics;
use crate::wire::yaml;

pub use data_layer::Scraping;
pub use effective::differences;
pub use kept::Kept;
pub use plugins::registry;

/// The configuration used when none is given (decision 7).
pub const DEFAULT: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
";

/// Feature gates that exist, and whether each is on by default.
const GATES: [(&str, bool); 3] = [
    ("dataLayer", false),
    ("flowControl", false),
    ("prepareDataPlugins", false),
];

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// [`DEFAULT`].
    BuiltIn,
    /// A document, and what to call it in messages.
    Text {
        /// Its name.
        name: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// What the environment overrides.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Gates switched on.
    pub gates: Vec<&'static str>,
    /// Replaces `saturationDetector.queueDepthThreshold`.
    pub queue_depth: Option<u32>,
    /// Replaces `saturationDetector.kvCacheUtilThreshold`.
    pub kv_cache_util: Option<f64>,
    /// Replaces `saturationDetector.metricsStalenessThreshold`.
    pub staleness: Option<Duration>,
}

/// Live parts made from a configuration.
pub struct Built {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// All plugin instances: in configuration order, injected ones last.
    pub plugins: Vec<PluginInstance>,
    /// The saturation detector.
    pub detector: UtilizationDetector,
    /// Gates that are on.
    pub gates: Vec<String>,
    /// The file endpoints come from, where one is named.
    pub discovery: Option<FileDiscoverySettings>,
    /// How endpoints are scraped.
    pub scraping: Scraping,
    /// What was asked for and has no effect yet.
    pub warnings: Vec<String>,
    /// Hash of the effective configuration: equal for equal configurations.
    pub hash: String,
    /// The effective configuration, defaults and injected plugins included.
    pub effective: serde_json::Value,
    /// The plugins with what they were made from, for [`rebuild`].
    pub kept: Kept,
}

/// Loads, checks and builds.
///
/// # Errors
/// Every mistake of the document.
pub fn build(
    source: &Source,
    environment: &Environment,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<Built, Mistakes> {
    rebuild(source, environment, metrics, clock, &Kept::default())
}

/// [`build()`], going on with the instances of `running` where name, type and parameters are the same.
///
/// # Errors
/// Every mistake of the document.
pub fn rebuild(
    source: &Source,
    environment: &Environment,
    metrics: &Arc<Metrics>,
    clock: &Clock,
    running: &Kept,
) -> Result<Built, Mistakes> {
    let (name, bytes) = match source {
        Source::BuiltIn => ("built-in configuration", DEFAULT.as_bytes()),
        Source::Text { name, bytes } => (name.as_str(), bytes.as_slice()),
    };
    let tree = yaml::parse(name, bytes)?;
    let mut mistakes = Mistakes::of(name);
    let document = picker_config::read(&tree, &mut mistakes);
    build::build(
        build::Maker::new(&registry(), metrics, clock, running),
        &document,
        fingerprint(&tree),
        environment,
        mistakes,
    )
}

/// The document in one line of JSON with sorted keys, hashed; without the version of the API, so that both ways to
/// write it are the same configuration.
fn fingerprint(tree: &Node) -> u64 {
    let empty = matches!(tree.value, Value::Null);
    let text = if empty {
        String::new()
    } else {
        let mut document = tree.to_json();
        if let Some(fields) = document.as_object_mut() {
            fields.remove("apiVersion");
        }
        document.to_string()
    };
    xxhash_rust::xxh64::xxh64(text.as_bytes(), 0)
}

/// Gates that are on: of the file, and of the environment. Unknown ones are mistakes.
fn gates(document: &PickerConfig, environment: &Environment, m: &mut Mistakes) -> Vec<String> {
    let mut on: Vec<String> = GATES
        .iter()
        .filter(|(_, default)| *default)
        .map(|(n, _)| (*n).to_owned())
        .collect();
    for (name, value, at) in &document.feature_gates {
        if !GATES.iter().any(|(known, _)| known == name) {
            let hint = suggest::hint(name, GATES.iter().map(|(n, _)| *n));
            let text = format!(
                "feature gate validation failed: feature gate '{name}' is unknown or unregistered{hint}"
            );
            m.add(*at, "featureGates", text);
        }
        on.retain(|n| n != name);
        if *value {
            on.push(name.clone());
        }
    }
    for gate in &environment.gates {
        if !on.iter().any(|n| n == gate) {
            on.push((*gate).to_owned());
        }
    }
    on
}
