//! The start-up lines: what runs, and what was asked for and is not there yet.

use crate::datastore::Datastore;

use super::settings::Settings;

/// Says what starts. `config`: hash of the effective configuration, and what its check warned of.
pub fn starting(settings: &Settings, hash: &str, warnings: &[String], datastore: &Datastore) {
    for warning in warnings {
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
        config_hash = hash,
        "Starting"
    );
}
