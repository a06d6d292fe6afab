//! The configuration of the settings, loaded and checked: at start-up, for every change of the file, and by
//! `epp check`.

use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::regular_file;
use crate::config::{self, Built, Environment, Kept};
use crate::datalayer::{Engines, FlagSpecs, PollerSettings};
use crate::telemetry::metrics::Metrics;
use crate::wire::yaml;

use super::errors::RunError;
use super::settings::{ConfigSource, Settings};

/// The source as the loader takes it, read if it is a file.
///
/// # Errors
/// The file cannot be read.
pub fn source(settings: &Settings) -> Result<config::Source, RunError> {
    Ok(match &settings.config {
        ConfigSource::BuiltIn => config::Source::BuiltIn,
        ConfigSource::Text(text) => config::Source::Text {
            name: "--config-text".into(),
            bytes: text.clone().into_bytes(),
        },
        ConfigSource::File(path) => config::Source::Text {
            name: path.display().to_string(),
            bytes: read(path)?,
        },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, RunError> {
    regular_file::read(path, yaml::MAX_BYTES as u64)
        .map_err(|e| RunError::ReadConfig(path.display().to_string(), e))
}

/// Builds `source`, going on with the plugins of `running` that are the same in it.
///
/// # Errors
/// Every mistake.
pub fn build(
    source: &config::Source,
    settings: &Settings,
    metrics: &Arc<Metrics>,
    clock: &Clock,
    running: &Kept,
) -> Result<Built, RunError> {
    let saturation = settings.environment.saturation;
    let environment = Environment {
        gates: settings.environment.gates.clone(),
        queue_depth: saturation.queue_depth,
        kv_cache_util: saturation.kv_cache_util,
        staleness: saturation.staleness,
    };
    config::rebuild(source, &environment, metrics, clock, running)
        .map_err(|e| RunError::Config(e.to_string()))
}

/// What a source is called in messages.
pub fn name(source: &config::Source) -> &str {
    match source {
        config::Source::BuiltIn => "built-in configuration",
        config::Source::Text { name, .. } => name,
    }
}

/// The engines where the configuration has none: those of the v0.5.0 flags, else the built-in ones.
///
/// # Errors
/// Every flag that cannot be read.
pub fn engines_of_flags(settings: &Settings) -> Result<Arc<Engines>, RunError> {
    let Some(specs) = &settings.metric_specs else {
        return Ok(Arc::default());
    };
    let engines = Engines::from_flags(FlagSpecs {
        queued: &specs.queued,
        running: &specs.running,
        kv_usage: &specs.kv_usage,
        lora: &specs.lora,
        cache_info: &specs.cache_info,
    });
    Ok(Arc::new(engines.map_err(RunError::MetricSpecs)?))
}

/// What is scraped and how: flags, overridden by the configured data source and extractor. Where metric flags
/// are given, they win over the extractor.
pub fn poller_settings(
    settings: &Settings,
    scraping: &config::Scraping,
    of_flags: &Arc<Engines>,
) -> PollerSettings {
    let source = scraping.source.as_deref().cloned().unwrap_or_default();
    let configured = scraping
        .engines
        .clone()
        .filter(|_| settings.metric_specs.is_none());
    let defaults = PollerSettings::default();
    let scheme = settings.metrics_scheme.parse().unwrap_or(defaults.scheme);
    PollerSettings {
        interval: settings.scrape_interval,
        health: settings.endpoint_health,
        scheme: source.scheme.unwrap_or(scheme),
        path: source.path.unwrap_or_else(|| settings.metrics_path.clone()),
        insecure_skip_verify: source.insecure_skip_verify.unwrap_or(settings.metrics_insecure),
        engines: configured.unwrap_or_else(|| of_flags.clone()),
        ..defaults
    }
}
