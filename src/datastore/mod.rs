//! F3: what is known of the pool: endpoints, objectives, rewrites. One writer, snapshot readers: a reader
//! loads an atomic pointer and never waits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::endpoint::{Endpoint, EndpointSpec};
use crate::model::endpoint_list::{Edit, EndpointList};
use crate::model::health::Health;
use crate::model::objective::Objectives;
use crate::model::rewrite::Rewrites;

/// All endpoints at one moment, in discovery order.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The endpoints. What a change leaves alone is shared with the fleet before it.
    pub endpoints: EndpointList,
    /// Whose fleet: a random number of the datastore. Ids of endpoints are unique within it.
    pub datastore: u64,
    /// Grows with every change.
    pub generation: u64,
    /// Grows with every change of an endpoint's standing.
    pub health_changes: Arc<AtomicU64>,
    /// Has discovery said what the pool is? False at the start, and again once the pool is deleted.
    pub synced: bool,
}

/// The pool's state. Share it in an `Arc`.
#[derive(Debug)]
pub struct Datastore {
    pool_name: String,
    id: u64,
    fleet: ArcSwap<Fleet>,
    objectives: ArcSwap<Objectives>,
    rewrites: ArcSwap<Rewrites>,
    /// Held only by writers: discovery changes the fleet rarely, and one change must see the last.
    writer: Mutex<Writer>,
    changed: watch::Sender<u64>,
    health_changes: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Writer {
    next_id: u64,
    free_slots: Vec<u32>,
    next_slot: u32,
    /// The endpoints of the fleet by namespace and name, so that a change looks at none but its own.
    known: HashMap<(String, String), Arc<Endpoint>>,
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
            id: rand::random(),
            fleet: ArcSwap::default(),
            objectives: ArcSwap::default(),
            rewrites: ArcSwap::from_pointee(Rewrites::default()),
            writer: Mutex::default(),
            changed: watch::Sender::new(0),
            health_changes: Arc::default(),
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
        let mut writer = self.writer.lock();
        let old = self.fleet.load_full();
        let mut known = std::mem::take(&mut writer.known);
        let mut change = Change::default();
        let mut endpoints = Vec::with_capacity(specs.len());
        for spec in specs {
            let key = spec.owned_key();
            let settled = writer.settle(
                known.remove(&key).as_ref(),
                spec,
                &self.health_changes,
                &mut change,
            );
            writer.known.insert(key, settled.clone());
            endpoints.push(settled);
        }
        change.removed.extend(known.into_values());
        self.publish(&mut writer, &old, endpoints.into(), &change);
        change
    }

    /// Brings in `upserts`, each name once, and takes out the endpoints called `gone` (namespace, name); the others stay as they are.
    /// An endpoint whose address changed is a new one; one that only changed its labels keeps its identity. Costs as much
    /// as there are changes, however large the fleet is; where nothing is different, nothing is published.
    pub fn update(&self, upserts: Vec<EndpointSpec>, gone: &[(String, String)]) -> Change {
        let mut writer = self.writer.lock();
        let old = self.fleet.load_full();
        let (mut change, mut edit) = (Change::default(), Edit::default());
        let named: HashSet<(&str, &str)> = upserts.iter().map(EndpointSpec::key).collect();
        for key in gone
            .iter()
            .filter(|(space, name)| !named.contains(&(space, name)))
        {
            if let Some(endpoint) = writer.known.remove(key) {
                edit.remove(&endpoint);
                change.removed.push(endpoint);
            }
        }
        for spec in upserts {
            let key = spec.owned_key();
            let known = writer.known.remove(&key);
            let settled = writer.settle(known.as_ref(), spec, &self.health_changes, &mut change);
            match known {
                None => edit.append(settled.clone()),
                Some(known) if !Arc::ptr_eq(&known, &settled) => edit.replace(&known, settled.clone()),
                Some(_) => {}
            }
            writer.known.insert(key, settled);
        }
        if !edit.is_empty() || !old.synced {
            let endpoints = old.endpoints.edited(edit);
            self.publish(&mut writer, &old, endpoints, &change);
        }
        change
    }

    /// The pool is gone: no endpoints, no rules, not synced.
    pub fn clear(&self) -> Change {
        self.set_rules(Objectives::default(), Rewrites::default());
        let mut writer = self.writer.lock();
        let old = self.fleet.load_full();
        writer.known.clear();
        let change = Change {
            added: Vec::new(),
            removed: old.endpoints.iter().cloned().collect(),
        };
        writer.free_slots.extend(change.removed.iter().map(|e| e.slot));
        self.store(Fleet {
            endpoints: EndpointList::default(),
            datastore: self.id,
            generation: old.generation + 1,
            health_changes: self.health_changes.clone(),
            synced: false,
        });
        change
    }

    fn publish(&self, writer: &mut Writer, old: &Fleet, endpoints: EndpointList, change: &Change) {
        writer.free_slots.extend(change.removed.iter().map(|e| e.slot));
        self.store(Fleet {
            endpoints,
            datastore: self.id,
            generation: old.generation + 1,
            health_changes: self.health_changes.clone(),
            synced: true,
        });
    }

    fn store(&self, fleet: Fleet) {
        let generation = fleet.generation;
        self.fleet.store(Arc::new(fleet));
        self.changed.send_replace(generation);
    }
}

impl Writer {
    /// The endpoint for `spec`, given the one that has its name now.
    fn settle(
        &mut self,
        known: Option<&Arc<Endpoint>>,
        spec: EndpointSpec,
        health_changes: &Arc<AtomicU64>,
        change: &mut Change,
    ) -> Arc<Endpoint> {
        match known {
            Some(same) if same.spec == spec => return same.clone(),
            Some(same) if same.spec.reached_like(&spec) => return Arc::new(same.relabelled(spec)),
            Some(other) => change.removed.push(other.clone()),
            None => {}
        }
        let health = Arc::new(Health::new(health_changes.clone()));
        let new = Arc::new(self.endpoint(spec, health));
        change.added.push(new.clone());
        new
    }

    fn endpoint(&mut self, spec: EndpointSpec, health: Arc<Health>) -> Endpoint {
        self.next_id += 1;
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        });
        Endpoint::with_health(spec, self.next_id, slot, health)
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
