//! The run of `inference-sim`: get what it answers from, open the ports, serve, stop on a signal.

use std::io;
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::download::{self, DownloadError};
use super::events;
use super::serving::Serving;
use super::settings::Settings;
use super::tls::{self, TlsError};
use crate::net::listen::{self, BindError, Reach};
use crate::net::tls::ServerTls;
use crate::simulator::Config;
use crate::simulator::control::Fields;
use crate::simulator::dataset::{Dataset, DatasetError};
use crate::simulator::machine::Machine;
use crate::simulator::routes;
use crate::simulator::serve::{Limits, serve};
use crate::simulator::server::Simulator;
use crate::simulator::tokenizer::{Tokenizer, TokenizerError};
use crate::telemetry::logging;

/// Why the simulator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port cannot be opened.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// There is no certificate.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The dataset cannot be got.
    #[error("{0}")]
    Download(#[from] DownloadError),
    /// The dataset cannot be used.
    #[error("{0}")]
    Dataset(#[from] DatasetError),
    /// The tokenizer cannot be used.
    #[error("{0}")]
    Tokenizer(#[from] TokenizerError),
    /// The runtime cannot be started.
    #[error("cannot serve: {0}")]
    Serve(#[from] io::Error),
    /// A second signal came before requests under way had ended.
    #[error("stopped by a second signal; requests under way were cut off")]
    Interrupted,
}

/// Serves until SIGINT or SIGTERM; requests under way have a while to end then.
///
/// # Errors
/// What kept it from serving, or a second signal.
pub fn run(settings: Settings) -> Result<(), RunError> {
    // A second start of logging in one process would be a mistake of ours, not of the user.
    let _ = logging::init(settings.serving.log);
    // For the download; a provider that is there already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve_all(settings));
    // Threads that still ask a database do not hold the process up.
    runtime.shutdown_background();
    result
}

async fn serve_all(settings: Settings) -> Result<(), RunError> {
    let mut signals = Signals::new()?;
    if let Ok(shown) = settings.config.machine.reader.read(&Fields::new()) {
        let configuration = Value::Object(shown.shown);
        tracing::info!(json.configuration = %configuration, "Configuration:");
    }
    let ready = tokio::select! {
        ready = prepare(&settings) => ready?,
        () = signals.next() => return Ok(()),
    };
    let tls = settings
        .serving
        .certificate
        .as_ref()
        .map(tls::server_config)
        .transpose()?
        .map(|config| Arc::new(ServerTls::new(config)));
    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    let mut simulators = Vec::new();
    for rank in 0..settings.serving.ranks {
        let port = settings.port + rank;
        let reach = settings.bind.map_or(Reach::Everyone, Reach::Address);
        let listener = TcpListener::from_std(listen::bind(reach, port, "port")?)?;
        let tokenizer = tokenizer(&settings.config, &settings.serving)?;
        let config = of_rank(&settings.config, port, rank);
        let (machine, changes) = Machine::start(config.machine.clone())?;
        changes.map(events::start).transpose()?;
        let simulator = Arc::new(Simulator::new(config, machine, tokenizer, ready.clone()));
        let shown = settings.serving.rank.unwrap_or(rank);
        tracing::info!(
            model = settings.config.model,
            port,
            rank = shown,
            slots = settings.config.machine.engine.max_running,
            kv_cache = settings.config.machine.engine.cache,
            tokenizer = ?simulator.tokenizer,
            tls = tls.is_some(),
            "Serving"
        );
        let router = routes::router(simulator.clone())?;
        servers.spawn(serve(
            listener,
            tls.clone(),
            router,
            Limits::default(),
            stop.clone(),
        ));
        simulators.push(simulator);
    }
    signals.next().await;
    tracing::info!("Stopping: no new requests, those under way may end; a second signal cuts them off");
    simulators.iter().for_each(|s| s.stop());
    stop.cancel();
    tokio::select! {
        () = async { while servers.join_next().await.is_some() {} } => Ok(()),
        () = signals.next() => Err(RunError::Interrupted),
    }
}

/// The settings of the server of this rank, on `port`.
fn of_rank(config: &Config, port: u16, rank: u16) -> Config {
    let mut config = config.clone();
    if let Some((target, _)) = &mut config.machine.events {
        *target = target.of_rank(port, target.rank + rank);
    }
    config.machine.seed = config.machine.seed.wrapping_add(u64::from(rank));
    config.port = port;
    for (name, value) in &mut config.headers {
        if name == "x-inference-port" {
            *value = port.to_string();
        }
    }
    config
}

/// Gets and opens the dataset.
async fn prepare(settings: &Settings) -> Result<Option<Arc<Dataset>>, RunError> {
    let Some(source) = settings.serving.dataset.clone() else {
        return Ok(None);
    };
    if let Some(url) = &settings.serving.dataset_url
        && !source.path.exists()
    {
        download::download(url, &source.path).await?;
    }
    let opened = tokio::task::spawn_blocking(move || Dataset::open(source)).await;
    let dataset = opened.map_err(|e| DatasetError::Thread(e.to_string()))??;
    Ok(Some(Arc::new(dataset)))
}

fn tokenizer(config: &Config, serving: &Serving) -> Result<Tokenizer, RunError> {
    let Some(folder) = &serving.tokenizers else {
        return Ok(Tokenizer::Simple);
    };
    let (tokenizer, file) = Tokenizer::find(&config.model, folder)?;
    if let Some(file) = file {
        tracing::info!(file = %file.display(), "Using the model's own tokenizer");
    }
    Ok(tokenizer)
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
