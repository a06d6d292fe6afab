//! Builds the parts of a run, before any of them runs: every mistake of flags, configuration and environment is found here,
//! and the ports are bound.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::clock::Clock;
use crate::config::{self, Kept};
use crate::datalayer::Poller;
use crate::datastore::Datastore;
use crate::discovery::file::FileDiscovery;
use crate::model::health::Standing;
use crate::net::tls::ServerTls;
use crate::requestcontrol::DecisionRing;
use crate::telemetry::metrics::{EndpointHealth, Metrics};
use crate::telemetry::spans::{Exporter, Tracer};

use super::cluster::Cluster;
use super::errors::RunError;
use super::generation::{Generation, Lasting, Live};
use super::ports::Ports;
use super::settings::Settings;
use super::{announce, configure};

/// What a run is made of.
pub struct Parts {
    /// The settings.
    pub settings: Settings,
    /// The configuration as it was read.
    pub source: config::Source,
    /// What every generation stands on.
    pub lasting: Lasting,
    /// What the configuration makes.
    pub live: Live,
    /// The cluster, where endpoints come from one.
    pub cluster: Option<Arc<Cluster>>,
    /// The file, where endpoints come from one.
    pub file: Option<FileDiscovery>,
    /// Scrapes the endpoints.
    pub poller: Poller,
    /// TLS of the ext_proc port.
    pub tls: Option<Arc<ServerTls>>,
    /// The listening ports.
    pub ports: Ports,
    /// Sends spans.
    pub exporter: Option<Exporter>,
}

impl Parts {
    /// Builds them.
    ///
    /// # Errors
    /// What keeps `epp` from starting.
    pub async fn build(settings: Settings) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::default());
        metrics.build_info(option_env!("COMMIT_SHA").unwrap_or(""), env!("CARGO_PKG_VERSION"));
        let clock = Clock::System;
        let source = configure::source(&settings)?;
        let built = configure::build(&source, &settings, &metrics, &clock, &Kept::default())?;
        let cluster = match &built.discovery {
            Some(_) => None,
            None => Some(Arc::new(Cluster::join(&settings).await?)),
        };
        let pool_name = cluster
            .as_ref()
            .map_or(settings.file_pool_name(), |cluster| cluster.name());
        let datastore = Arc::new(Datastore::new(pool_name));
        let file = match &built.discovery {
            Some(file) => Some(FileDiscovery::load(file.clone(), datastore.clone())?),
            None => None,
        };
        let (exporter, tracer) = spans(&settings, &metrics)?;
        let lasting = Lasting {
            decisions: Arc::new(DecisionRing::new(settings.debug_decisions)),
            tracer,
            engines: configure::engines_of_flags(&settings)?,
            metrics: metrics.clone(),
            clock: clock.clone(),
            datastore: datastore.clone(),
        };
        let scraping = configure::poller_settings(&settings, &built.scraping, &lasting.engines);
        let poller = Poller::new(scraping, datastore.clone(), clock)?;
        let tls = match settings.secure {
            true => Some(Arc::new(ServerTls::new(settings.tls.load()?))),
            false => None,
        };
        let ports = Ports::bind(&settings, cluster.is_some())?;
        let (hash, warnings) = (&built.hash, &built.warnings);
        announce::starting(&settings, hash, warnings, &datastore, cluster.as_deref());
        queues_on_page(&metrics, &datastore);
        if settings.endpoint_health.is_some() {
            standings_on_page(&metrics, &datastore);
        }
        let first = Generation::new(built, configure::name(&source), &settings, &lasting);
        let live = Live::new(first, poller.handle(), metrics);
        Ok(Parts {
            settings,
            source,
            lasting,
            live,
            cluster,
            file,
            poller,
            tls,
            ports,
            exporter,
        })
    }
}

fn queues_on_page(metrics: &Metrics, datastore: &Arc<Datastore>) {
    let store = datastore.clone();
    metrics.endpoint_queues(datastore.pool_name(), move || {
        let fleet = store.fleet();
        let queue =
            |e: &Arc<crate::model::endpoint::Endpoint>| (e.spec.name.clone(), e.sample().waiting.into());
        fleet.endpoints.iter().map(queue).collect()
    });
}

fn standings_on_page(metrics: &Metrics, datastore: &Arc<Datastore>) {
    let store = datastore.clone();
    metrics.endpoint_health(datastore.pool_name(), move || {
        let fleet = store.fleet();
        let standings = [Standing::Healthy, Standing::Suspect, Standing::Down];
        let count = |standing| {
            let endpoints = fleet.endpoints.iter();
            endpoints.filter(|e| e.health.standing() == standing).count() as u64
        };
        EndpointHealth {
            standings: standings.map(|s| (s.name(), count(s))),
            changes: fleet.health_changes.load(Ordering::Relaxed),
        }
    });
}

/// The exporter and its tracer, where tracing is on and the environment asks for it.
fn spans(settings: &Settings, metrics: &Arc<Metrics>) -> Result<(Option<Exporter>, Tracer), RunError> {
    let Some(asked) = settings.tracing.as_ref() else {
        return Ok((None, Tracer::default()));
    };
    let (exporter, tracer) = Exporter::start(asked, env!("CARGO_PKG_VERSION"), metrics)?;
    Ok((Some(exporter), tracer))
}
