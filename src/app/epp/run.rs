//! The run of `epp`: build everything, bind, serve, drain.
//!
//! Threads: `--threads` workers, each a runtime of its own that serves ext_proc connections; one that scrapes; one
//! control thread for everything else (accepting, discovery, health, metrics), so that none of it holds up a request.
//! The parts are watched: one that ends while it is needed ends the process, after a drain.
//!
//! What is built once is made by [`Parts`]; what a configuration makes is a `Generation`, replaced while it runs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::debug::DebugPages;
use crate::admin::health::{self, HealthService, HealthState};
use crate::admin::metrics_page::{self, MetricsPage};
use crate::config;
use crate::datalayer::PoolGauges;
use crate::discovery::file::FileDiscovery;
use crate::extproc::{ExtProcService, Limits};
use crate::kubernetes::lease::Outcome;
use crate::net::accept;
use crate::net::incoming::HANDSHAKE_TIMEOUT;
use crate::net::places::{self, Places};
use crate::net::tls::ServerTls;
use crate::net::tls_reload::TlsReloader;
use crate::telemetry::logging;
use crate::telemetry::metrics::connections::Port;
use crate::telemetry::spans::Exporter;

use super::cluster::Cluster;
use super::descriptors::{self, Shares};
use super::errors::RunError;
use super::generation::{Lasting, Live};
use super::parts::Parts;
use super::reload::{self, Reloader};
use super::settings::{ConfigSource, Settings};
use super::shutdown::{Cut, Drain, Signals};
use super::streams;
use super::tasks::Tasks;
use super::workers;

/// Longest wait for the collector at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// Runs until the first SIGINT or SIGTERM, then drains; a second one ends the process at once.
///
/// # Errors
/// What kept it from starting, or ended it.
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
    let descriptors = descriptors::raise();
    let mut parts = Parts::build(settings).await?;
    let signals = Signals::listen()?;
    let shares = descriptors::share(descriptors, parts.settings.max_connections);
    announce_limit(&parts.settings, shares, descriptors);
    let election = parts.cluster.clone().filter(|_| parts.settings.leader_election);
    let drain = Drain {
        timeout: parts.settings.drain_timeout,
        quiet: parts.settings.drain_quiet,
    };
    let exporter = parts.exporter.take();
    let state = Arc::new(HealthState::new(election.is_some()));
    let step_down = CancellationToken::new();
    let leading = Box::pin(lead(election, state.clone(), step_down.clone()));
    let running = Running::start(parts, shares, state, signals)?;
    running.until_the_end(leading, step_down, drain, exporter).await
}

fn announce_limit(settings: &Settings, shares: Shares, descriptors: u64) {
    if shares.ext_proc < settings.max_connections {
        tracing::warn!(
            descriptors,
            wanted = settings.max_connections,
            limit = shares.ext_proc,
            "Connections are limited by the process's file descriptors (ulimit -n): half of them are for ext_proc"
        );
    }
}

/// Takes part in the election, if there is one, until `stop` or until the lease is lost.
async fn lead(election: Option<Arc<Cluster>>, state: Arc<HealthState>, stop: CancellationToken) -> Outcome {
    let Some(cluster) = election else {
        stop.cancelled().await;
        return Outcome::Stopped;
    };
    cluster
        .candidate()
        .run(move |leads| state.set_leader(leads), stop)
        .await
}

/// A process that serves.
struct Running {
    tasks: Tasks,
    /// Connections to the ext_proc port.
    places: Arc<Places>,
    state: Arc<HealthState>,
    signals: Signals,
    /// Cancelled when the ext_proc port takes no more connections.
    closed: CancellationToken,
    /// Cancelled when all else ends.
    background: CancellationToken,
}

