//! Kubernetes objects, cut down to what is used: pods, InferencePools of both groups, InferenceObjectives and
//! InferenceModelRewrites. Read by `kubernetes` (transport) and `discovery`.
//!
//! Built-in objects are typed: the API server has checked them. Custom ones keep their `spec` as a JSON tree and are
//! made sense of one by one, so that a malformed object costs itself, not the whole list it came in.

pub mod objective;
pub mod pod;
pub mod pool;
pub mod rewrite;
mod spec;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer};

/// API group of the stable InferencePool.
pub const GROUP: &str = "inference.networking.k8s.io";

/// API group of the experimental objects: pools of v1alpha2, objectives, rewrites.
pub const GROUP_EXPERIMENTAL: &str = "inference.networking.x-k8s.io";

/// The part of the metadata that is used; owners, managed fields and finalizers are skipped while reading.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

/// Annotations can be long (an applied configuration is one); only ours is kept.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "inference.networking.k8s.io/active-ports")]
    active_ports: Option<String>,
}

/// Reads `metadata`, keeping only what is used.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read = Metadata::deserialize(deserializer)?;
    let annotation = |a: Annotations| Some(BTreeMap::from([(pod::ACTIVE_PORTS.to_owned(), a.active_ports?)]));
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        labels: read.labels,
        annotations: read.annotations.and_then(annotation),
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// Says how a type is addressed: group, version, kind, plural.
macro_rules! resource {
    ($type:ty, $group:expr, $version:literal, $kind:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = k8s_openapi::NamespaceResourceScope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
use resource;
