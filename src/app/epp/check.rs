//! `epp check`: is a configuration good, and what does it come to? Loads it as a start would, binds nothing.

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::config::Kept;
use crate::datastore::Datastore;
use crate::discovery::file::{FileDiscovery, LoadError};
use crate::telemetry::metrics::Metrics;

use super::configure;
use super::errors::RunError;
use super::settings::{ConfigSource, Settings};

/// What a good configuration comes to.
#[derive(Debug)]
pub struct Checked {
    /// The effective configuration in YAML, after a comment with its hash.
    pub effective: String,
    /// What was asked for and has no effect, and what could not be checked here.
    pub warnings: Vec<String>,
}

/// Checks the configuration of `settings`, the file of endpoints it names (if it is here) and the certificate
/// folder.
///
/// # Errors
/// Every mistake.
pub fn check(settings: &Settings) -> Result<Checked, RunError> {
    if settings.config == ConfigSource::BuiltIn {
        let text = "nothing to check: name a configuration with --config-file or --config-text";
        return Err(RunError::Config(text.into()));
    }
    let metrics = Arc::new(Metrics::default());
    let source = configure::source(settings)?;
    let mut built = configure::build(&source, settings, &metrics, &Clock::System, &Kept::default())?;
    configure::engines_of_flags(settings)?;
    if let Some(file) = built.discovery.take() {
        let path = file.path.clone();
        match FileDiscovery::load(file, Arc::new(Datastore::new("check"))) {
            Ok(_) => {}
            // It may exist only where epp will run.
            Err(error @ LoadError::Read { .. }) => built.warnings.push(format!("not checked: {error}")),
            Err(error @ LoadError::Wrong(_)) => {
                return Err(RunError::Config(format!(
                    "the endpoints file {}:\n{error}",
                    path.display()
                )));
            }
        }
    }
    if settings.secure && settings.tls.folder.is_some() {
        settings.tls.load()?;
    }
    let yaml = serde_saphyr::to_string(&built.effective)
        .map_err(|e| RunError::Config(format!("the effective configuration cannot be written: {e}")))?;
    Ok(Checked {
        effective: format!(
            "# {}: good; config_hash {}\n{yaml}",
            configure::name(&source),
            built.hash
        ),
        warnings: built.warnings,
    })
}
