//! `epp` as a part of a cluster: which pool or deployment it stands for, who leads, who may read metrics.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admin::metrics_page::{Reviewer, Verdict};
use crate::api::kubernetes::pool::Pool;
use crate::datastore::Datastore;
use crate::discovery::kubernetes::{ClusterDiscovery, Scope, Source};
use crate::kubernetes;
use crate::kubernetes::contact::Contact;
use crate::kubernetes::lease::{Candidate, Timings};
use crate::kubernetes::review::{Review, Reviews};

use super::errors::RunError;
use super::settings::Settings;

/// The cluster and our place in it.
pub struct Cluster {
    client: Client,
    contact: Arc<Contact>,
    scope: Scope,
    /// Name of the pool, or of the deployment in selector mode.
    name: String,
    /// Of this replica.
    pod_name: Option<String>,
}

impl Cluster {
    /// Finds the cluster. Nothing is asked of it yet: a server that is away is waited for, not a reason to end.
    ///
    /// # Errors
    /// No identity, or no cluster.
    pub async fn join(settings: &Settings) -> Result<Self, RunError> {
        settings.require_pool_identity().map_err(RunError::Identity)?;
        let pod_name = settings.environment.pod_name.clone();
        let (name, source) = if settings.selector.is_empty() {
            let source = Source::Pool {
                name: settings.pool_name.clone(),
                group: settings.pool_group.clone(),
            };
            (settings.pool_name.clone(), source)
        } else {
            let mut selector = settings.selector.clone();
            selector.sort();
            let pool = Pool {
                selector,
                ports: settings.target_ports.clone(),
            };
            (deployment(pod_name.as_deref())?, Source::Selector(pool))
        };
        let (client, contact) = kubernetes::connect().await?;
        Ok(Cluster {
            client,
            contact,
            scope: Scope {
                namespace: settings.namespace.clone(),
                source,
                metrics_port: settings.model_server_metrics_port,
            },
            name,
            pod_name,
        })
    }

    /// What metrics call the pool: its name, or the deployment's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `inference-pool` or `endpoint-selector`, for the start-up line.
    pub fn mode(&self) -> &'static str {
        match self.scope.source {
            Source::Pool { .. } => "inference-pool",
            Source::Selector(_) => "endpoint-selector",
        }
    }

    /// Fills `datastore` while it runs.
    pub fn discovery(&self, datastore: Arc<Datastore>) -> ClusterDiscovery {
        ClusterDiscovery::new(self.client.clone(), self.scope.clone(), datastore)
    }

    /// This replica as a candidate for the pool's lease.
    pub fn candidate(&self) -> Candidate {
        let namespace = &self.scope.namespace;
        let lease = lease_name(namespace, &self.name);
        let host = self.pod_name.clone().unwrap_or_else(hostname);
        let identity = format!("{host}_{}", Uuid::new_v4());
        Candidate::new(
            self.client.clone(),
            namespace,
            &lease,
            &identity,
            Timings::default(),
        )
        .of_pod(self.pod_name.as_deref())
    }

    /// Age of the API server's last word.
    pub fn contact(&self) -> Arc<Contact> {
        self.contact.clone()
    }

    /// Asks the API server for a word when it is quiet, until `stop`.
    pub fn heartbeat(&self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        self.contact.clone().keep(self.client.clone(), stop)
    }

    /// Asks the cluster who may read metrics.
    pub fn reviewer(&self) -> Arc<dyn Reviewer> {
        Arc::new(ByCluster(Reviews::new(self.client.clone())))
    }
}

/// The lease of the replicas of one pool: the reference's, so that both kinds respect each other in a rollout.
fn lease_name(namespace: &str, name: &str) -> String {
    format!("epp-{namespace}-{name}.gateway-api-inference-extension.sigs.k8s.io")
}

/// A deployment's pods are called `<deployment>-<template hash>-<suffix>`.
fn deployment(pod_name: Option<&str>) -> Result<String, RunError> {
    let Some(pod_name) = pod_name else {
        return Err(RunError::Identity(
            "failed to get environment variable POD_NAME: with --endpoint-selector it names this pod (set it from \
             metadata.name, as deploy/ does)"
                .into(),
        ));
    };
    let lower =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let mut parts = pod_name.rsplitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(suffix), Some(hash), Some(name)) if lower(suffix) && lower(hash) && !name.is_empty() => {
            Ok(name.to_owned())
        }
        _ => Err(RunError::Identity(format!(
            "failed to parse deployment name from pod name {pod_name}: POD_NAME must be a Deployment's pod, \
             <deployment>-<hash>-<suffix>"
        ))),
    }
}

fn hostname() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = read.trim();
    if name.is_empty() {
        "epp".into()
    } else {
        name.to_owned()
    }
}

struct ByCluster(Reviews);

impl Reviewer for ByCluster {
    fn review<'a>(&'a self, token: &'a str, verb: &'a str, path: &'a str) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            match self.0.review(token, verb, path).await {
                Review::Allowed => Verdict::Allowed,
                Review::UnknownToken => Verdict::UnknownToken,
                Review::Denied { user } => Verdict::Denied { user },
                Review::Unreachable => Verdict::Unreachable,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployment_is_the_pods_name_without_its_last_two_parts() {
        let name = |pod: Option<&str>| deployment(pod).map_err(|e| e.to_string());
        assert_eq!(name(Some("my-epp-5d9c7b6f4-abcde")).unwrap(), "my-epp");
        assert_eq!(name(Some("a-b-c")).unwrap(), "a");
        for (pod, word) in [
            (None, "environment variable POD_NAME"),
            (Some("epp-0"), "from pod name epp-0"),
            (Some("epp"), "from pod name epp"),
            (Some("-a-b"), "from pod name -a-b"),
            (Some("my-epp-ABC-x"), "from pod name my-epp-ABC-x"),
        ] {
            assert!(name(pod).unwrap_err().contains(word), "{pod:?}");
        }
    }

    #[test]
    fn the_lease_is_the_references() {
        let name = "epp-default-vllm.gateway-api-inference-extension.sigs.k8s.io";
        assert_eq!(lease_name("default", "vllm"), name);
    }
}
