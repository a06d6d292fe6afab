//! The numbers of all endpoints, kept by a thread from one decision to the next: only those of endpoints scraped since are
//! read again. And what they were at each decision, for the ring of decisions: every change is written once, not every number
//! for every decision.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::datastore::Fleet;
use crate::model::sample::Signals;

/// How far the numbers of an endpoint that is still there are looked for: as many may leave in one change, or all are read.
const AHEAD: usize = 64;

/// A version no endpoint has before it has been scraped for longer than anything lasts.
const UNSEEN: u64 = u64::MAX;

/// What a thread knows of a fleet. Used by the director; its contents outlive a decision.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Whose numbers. Weak: an idle thread keeps no endpoint alive.
    fleet: Weak<Fleet>,
    /// The fleet's datastore.
    datastore: u64,
    /// Id of each endpoint.
    ids: Vec<u64>,
    /// The model that adapters' standings were resolved for.
    model: String,
    /// Version of the sample each entry of `signals` was read from.
    seen: Vec<u64>,
    signals: Vec<Signals>,
    /// What has changed since the last record.
    changed: Vec<(u32, Signals)>,
    history: Option<Arc<History>>,
}

/// What the numbers of all endpoints were from one moment on.
#[derive(Debug)]
struct History {
    first: Vec<Signals>,
    /// Each change, by position of the endpoint. Written by one thread, read by the explain pages.
    changes: Mutex<Vec<(u32, Signals)>>,
}

/// The numbers of all endpoints at the time of one decision.
#[derive(Clone, Debug)]
pub struct Seen {
    history: Arc<History>,
    changes: usize,
}

impl Seen {
    /// One entry per endpoint of the fleet.
    pub fn signals(&self) -> Vec<Signals> {
        let mut signals = self.history.first.clone();
        for (at, new) in self.history.changes.lock().iter().take(self.changes) {
            if let Some(entry) = signals.get_mut(*at as usize) {
                *entry = *new;
            }
        }
        signals
    }
}

impl Gathered {
    /// The numbers of `fleet` now, by position; `model` is the target model.
    pub fn gather(&mut self, fleet: &Arc<Fleet>, model: &str) -> &[Signals] {
        if self.fleet.as_ptr() != Arc::as_ptr(fleet) {
            self.begin(fleet);
        }
        // Records may not come, or come no more: what has changed is not collected for ever.
        if self.changed.len() > self.signals.len() {
            self.history = None;
            self.changed.clear();
        }
        let remember = self.history.is_some();
        let same_model = self.model == model;
        let known = self.seen.iter_mut().zip(&mut self.signals);
        for (at, ((seen, signals), endpoint)) in (0..).zip(known.zip(fleet.endpoints.iter())) {
            let version = endpoint.version();
            // Without adapters an endpoint is to every model the same.
            if *seen != version || !(same_model || signals.adapters == 0) {
                let now = endpoint.signals(model);
                *seen = version;
                if now != *signals {
                    *signals = now;
                    if remember {
                        self.changed.push((at, now));
                    }
                }
            }
        }
        if !same_model {
            model.clone_into(&mut self.model);
        }
        &self.signals
    }

    /// The numbers last gathered.
    pub fn signals(&self) -> &[Signals] {
        &self.signals
    }

    /// Turns to another fleet, with what is known of the endpoints that stayed.
    fn begin(&mut self, fleet: &Arc<Fleet>) {
        let last = std::mem::take(self);
        let n = fleet.endpoints.len();
        *self = Gathered {
            fleet: Arc::downgrade(fleet),
            datastore: fleet.datastore,
            ids: Vec::with_capacity(n),
            seen: Vec::with_capacity(n),
            signals: Vec::with_capacity(n),
            model: last.model,
            ..Gathered::default()
        };
        let mut left = if last.datastore == fleet.datastore {
            &*last.ids
        } else {
            &[]
        };
        for endpoint in fleet.endpoints.iter() {
            // A change takes out, replaces and appends: those that stay do so in their order.
            let found = left.iter().take(AHEAD).position(|id| *id == endpoint.id);
            let known = found.and_then(|ahead| {
                let at = last.ids.len() - left.len() + ahead;
                left = left.get(ahead + 1..)?;
                Some((*last.seen.get(at)?, *last.signals.get(at)?))
            });
            let (seen, signals) = known.unwrap_or((UNSEEN, Signals::default()));
            self.ids.push(endpoint.id);
            self.seen.push(seen);
            self.signals.push(signals);
        }
    }

    /// The numbers last gathered, to be kept with the decision made from them.
    pub fn keep(&mut self) -> Seen {
        let kept = self.history.as_ref().and_then(|h| h.add(&mut self.changed));
        match (kept, &self.history) {
            (Some(changes), Some(history)) => Seen {
                history: history.clone(),
                changes,
            },
            _ => self.start_over(),
        }
    }