impl Running {
    /// Starts everything.
    ///
    /// # Errors
    /// A thread cannot be started.
    fn start(
        parts: Parts,
        shares: Shares,
        state: Arc<HealthState>,
        signals: Signals,
    ) -> Result<Self, RunError> {
        let Parts {
            settings,
            source,
            lasting,
            live,
            cluster,
            file,
            poller,
            tls,
            ports,
            ..
        } = parts;
        let limits = places::Limits {
            connections: shares.ext_proc,
            spare_busy: true,
            begin: HANDSHAKE_TIMEOUT,
            idle: settings.connection_idle,
        };
        let mut running = Running {
            tasks: Tasks::default(),
            places: Places::new(Port::ExtProc, limits, lasting.metrics.connections()),
            state,
            signals,
            closed: CancellationToken::new(),
            background: CancellationToken::new(),
        };
        running.follow_endpoints(&lasting, &live, cluster.as_deref(), file);
        running
            .tasks
            .spawn_thread("scraping", "scrape", poller.run(running.background.clone()))?;
        running.gauges(&settings, &lasting);
        running.serve_ext_proc(&settings, (&lasting, &live), tls.as_ref(), ports.grpc)?;
        let reviewed = cluster.filter(|_| settings.metrics_auth);
        let page = match reviewed {
            Some(cluster) => MetricsPage::reviewed(lasting.metrics.clone(), cluster.reviewer()),
            None => MetricsPage::open(lasting.metrics.clone()),
        };
        let page = page
            .with_debug(explain(&settings, &lasting, &live))
            .with_profiling(settings.pprof);
        running.serve_operators(page, shares, &lasting, ports.health, ports.metrics);
        running.follow_files(settings, source, lasting, live, tls);
        Ok(running)
    }

    fn follow_endpoints(
        &mut self,
        lasting: &Lasting,
        live: &Live,
        cluster: Option<&Cluster>,
        file: Option<FileDiscovery>,
    ) {
        let (state, datastore) = (self.state.clone(), lasting.datastore.clone());
        self.tasks
            .spawn("readiness", async move { state.follow(&datastore).await });
        if let Some(file) = file {
            let stop = self.background.clone();
            let watched = file.watch(live.tell(), stop.clone());
            self.tasks.spawn("following the endpoints file", async move {
                watched.await;
                // Without `watchFile` there is nothing to follow.
                stop.cancelled().await;
            });
        }
        if let Some(cluster) = cluster {
            let discovery = cluster.discovery(lasting.datastore.clone());
            let run = discovery.run(live.tell(), self.background.clone());
            self.tasks.spawn("discovery", run);
            let heartbeat = cluster.heartbeat(self.background.clone());
            self.tasks.spawn("asking the API server", heartbeat);
            let contact = cluster.contact();
            lasting.metrics.api_server(move || contact.age());
        }
    }

    fn gauges(&mut self, settings: &Settings, lasting: &Lasting) {
        let gauges = PoolGauges {
            datastore: lasting.datastore.clone(),
            metrics: lasting.metrics.clone(),
            clock: lasting.clock.clone(),
            interval: settings.gauges_interval,
            staleness: settings.gauges_staleness,
        };
        self.tasks.spawn(
            "refreshing the pool's gauges",
            gauges.run(self.background.clone()),
        );
    }

    fn serve_ext_proc(
        &mut self,
        settings: &Settings,
        (lasting, live): (&Lasting, &Live),
        tls: Option<&Arc<ServerTls>>,
        port: TcpListener,
    ) -> Result<(), RunError> {
        let limits = Limits {
            max_request_body: settings.max_request_body,
        };
        let health_here = settings
            .health_checking
            .then(|| tonic::service::Routes::new(HealthService::for_ext_proc_port()));
        let streams = streams::shared(settings, &lasting.metrics);
        let tick = streams::tick(streams.clone(), self.background.clone());
        self.tasks.spawn("limiting streams", tick);
        let directors = live.directors.clone();
        let service = ExtProcService::new(directors, streams, limits, settings.max_message, health_here);
        let workers = workers::start(settings.threads, &service, tls, &mut self.tasks)?;
        let (places, closed, background) =
            (self.places.clone(), self.closed.clone(), self.background.clone());
        let sweep = background.clone();
        let swept = places.clone();
        self.tasks
            .spawn("limiting connections", async move { swept.sweep(sweep).await });
        self.tasks.spawn("accepting ext_proc connections", async move {
            let kept = workers.clone();
            accept::admit(port, places, workers, closed.clone()).await;
            // Closed for a drain: what has been handed over is served on.
            if closed.is_cancelled() {
                background.cancelled().await;
            }
            drop(kept);
        });
        Ok(())
    }

