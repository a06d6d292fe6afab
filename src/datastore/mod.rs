//! F3: what is known of the pool: endpoints, objectives, rewrites. One writer, snapshot readers: a reader
//! loads an atomic pointer and never waits.

use std::collections::{HashMap, HashSet};
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
    /// Has discovery said what the pool is? False at the start, and again once the pool is deleted.
    pub synced: bool,
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
    /// An empty pool that has not been synced yet.
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

    /// Does discovery know the pool and its endpoints?
    pub fn synced(&self) -> bool {
        self.fleet.load().synced
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
    /// and sample; of one whose spec changed, [`Datastore::update`] tells.
    pub fn set_endpoints(&self, specs: Vec<EndpointSpec>) -> Change {
        let mut ids = self.ids.lock();
        let old = self.fleet.load_full();
        let mut known: HashMap<(String, String), &Arc<Endpoint>> =
            old.endpoints.iter().map(|e| (e.spec.owned_key(), e)).collect();
        let mut change = Change::default();
        let mut endpoints = Vec::with_capacity(specs.len());
        for spec in specs {
            let known = known.remove(&spec.owned_key());
            endpoints.push(ids.settle(known, spec, &mut change));
        }
        change.removed.extend(known.into_values().cloned());
        self.publish(&mut ids, &old, endpoints, &change);
        change
    }

    /// Brings in `upserts` and takes out the endpoints called `gone` (namespace, name); the others stay as they are.
    /// An endpoint whose address changed is a new one; one that only changed its labels keeps its identity.
    pub fn update(&self, upserts: Vec<EndpointSpec>, gone: &[(String, String)]) -> Change {
        let mut ids = self.ids.lock();
        let old = self.fleet.load_full();
        let mut change = Change::default();
        let mut endpoints = Vec::with_capacity(old.endpoints.len() + upserts.len());
        let order: Vec<(String, String)> = upserts.iter().map(EndpointSpec::owned_key).collect();
        let mut news: HashMap<(String, String), EndpointSpec> = order.iter().cloned().zip(upserts).collect();
        let gone: HashSet<(&str, &str)> = gone.iter().map(|(ns, n)| (ns.as_str(), n.as_str())).collect();
        // Most endpoints are touched by no change: they are told by a look at their name alone.
        let names: HashSet<String> = order.iter().map(|(_, name)| name.clone()).collect();
        for endpoint in &old.endpoints {
            let spec = names
                .contains(&endpoint.spec.name)
                .then(|| news.remove(&endpoint.spec.owned_key()))
                .flatten();
            match spec {
                Some(spec) => endpoints.push(ids.settle(Some(endpoint), spec, &mut change)),
                None if gone.contains(&endpoint.spec.key()) => change.removed.push(endpoint.clone()),
                None => endpoints.push(endpoint.clone()),
            }
        }
        for key in order {
            if let Some(spec) = news.remove(&key) {
                endpoints.push(ids.settle(None, spec, &mut change));
            }
        }
        self.publish(&mut ids, &old, endpoints, &change);
        change
    }

    /// The pool is gone: no endpoints, no rules, not synced.
    pub fn clear(&self) -> Change {
        self.set_rules(Objectives::default(), Rewrites::default());
        let mut ids = self.ids.lock();
        let old = self.fleet.load_full();
        let change = Change {
            added: Vec::new(),
            removed: old.endpoints.clone(),
        };
        ids.free_slots.extend(change.removed.iter().map(|e| e.slot));
        self.store(Fleet {
            endpoints: Vec::new(),
            generation: old.generation + 1,
            synced: false,
        });
        change
    }

    fn publish(&self, ids: &mut Ids, old: &Fleet, endpoints: Vec<Arc<Endpoint>>, change: &Change) {
        ids.free_slots.extend(change.removed.iter().map(|e| e.slot));
        self.store(Fleet {
            endpoints,
            generation: old.generation + 1,
            synced: true,
        });
    }

    fn store(&self, fleet: Fleet) {
        let generation = fleet.generation;
        self.fleet.store(Arc::new(fleet));
        self.changed.send_replace(generation);
    }
}

impl Ids {
    /// The endpoint for `spec`, given the one that has its name now.
    fn settle(
        &mut self,
        known: Option<&Arc<Endpoint>>,
        spec: EndpointSpec,
        change: &mut Change,
    ) -> Arc<Endpoint> {
        match known {
            Some(same) if same.spec == spec => return same.clone(),
            Some(same) if same.spec.reached_like(&spec) => return Arc::new(same.relabelled(spec)),
            Some(other) => change.removed.push(other.clone()),
            None => {}
        }
        let new = Arc::new(self.endpoint(spec));
        change.added.push(new.clone());
        new
    }

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
    fn an_update_touches_only_what_it_names() {
        let store = Datastore::new("p");
        store.set_endpoints(vec![spec("a", 1), spec("b", 2), spec("c", 3)]);
        let before = store.fleet().endpoints.clone();
        before[2].publish(crate::model::sample::Sample {
            waiting: 7,
            ..Default::default()
        });
        let labelled = EndpointSpec {
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..spec("c", 3)
        };
        let gone = [
            ("default".to_owned(), "a".to_owned()),
            ("other".to_owned(), "b".to_owned()),
        ];
        let change = store.update(vec![labelled, spec("d", 4)], &gone);
        let after = store.fleet().endpoints.clone();
        let names: Vec<&str> = after.iter().map(|e| e.spec.name.as_str()).collect();
        assert_eq!(names, ["b", "c", "d"]);
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        // New labels, the same endpoint: what was learned of it stays.
        assert_eq!((after[1].id, after[1].slot), (before[2].id, before[2].slot));
        assert_eq!((after[1].sample().waiting, after[1].spec.labels.len()), (7, 1));
        let names =
            |of: &[Arc<Endpoint>]| -> Vec<String> { of.iter().map(|e| e.spec.name.clone()).collect() };
        assert_eq!(
            (names(&change.added), names(&change.removed)),
            (vec!["d".into()], vec!["a".into()])
        );
    }

    #[test]
    fn a_deleted_pool_is_not_synced_until_it_is_back() {
        let store = Datastore::new("p");
        store.set_endpoints(vec![spec("a", 1)]);
        store.set_rules(Objectives([("o".to_owned(), 1)].into()), Rewrites::default());
        let change = store.clear();
        assert_eq!((change.removed.len(), store.synced()), (1, false));
        assert_eq!(store.objectives().priority("o"), 0);
        store.update(vec![spec("a", 1)], &[]);
        assert!(store.synced());
        assert_ne!(store.fleet().endpoints[0].id, change.removed[0].id);
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
