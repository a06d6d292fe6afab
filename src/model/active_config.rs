//! Which configuration is in force, and why the last change of it was refused. Written by `app`, read by the
//! explain pages.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct ActiveConfig {
    /// Hash of the effective configuration, 16 hex digits; the one of the log and of the metrics.
    pub hash: String,
    /// Where it comes from: a path, `--config-text`, or `built-in configuration`.
    pub source: String,
    /// Since when it is in force.
    pub since: SystemTime,
    /// What is in force, defaults and injected plugins included.
    pub effective: serde_json::Value,
    /// Configurations applied since the start, the first one included.
    pub applied: u64,
    /// The change that was refused after this one was applied; `None` when the file holds what is in force.
    pub refused: Option<Refused>,
}

/// A change that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// When.
    pub at: SystemTime,
    /// Every reason, one a line.
    pub reasons: String,
}

/// The holder of the active configuration; share it in an `Arc`.
#[derive(Debug)]
pub struct ConfigState(ArcSwap<ActiveConfig>);

impl ConfigState {
    /// Starts with the first configuration.
    pub fn new(first: ActiveConfig) -> Self {
        ConfigState(ArcSwap::from_pointee(first))
    }

    /// The configuration now.
    pub fn load(&self) -> Guard<Arc<ActiveConfig>> {
        self.0.load()
    }

    /// The same, to keep.
    pub fn load_full(&self) -> Arc<ActiveConfig> {
        self.0.load_full()
    }

    /// Another one is in force.
    pub fn replace(&self, next: ActiveConfig) {
        self.0.store(Arc::new(next));
    }

    /// A change was refused; the running one stays.
    pub fn refuse(&self, refused: Refused) {
        let now = self.0.load();
        self.replace(ActiveConfig {
            refused: Some(refused),
            ..ActiveConfig::clone(&now)
        });
    }
}
