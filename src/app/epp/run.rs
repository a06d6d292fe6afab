//! The run of `epp`: build everything, bind, serve, drain.
//!
//! Threads: `--threads` workers, each a runtime of its own that serves ext_proc connections; one control thread
//! for everything else (accepting, discovery, scraping, health, metrics), so that none of it holds up a request.
//!
//! What is built once is made here; what a configuration makes is a [`Generation`], replaced while it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::debug::DebugPages;
use crate::admin::health::{self, HealthService, HealthState};
use crate::admin::metrics_page::{self, MetricsPage};
use crate::base::clock::Clock;
use crate::config::{self, Kept};
use crate::datalayer::{Poller, PoolGauges};
use crate::datastore::Datastore;
use crate::discovery::file::FileDiscovery;
use crate::extproc::{ExtProcService, Limits};
use crate::kubernetes::lease::Outcome;
use crate::net::accept;
use crate::net::tls::ServerTls;
use crate::net::tls_reload::TlsReloader;
use crate::requestcontrol::DecisionRing;
use crate::telemetry::logging;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::{Exporter, Tracer};

use super::cluster::Cluster;
use super::errors::RunError;
use super::generation::{Generation, Lasting, Live};
use super::ports::Ports;
use super::reload::{self, Reloader};
use super::settings::{ConfigSource, Settings};
use super::shutdown::{self, Cut, Signals};
use super::workers::{self, Workers};
use super::{announce, configure};

/// Longest wait for the collector at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// Runs until the first SIGINT or SIGTERM, then drains; a second one ends the process at once.
///
/// # Errors
/// What kept it from starting.
pub fn run(settings: Settings) -> Result<(), RunError> {
    logging::init(settings.logging).map_err(|e| RunError::Logging(e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), RunError> {
    // Once per process, and before any TLS client is built.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let metrics = Arc::new(Metrics::default());
    metrics.build_info(option_env!("COMMIT_SHA").unwrap_or(""), env!("CARGO_PKG_VERSION"));
    let clock = Clock::System;
    let source = configure::source(&settings)?;
    let built = configure::build(&source, &settings, &metrics, &clock, &Kept::default())?;
    let cluster = match &built.discovery {
        Some(_) => None,
        None => Some(Cluster::join(&settings).await?),
    };
    let pool_name = cluster.as_ref().map_or(settings.file_pool_name(), Cluster::name);
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
    let scraping = configure::poller_settings(&settings, &built.plugins, &lasting.engines);
    let poller = Poller::new(scraping, datastore.clone(), clock.clone())?;
    let tls = tls(&settings)?;
    let ports = Ports::bind(&settings, cluster.is_some())?;
    announce::starting(
        &settings,
        &built.hash,
        &built.warnings,
        &datastore,
        cluster.as_ref(),
    );

    let first = Generation::new(built, configure::name(&source), &settings, &lasting);
    let live = Live::new(first, poller.handle(), metrics.clone());
    let election = cluster.as_ref().filter(|_| settings.leader_election);
    let state = Arc::new(HealthState::new(election.is_some()));
    queues_on_page(&metrics, &datastore);
    let pages = explain(&settings, &lasting, &live);
    let limits = Limits {
        max_request_body: settings.max_request_body,
    };
    let health_here = settings
        .health_checking
        .then(|| workers::health_routes(HealthService::for_ext_proc_port()));
    let service = ExtProcService::new(live.directors.clone(), limits, settings.max_message, health_here);
    let drain = CancellationToken::new();
    let mut signals = Signals::listen()?;
    let workers = Workers::start(settings.threads, &service, tls.as_ref(), &drain)?;

    let background = CancellationToken::new();
    let gauges = PoolGauges {
        datastore: datastore.clone(),
        metrics: metrics.clone(),
        clock,
        interval: settings.gauges_interval,
        staleness: settings.gauges_staleness,
    };
    let (follow, followed) = (state.clone(), datastore.clone());
    tokio::spawn(async move { follow.follow(&followed).await });
    tokio::spawn(poller.run(background.clone()));
    tokio::spawn(gauges.run(background.clone()));
    if let Some(file) = file {
        tokio::spawn(file.watch(live.tell(), background.clone()));
    }
    if let Some(cluster) = &cluster {
        let discovery = cluster.discovery(datastore.clone());
        tokio::spawn(discovery.run(live.tell(), background.clone()));
    }
    let page = match cluster.as_ref().filter(|_| settings.metrics_auth) {
        Some(cluster) => MetricsPage::reviewed(metrics, cluster.reviewer()),
        None => MetricsPage::open(metrics),
    };
    let page = page.with_debug(pages).with_profiling(settings.pprof);
    tokio::spawn(metrics_page::serve(
        ports.metrics,
        page,
        metrics_page::Limits::default(),
        background.clone(),
    ));
    tokio::spawn(health::serve(
        ports.health,
        HealthService::new(&state),
        background.clone(),
    ));
    if let Some(tls) = tls.filter(|_| settings.cert_reload) {
        let reloader = TlsReloader::new(settings.tls.clone(), tls);
        let told = lasting.metrics.clone();
        tokio::spawn(reloader.follow(move |good| told.certificate_reloaded(good), background.clone()));
    }
    tokio::spawn(accept::run(ports.grpc, workers.sockets.clone(), drain.clone()));
    let drain_timeout = settings.drain_timeout;
    let step_down = CancellationToken::new();
    let mut leading = std::pin::pin!(lead(election, state.clone(), step_down.clone()));
    if let ConfigSource::File(path) = &settings.config
        && settings.config_reload
    {
        let reloader = Reloader {
            path: path.clone(),
            seen: reload::fingerprint(&source),
            settings,
            lasting,
            live,
        };
        tokio::spawn(reloader.follow(background.clone()));
    }

    let lost = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, timeout = ?drain_timeout, "Draining: no longer ready, open streams may finish");
            false
        }
        outcome = &mut leading => {
            tracing::info!(timeout = ?drain_timeout, "Draining: no longer the leader, open streams may finish");
            outcome == Outcome::Lost
        }
    };
    state.set_draining();
    drain.cancel();
    step_down.cancel();
    let drained = async {
        // The lease goes first: the next leader gets ready while our streams finish.
        if !lost {
            leading.await;
        }
        workers.finished().await;
    };
    let drained = shutdown::drained(drained, drain_timeout, &mut signals).await;
    background.cancel();
    if let Some(exporter) = exporter
        && drained != Err(Cut::Signal)
    {
        tokio::select! {
            () = exporter.stop(FLUSH) => {}
            _ = signals.next() => {}
        }
    }
    drained?;
    if lost {
        return Err(RunError::LeadershipLost);
    }
    tracing::info!("Stopped, every stream finished");
    Ok(())
}