    fn serve_operators(
        &mut self,
        page: MetricsPage,
        shares: Shares,
        lasting: &Lasting,
        health: TcpListener,
        metrics: TcpListener,
    ) {
        let limits = metrics_page::Limits {
            connections: shares.metrics,
            ..metrics_page::Limits::default()
        };
        let served = metrics_page::serve(metrics, page, limits, self.background.clone());
        self.tasks.spawn("the metrics port", served);
        let places = Places::new(
            Port::Health,
            health::limits(shares.health),
            lasting.metrics.connections(),
        );
        let service = HealthService::new(&self.state);
        let served = health::serve(health, service, places, self.background.clone());
        self.tasks.spawn("the health port", served);
    }

    fn follow_files(
        &mut self,
        settings: Settings,
        source: config::Source,
        lasting: Lasting,
        live: Live,
        tls: Option<Arc<ServerTls>>,
    ) {
        if let Some(tls) = tls.filter(|_| settings.cert_reload) {
            let reloader = TlsReloader::new(settings.tls.clone(), tls);
            let told = lasting.metrics.clone();
            let stop = self.background.clone();
            self.tasks.spawn("following the certificate", async move {
                let told = move |good| told.certificate_reloaded(good);
                reloader.follow(told, stop.clone()).await;
                // A self-signed certificate has no files to follow.
                stop.cancelled().await;
            });
        }
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
            let followed = reloader.follow(self.background.clone());
            self.tasks.spawn("following the configuration", followed);
        }
    }

    /// Serves until a signal, the loss of the lease or the end of a part; then drains.
    async fn until_the_end(
        mut self,
        mut leading: Pin<Box<impl Future<Output = Outcome>>>,
        step_down: CancellationToken,
        drain: Drain,
        exporter: Option<Exporter>,
    ) -> Result<(), RunError> {
        let timeout = drain.timeout;
        let mut leads = true;
        let ending = tokio::select! {
            signal = self.signals.next() => {
                tracing::info!(signal, ?timeout, "Draining: no longer ready, requests are served on for a while");
                Ok(())
            }
            outcome = &mut leading => {
                leads = false;
                tracing::info!(?timeout, "Draining: no longer the leader, requests are served on for a while");
                if outcome == Outcome::Lost { Err(RunError::LeadershipLost) } else { Ok(()) }
            }
            failed = self.tasks.failed() => {
                tracing::error!(error = %failed, ?timeout, "Draining: no longer ready, then the process ends with an error");
                Err(RunError::Task(failed))
            }
        };
        self.state.set_draining();
        step_down.cancel();
        let drained = async {
            // The lease goes first: the next leader gets ready while our streams finish.
            if leads {
                leading.await;
            }
            drain.run(&self.places, &self.closed).await
        };
        let drained = tokio::select! {
            drained = drained => drained,
            _ = self.signals.next() => Err(Cut::Signal),
        };
        self.background.cancel();
        if let Some(exporter) = exporter
            && drained != Err(Cut::Signal)
        {
            tokio::select! {
                () = exporter.stop(FLUSH) => {}
                _ = self.signals.next() => {}
            }
        }
        ending?;
        drained?;
        tracing::info!("Stopped, every stream finished");
        Ok(())
    }
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
