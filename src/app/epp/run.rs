//! The run of `epp`: build everything, bind, serve, drain.
//!
//! Threads: `--threads` workers, each a runtime of its own that serves ext_proc connections; one control thread
//! for everything else (accepting, discovery, scraping, health, metrics), so that none of it holds up a request.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::debug::DebugPages;
use crate::admin::health::{self, HealthService, HealthState};
use crate::admin::metrics_page::{self, MetricsPage};
use crate::base::clock::Clock;
use crate::config::{self, Built, Environment as ConfigEnvironment};
use crate::datalayer::{Engines, FlagSpecs, MetricsSource, Poller, PollerError, PollerSettings, PoolGauges};
use crate::datastore::{Change, Datastore};
use crate::discovery::file::{FileDiscovery, LoadError};
use crate::extproc::{ExtProcService, Limits};
use crate::model::active_config::{ActiveConfig, ConfigState};
use crate::net::accept;
use crate::net::listen::{self, BindError, Reach};
use crate::net::tls::{self, CurrentCertificate, TlsError};
use crate::plugin::{EndpointObserver, PluginInstance};
use crate::requestcontrol::{DecisionRing, Director, DirectorParts};
use crate::telemetry::logging;
use crate::telemetry::metrics::Metrics;

use super::settings::{ConfigSource, Settings};
use super::shutdown::{self, Cut};
use super::workers::{self, Workers};

