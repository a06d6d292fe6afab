//! The run of `inference-sim`: open the port, serve, stop on a signal.

use std::io;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::settings::Settings;
use crate::net::listen::{self, BindError, Reach};
use crate::simulator::http::Simulator;
use crate::simulator::kv_events::publisher;
use crate::simulator::machine::Machine;
use crate::telemetry::logging;

/// Why the simulator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The port cannot be opened.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// The runtime cannot be started, or serving failed.
    #[error("cannot serve: {0}")]
    Serve(#[from] io::Error),
}

/// Serves until SIGINT or SIGTERM; requests under way are finished first.
///
/// # Errors
/// What kept it from serving.
pub fn run(settings: Settings) -> Result<(), RunError> {
    // A second start of logging in one process would be a mistake of ours, not of the user.
    let _ = logging::init(logging::Options::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let reach = settings.bind.map_or(Reach::Everyone, Reach::Address);
        let listener = TcpListener::from_std(listen::bind(reach, settings.port, "port")?)?;
        tracing::info!(
            model = settings.config.model,
            port = settings.port,
            slots = settings.config.machine.engine.max_running,
            kv_cache = settings.config.machine.engine.cache,
            "Serving"
        );
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let (machine, events) = Machine::start(settings.config.machine.clone())?;
        if let Some((target, inbox)) = events {
            tokio::spawn(publisher::run(target, inbox));
        }
        let router = Simulator::new(settings.config, machine).router();
        axum::serve(listener, router).with_graceful_shutdown(stop).await?;
        Ok(())
    })
}
