//! F3: what is known of the pool: endpoints, objectives, rewrites. One writer, snapshot readers: a reader
//! loads an atomic pointer and never waits.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::endpoint::{Endpoint, EndpointSpec};
use crate::model::objective::Objectives;
use crate::model::rewrite::Rewrites;

/// All endpoints at one moment, in discovery order.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Grows with every change.
    pub generation: u64,
}

/// The pool's state. Share it in an `Arc`.
#[derive(Debug)]
pub struct Datastore {
    pool_name: String,
    fleet: ArcSwap<Fleet>,
    objectives: ArcSwap<Objectives>,
    rewrites: ArcSwap<Rewrites>,
    /// Held only by writers: discovery changes the fleet rarely, and one change must see the last.
    ids: Mutex<Ids>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ids {
    next_id: u64,
    free_slots: Vec<u32>,
    next_slot: u32,
}

/// What a change of the fleet did.
#[derive(Debug, Default)]
pub struct Change {
    /// Endpoints that joined.
    pub added: Vec<Arc<Endpoint>>,
    /// Endpoints that left.
    pub removed: Vec<Arc<Endpoint>>,
}

impl Datastore {
    /// An empty pool that has not been synced yet (generation 0).
    pub fn new(pool_name: impl Into<String>) -> Self {
        Datastore {
            pool_name: pool_name.into(),
            fleet: ArcSwap::default(),
            objectives: ArcSwap::default(),
            rewrites: ArcSwap::from_pointee(Rewrites::default()),
            ids: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Name of the pool, as metrics label it.
    pub fn pool_name(&self) -> &str {
        &self.pool_name
    }

    /// The fleet now. Do not keep the guard across an await.
    pub fn fleet(&self) -> Guard<Arc<Fleet>> {
        self.fleet.load()
    }

    /// Has discovery reported at least once?
    pub fn synced(&self) -> bool {
        self.fleet.load().generation > 0
    }

    /// Objectives now.
    pub fn objectives(&self) -> Guard<Arc<Objectives>> {
        self.objectives.load()
    }

    /// Rewrites now.
    pub fn rewrites(&self) -> Guard<Arc<Rewrites>> {
        self.rewrites.load()
    }

    /// Tells of every change of the fleet by its generation.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Replaces objectives and rewrites.
    pub fn set_rules(&self, objectives: Objectives, rewrites: Rewrites) {
        self.objectives.store(Arc::new(objectives));
        self.rewrites.store(Arc::new(rewrites));
    }

    /// Makes the fleet exactly `specs`, in that order. An endpoint whose spec is unchanged keeps its identity
    /// and sample; one that changed is a new endpoint.
    pub fn set_endpoints(&self, specs: Vec<EndpointSpec>) -> Change {
        let mut ids = self.ids.lock();
        let old = self.fleet.load_full();
        let mut known: HashMap<(String, String), &Arc<Endpoint>> = old
            .endpoints
            .iter()
            .map(|e| ((e.spec.namespace.clone(), e.spec.name.clone()), e))
            .collect();
        let mut change = Change::default();
        let mut endpoints = Vec::with_capacity(specs.len());
        for spec in specs {
            let key = (spec.namespace.clone(), spec.name.clone());
            if let Some(same) = known.remove(&key) {
                if same.spec == spec {
                    endpoints.push(same.clone());
                    continue;
                }
                change.removed.push(same.clone());
            }
            let new = Arc::new(ids.endpoint(spec));
            change.added.push(new.clone());
            endpoints.push(new);
        }
        change.removed.extend(known.into_values().cloned());
        ids.free_slots.extend(change.removed.iter().map(|e| e.slot));
        let generation = old.generation + 1;
        self.fleet.store(Arc::new(Fleet {
            endpoints,
            generation,
        }));
        self.changed.send_replace(generation);
        change
    }
}

impl Ids {
    fn endpoint(&mut self, spec: EndpointSpec) -> Endpoint {
        self.next_id += 1;
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        });
        Endpoint::new(spec, self.next_id, slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, port: u16) -> EndpointSpec {
        EndpointSpec {
            namespace: "default".into(),
            name: name.into(),
            address: ([10, 0, 0, 1], port).into(),
            metrics_address: None,
            metrics_path: None,
            labels: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn an_unchanged_endpoint_keeps_its_identity_and_a_changed_one_is_new() {
        let store = Datastore::new("p");
        assert!(!store.synced());
        store.set_endpoints(vec![spec("a", 1), spec("b", 2)]);
        let before = store.fleet().endpoints.clone();
        let change = store.set_endpoints(vec![spec("b", 2), spec("a", 9)]);
        let after = store.fleet().endpoints.clone();
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        assert_eq!((change.added.len(), change.removed.len()), (1, 1));
        assert_ne!(before[0].id, after[1].id);
    }

    #[test]
    fn slots_are_reused_only_after_they_are_free() {
        let store = Datastore::new("p");
        store.set_endpoints(vec![spec("a", 1), spec("b", 2)]);
        store.set_endpoints(vec![spec("b", 2)]);
        store.set_endpoints(vec![spec("b", 2), spec("c", 3)]);
        let slots: Vec<u32> = store.fleet().endpoints.iter().map(|e| e.slot).collect();
        assert_eq!(slots, [1, 0]);
    }
}
