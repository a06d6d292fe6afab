//! The start-up lines: what runs, and what was asked for and is not there yet.

use crate::datastore::Datastore;

use super::cluster::Cluster;
use super::settings::Settings;

/// Says what starts. `config`: hash of the effective configuration, and what its check warned of. `cluster` is absent
/// where endpoints come from a file.
pub fn starting(
    settings: &Settings,
    hash: &str,
    warnings: &[String],
    datastore: &Datastore,
    cluster: Option<&Cluster>,
) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for flag in &settings.idle_flags {
        tracing::warn!("--{flag}");
    }
    if cluster.is_none() && settings.leader_election {
        tracing::warn!(
            "--ha-enable-leader-election: endpoints come from a file, so there is no cluster to hold an election in; \
             this replica serves"
        );
    }
    if cluster.is_none() && settings.metrics_auth {
        tracing::info!(
            "There is no cluster to ask who may read metrics: the page is served on loopback only \
             (--metrics-endpoint-auth=false opens it)"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = cluster.map_or("file-discovery", Cluster::mode),
        namespace = settings.namespace,
        leader_election = cluster.is_some() && settings.leader_election,
        pool = datastore.pool_name(),
        endpoints = datastore.fleet().endpoints.len(),
        threads = settings.threads,
        tls = settings.secure,
        grpc_port = settings.grpc_port,
        config_hash = hash,
        "Starting"
    );
}