/// Takes part in the election, if there is one, until `stop` or until the lease is lost.
async fn lead(election: Option<&Cluster>, state: Arc<HealthState>, stop: CancellationToken) -> Outcome {
    let Some(cluster) = election else {
        stop.cancelled().await;
        return Outcome::Stopped;
    };
    cluster
        .candidate()
        .run(move |leads| state.set_leader(leads), stop)
        .await
}

/// What the explain pages look at.
fn explain(settings: &Settings, lasting: &Lasting, live: &Live) -> DebugPages {
    let directors = live.directors.clone();
    DebugPages {
        datastore: lasting.datastore.clone(),
        decisions: lasting.decisions.clone(),
        config: live.state.clone(),
        plan: Box::new(move || directors.load().plan().clone()),
        registry: config::registry(),
        metrics: lasting.metrics.clone(),
        clock: lasting.clock.clone(),
        flags: settings.flags.clone(),
        stale_after: settings.gauges_staleness,
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

/// The exporter and its tracer, where tracing is on and the environment asks for it.
fn spans(settings: &Settings, metrics: &Arc<Metrics>) -> Result<(Option<Exporter>, Tracer), RunError> {
    let Some(asked) = settings.tracing.as_ref() else {
        return Ok((None, Tracer::default()));
    };
    let (exporter, tracer) = Exporter::start(asked, env!("CARGO_PKG_VERSION"), metrics)?;
    Ok((Some(exporter), tracer))
}

fn tls(settings: &Settings) -> Result<Option<Arc<ServerTls>>, RunError> {
    if !settings.secure {
        return Ok(None);
    }
    Ok(Some(Arc::new(ServerTls::new(settings.tls.load()?))))
}