/// Why `epp` cannot run; the variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Logging could not be started.
    #[error("logging: {0}")]
    Logging(String),
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {0} (--config-file): {1}")]
    ReadConfig(String, #[source] io::Error),
    /// The configuration is wrong; the text lists every mistake.
    #[error("{0}")]
    Config(String),
    /// Neither a pool, a selector nor a file of endpoints.
    #[error("{0}")]
    Identity(String),
    /// There is nowhere to get endpoints from.
    #[error(
        "endpoints cannot be watched in a cluster yet: list them in a file and name it in the configuration with a \
         file-discovery plugin (dataLayer.discovery.pluginRef); see config/standalone-file.yaml"
    )]
    NoDiscovery,
    /// The endpoints file is wrong.
    #[error("{0}")]
    Discovery(#[from] LoadError),
    /// Metric specs of the command line are wrong.
    #[error("{}", .0.join("\n"))]
    MetricSpecs(Vec<String>),
    /// The poller cannot be built.
    #[error("{0}")]
    Poller(#[from] PollerError),
    /// A certificate cannot be had.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A port cannot be opened.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// Draining was cut short.
    #[error("stopped before every stream had finished: {0}")]
    Cut(#[from] Cut),
    /// A runtime or a thread could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

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
    let built = configure(&settings, &metrics, &clock)?;
    let datastore = Arc::new(Datastore::new(settings.file_pool_name()));
    let Some(file) = &built.discovery else {
        settings.require_pool_identity().map_err(RunError::Identity)?;
        return Err(RunError::NoDiscovery);
    };
    let discovery = FileDiscovery::load(file.clone(), datastore.clone())?;
    let poller = Poller::new(
        poller_settings(&settings, &built)?,
        datastore.clone(),
        clock.clone(),
    )?;
    let tls = certificate(&settings)?;
    let ports = Ports::bind(&settings)?;
    announce(&settings, &built, &datastore);

    let observers = observers(&built.plugins);
    let state = Arc::new(HealthState::new(false));
    let store = datastore.clone();
    metrics.endpoint_queues(datastore.pool_name(), move || {
        let queue =
            |e: &Arc<crate::model::endpoint::Endpoint>| (e.spec.name.clone(), e.sample().waiting.into());
        store.fleet().endpoints.iter().map(queue).collect()
    });
    let decisions = Arc::new(DecisionRing::new(settings.debug_decisions));
    let state_of_config = Arc::new(ConfigState::new(active(&settings, &built)));
    let director = Arc::new(Director::new(DirectorParts {
        datastore: datastore.clone(),
        scheduler: built.scheduler,
        plugins: built.plugins,
        detector: built.detector,
        decisions: decisions.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        ignore_subset: settings.ignore_subset,
    }));
    let shown = director.clone();
    let pages = DebugPages {
        datastore: datastore.clone(),
        decisions,
        config: state_of_config,
        plan: Box::new(move || shown.plan().clone()),
        registry: config::registry(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        flags: settings.flags.clone(),
        stale_after: settings.gauges_staleness,
    };
    let limits = Limits {
        max_request_body: settings.max_request_body,
    };
    let health_here = settings
        .health_checking
        .then(|| workers::health_routes(HealthService::for_ext_proc_port()));
    let service = ExtProcService::new(director, limits, settings.max_message, health_here);
    let drain = CancellationToken::new();
    let workers = Workers::start(settings.threads, &service, tls.as_ref(), &drain)?;

    let background = CancellationToken::new();
    let gauges = PoolGauges {
        datastore: datastore.clone(),
        metrics: metrics.clone(),
        clock,
        interval: settings.gauges_interval,
        staleness: settings.gauges_staleness,
    };
    let follow = state.clone();
    let followed = datastore.clone();
    tokio::spawn(async move { follow.follow(&followed).await });
    tokio::spawn(poller.run(background.clone()));
    tokio::spawn(gauges.run(background.clone()));
    tokio::spawn(discovery.watch(move |change| tell(&observers, change), background.clone()));
    let page = MetricsPage::open(metrics)
        .with_debug(pages)
        .with_profiling(settings.pprof);
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
    tokio::spawn(accept::run(ports.grpc, workers.sockets.clone(), drain.clone()));

    shutdown::first_signal().await?;
    tracing::info!(timeout = ?settings.drain_timeout, "Draining: no longer ready, open streams may finish");
    state.set_draining();
    drain.cancel();
    let drained = shutdown::drained(workers.finished(), settings.drain_timeout).await;
    background.cancel();
    drained?;
    tracing::info!("Stopped, every stream finished");
    Ok(())
}

/// The configuration as the debug pages show it.
fn active(settings: &Settings, built: &Built) -> ActiveConfig {
    let source = match &settings.config {
        ConfigSource::BuiltIn => "built-in configuration".to_owned(),
        ConfigSource::Text(_) => "--config-text".to_owned(),
        ConfigSource::File(path) => path.display().to_string(),
    };
    let plugin = |p: &PluginInstance| serde_json::json!({"name": &*p.name, "type": p.type_name});
    ActiveConfig {
        hash: built.hash.clone(),
        source,
        since: std::time::SystemTime::now(),
        effective: serde_json::json!({
            "featureGates": built.gates,
            "plugins": built.plugins.iter().map(plugin).collect::<Vec<_>>(),
        }),
        applied: 1,
        refused: None,
    }
}

fn configure(settings: &Settings, metrics: &Arc<Metrics>, clock: &Clock) -> Result<Built, RunError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|e| RunError::ReadConfig(path.display().to_string(), e));
    let source = match &settings.config {
        ConfigSource::BuiltIn => config::Source::BuiltIn,
        ConfigSource::Text(text) => config::Source::Text {
            name: "--config-text".into(),
            bytes: text.clone().into_bytes(),
        },
        ConfigSource::File(path) => config::Source::Text {
            name: path.display().to_string(),
            bytes: read(path)?,
        },
    };
    let saturation = settings.environment.saturation;
    let environment = ConfigEnvironment {
        gates: settings.environment.gates.clone(),
        queue_depth: saturation.queue_depth,
        kv_cache_util: saturation.kv_cache_util,
        staleness: saturation.staleness,
    };
    config::build(&source, &environment, metrics, clock).map_err(|e| RunError::Config(e.to_string()))
}

/// What is scraped: flags, overridden by the configured data source and extractor.
fn poller_settings(settings: &Settings, built: &Built) -> Result<PollerSettings, RunError> {
    let extension = |p: &PluginInstance| p.roles.extension.clone();
    let source = built
        .plugins
        .iter()
        .filter_map(extension)
        .find_map(|e| e.downcast::<MetricsSource>().ok());
    let source = source.as_deref().cloned().unwrap_or_default();
    let engines = match &settings.metric_specs {
        Some(specs) => Arc::new(
            Engines::from_flags(FlagSpecs {
                queued: &specs.queued,
                running: &specs.running,
                kv_usage: &specs.kv_usage,
                lora: &specs.lora,
                cache_info: &specs.cache_info,
            })
            .map_err(RunError::MetricSpecs)?,
        ),
        None => {
            let configured = built
                .plugins
                .iter()
                .filter_map(extension)
                .find_map(|e| e.downcast::<Engines>().ok());
            configured.unwrap_or_default()
        }
    };
    let defaults = PollerSettings::default();
    let scheme = settings.metrics_scheme.parse().unwrap_or(defaults.scheme);
    Ok(PollerSettings {
        interval: settings.scrape_interval,
        scheme: source.scheme.unwrap_or(scheme),
        path: source.path.unwrap_or_else(|| settings.metrics_path.clone()),
        insecure_skip_verify: source.insecure_skip_verify.unwrap_or(settings.metrics_insecure),
        engines,
        ..defaults
    })
}

fn certificate(settings: &Settings) -> Result<Option<Arc<rustls::ServerConfig>>, RunError> {
    if !settings.secure {
        return Ok(None);
    }
    let key = match &settings.cert_path {
        Some(folder) => tls::load(folder)?,
        None => tls::self_signed()?,
    };
    Ok(Some(tls::server_config(CurrentCertificate::new(key))?))
}

/// The three listening ports, opened before anything is served.
struct Ports {
    grpc: TcpListener,
    health: TcpListener,
    metrics: TcpListener,
}

impl Ports {
    fn bind(settings: &Settings) -> Result<Self, RunError> {
        let reach = settings.bind.map_or(Reach::Everyone, Reach::Address);
        // With authorization on and no cluster to ask, the page is for this host alone (decision 24).
        let metrics_reach = match reach {
            Reach::Address(ip) if ip.is_loopback() => reach,
            _ if settings.metrics_auth => Reach::Loopback,
            _ => reach,
        };
        let open = |reach, port, flag| -> Result<TcpListener, RunError> {
            Ok(TcpListener::from_std(listen::bind(reach, port, flag)?)?)
        };
        Ok(Ports {
            grpc: open(reach, settings.grpc_port, "grpc-port")?,
            health: open(reach, settings.health_port, "grpc-health-port")?,
            metrics: open(metrics_reach, settings.metrics_port, "metrics-port")?,
        })
    }
}

/// The start-up lines: what runs, and what was asked for and is not there yet.
fn announce(settings: &Settings, built: &Built, datastore: &Datastore) {
    for warning in &built.warnings {
        tracing::warn!("{warning}");
    }
    for flag in &settings.idle_flags {
        tracing::warn!("--{flag}");
    }
    if settings.metrics_auth {
        tracing::info!(
            "There is no cluster to ask who may read metrics: the page is served on loopback only \
             (--metrics-endpoint-auth=false opens it)"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = "file-discovery",
        pool = datastore.pool_name(),
        endpoints = datastore.fleet().endpoints.len(),
        threads = settings.threads,
        tls = settings.secure,
        grpc_port = settings.grpc_port,
        config_hash = built.hash,
        "Starting"
    );
}

fn observers(plugins: &[PluginInstance]) -> Vec<Arc<dyn EndpointObserver>> {
    plugins
        .iter()
        .filter_map(|p| p.roles.endpoint_observer.clone())
        .collect()
}

fn tell(observers: &[Arc<dyn EndpointObserver>], change: &Change) {
    for endpoint in &change.removed {
        for observer in observers {
            observer.endpoint_removed(endpoint);
        }
    }
}