    fn start_over(&mut self) -> Seen {
        self.changed.clear();
        let history = Arc::new(History {
            first: self.signals.clone(),
            changes: Mutex::new(Vec::with_capacity(self.signals.len())),
        });
        self.history = Some(history.clone());
        Seen { history, changes: 0 }
    }
}

impl History {
    /// Takes `changed` in and returns how many changes there are now. `None`: it is full, or being read just now, and a
    /// new one is to be begun.
    fn add(&self, changed: &mut Vec<(u32, Signals)>) -> Option<usize> {
        let mut changes = self.changes.try_lock()?;
        // As much again as the beginning took; more, and another beginning is the shorter way to say it.
        if changes.len() + changed.len() > self.first.len() {
            return None;
        }
        changes.append(changed);
        Some(changes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::datastore::Datastore;
    use crate::model::endpoint::EndpointSpec;
    use crate::model::sample::{Lora, Sample};

    fn datastore(n: u16) -> Datastore {
        let store = Datastore::new("p");
        let spec = |port: u16| EndpointSpec {
            namespace: "n".into(),
            name: format!("e{port}"),
            address: ([10, 0, 0, 1], port).into(),
            metrics_address: None,
            metrics_path: None,
            labels: BTreeMap::new(),
        };
        store.set_endpoints((1..=n).map(spec).collect());
        store
    }

    fn waiting(signals: &[Signals]) -> Vec<u32> {
        signals.iter().map(|s| s.waiting).collect()
    }

    fn publish(store: &Datastore, at: usize, waiting: u32) {
        store.fleet().endpoints[at].publish(Sample {
            waiting,
            ..Sample::default()
        });
    }

    #[test]
    fn each_decision_keeps_the_numbers_it_was_made_from() {
        let store = datastore(3);
        let mut gathered = Gathered::default();
        let mut kept = Vec::new();
        // More changes than one history holds.
        for round in 0..10_u32 {
            publish(&store, round as usize % 3, round);
            let now = waiting(gathered.gather(&store.fleet(), "m"));
            let direct: Vec<u32> = store
                .fleet()
                .endpoints
                .iter()
                .map(|e| e.sample().waiting)
                .collect();
            assert_eq!(now, direct);
            kept.push((now, gathered.keep()));
        }
        for (now, seen) in &kept {
            assert_eq!(waiting(&seen.signals()), *now);
        }
        // A history that is being read is left alone, and another one begun.
        let held = kept[9].1.history.changes.lock();
        publish(&store, 0, 99);
        let now = waiting(gathered.gather(&store.fleet(), "m"));
        assert_eq!(waiting(&gathered.keep().signals()), now);
        drop(held);
    }

    #[test]
    fn endpoints_that_stay_are_not_read_again() {
        let store = datastore(100);
        let mut gathered = Gathered::default();
        (0..100).for_each(|at| publish(&store, at, at as u32));
        gathered.gather(&store.fleet(), "m");
        let before = store.fleet().endpoints.clone();
        let mut moved = before[7].spec.clone();
        moved.address.set_port(7_000);
        let mut labelled = before[20].spec.clone();
        labelled.labels.insert("k".into(), "v".into());
        store.update(
            vec![moved, labelled],
            &[before[0].spec.owned_key(), before[99].spec.owned_key()],
        );
        let fleet = store.fleet();
        gathered.begin(&fleet);
        let unseen: Vec<usize> = (0..98).filter(|at| gathered.seen[*at] == UNSEEN).collect();
        assert_eq!(unseen, [6]);
        fleet.endpoints[19].publish(Sample {
            waiting: 500,
            ..Sample::default()
        });
        let expected: Vec<u32> = fleet.endpoints.iter().map(|e| e.sample().waiting).collect();
        assert_eq!(waiting(gathered.gather(&fleet, "m")), expected);
        assert_eq!((expected[6], expected[19]), (0, 500));
    }

    #[test]
    fn another_fleet_and_another_model_are_looked_at_anew() {
        let store = datastore(2);
        let mut gathered = Gathered::default();
        let adapters = HashSet::from(["a".into()]);
        store.fleet().endpoints[1].publish(Sample {
            lora: Lora::new(adapters, HashSet::new(), 4),
            ..Sample::default()
        });
        let mut active = |model: &str| -> Vec<bool> {
            let signals = gathered.gather(&store.fleet(), model);
            signals.iter().map(|s| s.adapter_active).collect()
        };
        assert_eq!(active("m"), [false, false]);
        assert_eq!(active("a"), [false, true]);
        assert_eq!(active("m"), [false, false]);
        store.update(vec![], &[("n".into(), "e1".into())]);
        assert_eq!(active("a"), [true]);
        let other = datastore(1);
        assert_eq!(waiting(gathered.gather(&other.fleet(), "a")), [0]);
        assert_eq!(gathered.keep().signals(), [Signals::default()]);
    }
}
