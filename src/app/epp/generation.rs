//! A generation: what one configuration makes. The first is built at start-up, another for every change of the
//! file that is accepted. New exchanges take the newest; those under way keep theirs until they end.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::base::clock::Clock;
use crate::config::{Built, Kept, Scraping};
use crate::datalayer::{Engines, PollerHandle};
use crate::datastore::{Change, Datastore};
use crate::discovery::file::FileDiscoverySettings;
use crate::model::active_config::{ActiveConfig, ConfigState};
use crate::plugin::{EndpointObserver, PluginInstance};
use crate::requestcontrol::{CurrentDirector, DecisionRing, Director, DirectorParts};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Tracer;

use super::configure;
use super::errors::RunError;
use super::settings::Settings;

/// What is built once and every generation stands on.
#[derive(Clone)]
pub struct Lasting {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
    /// The pool.
    pub datastore: Arc<Datastore>,
    /// Engines where a configuration has none.
    pub engines: Arc<Engines>,
    /// The last decisions, of every generation.
    pub decisions: Arc<DecisionRing>,
    /// Records exchanges.
    pub tracer: Tracer,
}

/// What one configuration made.
pub struct Generation {
    director: Arc<Director>,
    plugins: Vec<PluginInstance>,
    scraping: Scraping,
    kept: Kept,
    active: ActiveConfig,
    discovery: Option<FileDiscoverySettings>,
}

impl Generation {
    /// Puts the parts of `built` together; `source` is what the configuration is called.
    pub fn new(built: Built, source: &str, settings: &Settings, lasting: &Lasting) -> Self {
        let director = Arc::new(Director::new(DirectorParts {
            datastore: lasting.datastore.clone(),
            scheduler: built.scheduler,
            plugins: built.plugins.clone(),
            detector: built.detector,
            decisions: lasting.decisions.clone(),
            metrics: lasting.metrics.clone(),
            clock: lasting.clock.clone(),
            ignore_subset: settings.ignore_subset,
            health: settings.endpoint_health,
            fallbacks: settings.fallback_endpoints,
            tracer: lasting.tracer.clone(),
        }));
        Generation {
            director,
            plugins: built.plugins,
            scraping: built.scraping,
            kept: built.kept,
            active: ActiveConfig {
                hash: built.hash,
                source: source.to_owned(),
                since: SystemTime::now(),
                effective: built.effective,
                applied: 1,
                refused: None,
            },
            discovery: built.discovery,
        }
    }

    fn observers(&self) -> Vec<Arc<dyn EndpointObserver>> {
        let observer = |p: &PluginInstance| p.roles.endpoint_observer.clone();
        self.plugins.iter().filter_map(observer).collect()
    }
}

/// What runs: the newest generation, where everybody who needs a part of it looks.
pub struct Live {
    /// For new exchanges.
    pub directors: Arc<CurrentDirector>,
    /// For the explain pages.
    pub state: Arc<ConfigState>,
    observers: Arc<ArcSwap<Vec<Arc<dyn EndpointObserver>>>>,
    poller: PollerHandle,
    metrics: Arc<Metrics>,
    kept: Kept,
    discovery: Option<FileDiscoverySettings>,
}

impl Live {
    /// The first generation.
    pub fn new(first: Generation, poller: PollerHandle, metrics: Arc<Metrics>) -> Self {
        metrics.config_applied(&first.active.hash, first.active.since);
        Live {
            observers: Arc::new(ArcSwap::from_pointee(first.observers())),
            directors: Arc::new(CurrentDirector::new(first.director)),
            state: Arc::new(ConfigState::new(first.active)),
            poller,
            metrics,
            kept: first.kept,
            discovery: first.discovery,
        }
    }

    /// The plugins that run.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Tells the plugins that run of endpoints that left. To be called with every change of the fleet.
    pub fn tell(&self) -> impl Fn(&Change) + Send + Sync + use<> {
        let observers = self.observers.clone();
        move |change| {
            for endpoint in &change.removed {
                for observer in observers.load().iter() {
                    observer.endpoint_removed(endpoint);
                }
            }
        }
    }

    /// The file holds what is in force (again): nothing is refused any more.
    pub fn settled(&self, at: SystemTime) {
        let now = self.state.load_full();
        self.metrics.config_applied(&now.hash, at);
        self.state.replace(ActiveConfig {
            refused: None,
            ..ActiveConfig::clone(&now)
        });
    }

    /// Puts `next` in force. Returns the last director, to be kept until no exchange does.
    ///
    /// # Errors
    /// Nothing has changed then: what is asked for needs a restart, or the poller cannot be set up.
    pub fn apply(
        &mut self,
        next: Generation,
        settings: &Settings,
        lasting: &Lasting,
    ) -> Result<Arc<Director>, RunError> {
        if next.discovery != self.discovery {
            let text =
                "where endpoints come from (dataLayer.discovery) cannot change while running: restart epp";
            return Err(RunError::NeedsRestart(text.into()));
        }
        let poller = configure::poller_settings(settings, &next.scraping, &lasting.engines);
        self.poller.change(poller)?;
        self.observers.store(Arc::new(next.observers()));
        let last = self.directors.replace(next.director);
        self.metrics.config_applied(&next.active.hash, next.active.since);
        let applied = self.state.load().applied + 1;
        self.state.replace(ActiveConfig {
            applied,
            ..next.active
        });
        self.kept = next.kept;
        Ok(last)
    }
}
