//! Why `epp` cannot run.

use std::io;

use crate::datalayer::PollerError;
use crate::discovery::file::LoadError;
use crate::kubernetes::ConnectError;
use crate::net::listen::BindError;
use crate::net::tls::TlsError;
use crate::telemetry::spans::ExportError;

use super::shutdown::Cut;
use super::tasks::Failed;

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
        "{0}. Endpoints come from a cluster (run in one, or set KUBECONFIG), or from a file: name it in the \
         configuration with a file-discovery plugin (dataLayer.discovery.pluginRef); see config/standalone-file.yaml"
    )]
    Cluster(#[from] ConnectError),
    /// A part that must run as long as the process ended.
    #[error("{0}")]
    Task(#[from] Failed),
    /// Another replica leads.
    #[error("leader election lost")]
    LeadershipLost,
    /// The endpoints file is wrong.
    #[error("{0}")]
    Discovery(#[from] LoadError),
    /// Metric specs of the command line are wrong.
    #[error("{}", .0.join("\n"))]
    MetricSpecs(Vec<String>),
    /// The poller cannot be built.
    #[error("{0}")]
    Poller(#[from] PollerError),
    /// A changed configuration asks for what only a restart can do.
    #[error("{0}")]
    NeedsRestart(String),
    /// A certificate cannot be had.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// Spans cannot be sent.
    #[error("{0}")]
    Tracing(#[from] ExportError),
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
