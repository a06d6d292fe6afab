//! A checked document into live parts.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::document::{Mistakes, Value};
use crate::api::picker_config::{PickerConfig, PluginEntry};
use crate::base::clock::Clock;
use crate::base::suggest;
use crate::plugin::{Context, Params, ParamsError, PluginInstance, PluginType, Registry};
use crate::saturation::UtilizationDetector;
use crate::telemetry::metrics::Metrics;

use super::{Built, Environment, Kept};
use super::{data_layer, effective, profiles};

/// Builds everything `document` asks for, or tells all that is wrong, `m` included.
pub fn build(
    maker: Maker<'_>,
    document: &PickerConfig,
    fingerprint: u64,
    environment: &Environment,
    mut m: Mistakes,
) -> Result<Built, Mistakes> {
    let gates = super::gates(document, environment, &mut m);
    let mut plugins = maker.all(document, &mut m);
    let scheduler = profiles::scheduler(
        document,
        &mut plugins,
        |type_name| maker.injected(type_name),
        &mut m,
    );
    let discovery = data_layer::discovery(document, &plugins, &mut m);
    let scraping = data_layer::scraping(document, &plugins, &mut m);
    if let Some(reference) = &document.saturation.plugin_ref {
        let text = "detectors are not plugins yet: set the thresholds of saturationDetector instead";
        m.add(reference.at, reference.path.clone(), text);
    }
    let (Some(scheduler), true) = (scheduler, m.list.is_empty()) else {
        return Err(m);
    };
    let mut warnings = warnings(document, &gates);
    warnings.extend(data_layer::unused(document, &plugins));
    let detector = detector(document, environment);
    let overrides = format!("{fingerprint:x} {gates:?} {detector:?}");
    let hash = format!("{:016x}", xxhash_rust::xxh64::xxh64(overrides.as_bytes(), 0));
    let kept = maker.made.into_inner();
    let effective = effective::document(&kept, &scheduler, &detector, &gates, discovery.as_ref());
    Ok(Built {
        effective,
        kept,
        scheduler,
        plugins,
        detector,
        gates,
        discovery,
        scraping,
        warnings,
        hash,
    })
}

/// Makes plugins, or goes on with those that run.
pub struct Maker<'a> {
    registry: &'a Registry,
    metrics: &'a Arc<Metrics>,
    clock: &'a Clock,
    running: &'a Kept,
    made: RefCell<Kept>,
}

impl<'a> Maker<'a> {
    /// A maker that goes on with the plugins of `running` where nothing about them has changed.
    pub fn new(
        registry: &'a Registry,
        metrics: &'a Arc<Metrics>,
        clock: &'a Clock,
        running: &'a Kept,
    ) -> Self {
        Maker {
            registry,
            metrics,
            clock,
            running,
            made: RefCell::default(),
        }
    }

    /// The instance of that name, type and parameters: the running one, or a new one.
    fn instance(
        &self,
        name: &str,
        plugin: &PluginType,
        params: &Params,
    ) -> Result<PluginInstance, ParamsError> {
        let instance = match self.running.find(name, plugin.name, params) {
            Some(running) => running,
            None => PluginInstance {
                name: name.into(),
                type_name: plugin.name,
                roles: (plugin.make)(&self.context(name), params)?,
            },
        };
        self.made.borrow_mut().add(&instance, params);
        Ok(instance)
    }

    fn context(&self, name: &str) -> Context {
        Context {
            name: name.into(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    /// The configured plugins, in order. A plugin that cannot be made leaves a gap that is not reported again.
    fn all(&self, document: &PickerConfig, m: &mut Mistakes) -> Vec<PluginInstance> {
        let mut names = BTreeSet::new();
        let mut plugins = Vec::new();
        for entry in &document.plugins {
            if !names.insert(entry.name.as_str()) {
                m.add(
                    entry.at,
                    entry.path.clone(),
                    format!("duplicate plugin name '{}'", entry.name),
                );
                continue;
            }
            plugins.extend(self.one(entry, m));
        }
        plugins
    }

    fn one(&self, entry: &PluginEntry, m: &mut Mistakes) -> Option<PluginInstance> {
        let Some(plugin) = self.registry.get(&entry.type_name) else {
            let hint = self.registry.hint(&entry.type_name);
            let text = format!("plugin type '{}' is not registered{hint}", entry.type_name);
            m.add(entry.at, entry.path.clone(), text);
            return None;
        };
        let path = format!("{}.parameters", entry.path);
        let known = plugin.param_names();
        let at = entry.parameters.as_ref().map_or(entry.at, |p| p.at);
        if let Some(Value::Map(map)) = entry.parameters.as_ref().map(|p| &p.value) {
            let mut unknown = false;
            for (key, place, _) in map
                .iter()
                .filter(|(k, ..)| !known.iter().any(|n| n.eq_ignore_ascii_case(k)))
            {
                unknown = true;
                let hint = suggest::hint(key, known.iter().copied());
                m.add(
                    *place,
                    format!("{path}.{key}"),
                    format!("unknown parameter \"{key}\"{hint}"),
                );
            }
            if unknown {
                return None;
            }
        }
        let params = Params::new(entry.parameters.as_ref().map(crate::api::document::Node::to_json));
        match self.instance(&entry.name, plugin, &params) {
            Ok(instance) => Some(instance),
            Err(e) => {
                let head = format!(
                    "failed to create plugin '{}' (type: {})",
                    entry.name, entry.type_name
                );
                for reason in e.0 {
                    m.add(at, path.clone(), format!("{head}: {reason}"));
                }
                None
            }
        }
    }

    /// A plugin nobody configured, made with its defaults.
    fn injected(&self, type_name: &str) -> Option<PluginInstance> {
        let plugin = self.registry.get(type_name)?;
        self.instance(type_name, plugin, &Params::default()).ok()
    }
}

fn detector(document: &PickerConfig, environment: &Environment) -> UtilizationDetector {
    let (file, default) = (&document.saturation, UtilizationDetector::default());
    UtilizationDetector {
        queue_depth_threshold: environment
            .queue_depth
            .or(file.queue_depth_threshold)
            .unwrap_or(default.queue_depth_threshold),
        kv_cache_util_threshold: environment
            .kv_cache_util
            .or(file.kv_cache_util_threshold)
            .unwrap_or(default.kv_cache_util_threshold),
        metrics_staleness_threshold: environment
            .staleness
            .or(file.metrics_staleness_threshold)
            .unwrap_or(default.metrics_staleness_threshold),
    }
}

/// What was asked for and is not built yet is said, never silently ignored.
fn warnings(document: &PickerConfig, gates: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for gate in gates {
        match gate.as_str() {
            "flowControl" => {
                out.push(
                    "flow control is not built yet: requests are admitted by the legacy rule".to_owned(),
                );
            }
            "prepareDataPlugins" => {
                out.push("there are no prepare-data plugins yet: the gate has no effect".into())
            }
            _ => {}
        }
    }
    for section in &document.idle_sections {
        out.push(format!("{section} is checked and has no effect yet"));
    }
    out
}
