//! The objects and what happened to them, by resource version.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

/// A kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Plural, and group after a dot where there is one.
    pub resource: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `v1`.
    pub api_version: &'static str,
}

const fn kind(resource: &'static str, kind: &'static str, api_version: &'static str) -> Kind {
    Kind {
        resource,
        kind,
        api_version,
    }
}

/// Pods.
pub const PODS: Kind = kind("pods", "Pod", "v1");
/// Events.
const EVENTS: Kind = kind("events", "Event", "v1");
/// Leases.
pub const LEASES: Kind = kind("leases.coordination.k8s.io", "Lease", "coordination.k8s.io/v1");
/// Pools of the stable group.
pub const POOLS: Kind = kind(
    "inferencepools.inference.networking.k8s.io",
    "InferencePool",
    "inference.networking.k8s.io/v1",
);
/// Pools of the experimental group.
pub const POOLS_EXPERIMENTAL: Kind = kind(
    "inferencepools.inference.networking.x-k8s.io",
    "InferencePool",
    "inference.networking.x-k8s.io/v1alpha2",
);
/// Objectives.
pub const OBJECTIVES: Kind = kind(
    "inferenceobjectives.inference.networking.x-k8s.io",
    "InferenceObjective",
    "inference.networking.x-k8s.io/v1alpha2",
);
/// Rewrites.
pub const REWRITES: Kind = kind(
    "inferencemodelrewrites.inference.networking.x-k8s.io",
    "InferenceModelRewrite",
    "inference.networking.x-k8s.io/v1alpha2",
);

/// All of them.
pub const ALL: [Kind; 7] = [
    PODS,
    EVENTS,
    LEASES,
    POOLS,
    POOLS_EXPERIMENTAL,
    OBJECTIVES,
    REWRITES,
];

/// The kind of a resource.
pub fn kind_of(resource: &str) -> Option<Kind> {
    ALL.into_iter().find(|k| k.resource == resource)
}

type Key = (String, String, String);

/// Something that happened to an object.
pub struct Happened {
    pub version: u64,
    resource: String,
    namespace: String,
    /// Absent: it was created.
    pub before: Option<Value>,
    /// Absent: it was deleted.
    pub after: Option<Value>,
}

/// All objects.
#[derive(Default)]
pub struct Store {
    version: u64,
    /// What happened at or before this version is forgotten.
    forgotten: u64,
    objects: BTreeMap<Key, Value>,
    log: VecDeque<Happened>,
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.get(&key(resource, namespace, name)).cloned()
    }

    /// Objects of a resource that `wanted` takes, and the version they are of.
    pub fn list(
        &self,
        resource: &str,
        namespace: &str,
        wanted: &dyn Fn(&Value) -> bool,
    ) -> (Vec<Value>, u64) {
        let all = self.objects.iter();
        let of = all.filter(|((r, ns, _), o)| r == resource && ns == namespace && wanted(o));
        (of.map(|(_, o)| o.clone()).collect(), self.version)
    }

    /// Writes an object; what the server sets (version, uid, creation time, kind) is set.
    pub fn put(&mut self, resource: &str, mut object: Value) -> Value {
        let kind = kind_of(resource).unwrap();
        self.version += 1;
        let metadata = &mut object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default").to_owned();
        let key = key(resource, &namespace, metadata["name"].as_str().unwrap());
        let before = self.objects.get(&key).cloned();
        metadata["namespace"] = json!(namespace);
        metadata["resourceVersion"] = json!(self.version.to_string());
        for (field, new) in [
            ("uid", json!(format!("uid-{}", self.version))),
            ("creationTimestamp", json!("2026-01-01T00:00:00Z")),
        ] {
            let old = before.as_ref().map(|b| b["metadata"][field].clone());
            if metadata[field].is_null() {
                metadata[field] = old.unwrap_or(new);
            }
        }
        object["kind"] = json!(kind.kind);
        object["apiVersion"] = json!(kind.api_version);
        self.objects.insert(key, object.clone());
        self.happened(resource, &namespace, before, Some(object.clone()));
        object
    }

    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut gone = self.objects.remove(&key(resource, namespace, name))?;
        self.version += 1;
        gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.happened(resource, namespace, Some(gone.clone()), None);
        Some(gone)
    }

    pub fn compact(&mut self) {
        self.log.clear();
        self.forgotten = self.version;
    }

    /// What happened to a resource after `version`; `None`: that is forgotten.
    pub fn since(
        &self,
        resource: &str,
        namespace: &str,
        version: u64,
    ) -> Option<impl Iterator<Item = &Happened>> {
        let (resource, namespace) = (resource.to_owned(), namespace.to_owned());
        (version >= self.forgotten).then(|| {
            let after = self.log.iter().filter(move |h| h.version > version);
            after.filter(move |h| h.resource == resource && h.namespace == namespace)
        })
    }

    fn happened(&mut self, resource: &str, namespace: &str, before: Option<Value>, after: Option<Value>) {
        self.log.push_back(Happened {
            version: self.version,
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            before,
            after,
        });
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    (resource.to_owned(), namespace.to_owned(), name.to_owned())
}
