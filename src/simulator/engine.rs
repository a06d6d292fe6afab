//! Slots and the waiting queue (simulator.md §8): `max_num_seqs` requests run, others wait in order, a LoRA
//! request runs only when its adapter is or can be loaded. What a request holds is given back when its guard is
//! dropped, however it ends, so that the counts are exact.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The slots of one simulator; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    max_running: usize,
    max_waiting: usize,
    max_loras: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// Running requests by loaded adapter; 0 means loaded and idle.
    loaded: BTreeMap<String, usize>,
    queue: VecDeque<Waiting>,
    next_id: u64,
}

struct Waiting {
    id: u64,
    adapter: Option<String>,
    grant: oneshot::Sender<Slot>,
}

/// The right to run; given back when dropped.
pub struct Slot {
    engine: Engine,
    adapter: Option<String>,
}

/// A place in the queue; left when dropped.
pub struct Place {
    engine: Engine,
    id: u64,
    granted: oneshot::Receiver<Slot>,
}

/// What a request gets.
pub enum Admission {
    /// It runs now.
    Running(Slot),
    /// It waits.
    Waiting(Place),
    /// The queue is full.
    Full,
}

/// Counts for the metrics page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Running requests.
    pub running: usize,
    /// Waiting requests.
    pub waiting: usize,
    /// Adapters with running requests, sorted.
    pub running_adapters: Vec<String>,
    /// Adapters with waiting requests, sorted.
    pub waiting_adapters: Vec<String>,
}

impl State {
    /// Could a request for `adapter` run, slots aside?
    fn loadable(&self, adapter: Option<&str>, max_loras: usize) -> bool {
        adapter.is_none_or(|name| {
            self.loaded.contains_key(name)
                || self.loaded.len() < max_loras
                || self.loaded.values().any(|running| *running == 0)
        })
    }

    fn run(&mut self, adapter: Option<&str>, max_loras: usize) {
        self.running += 1;
        let Some(name) = adapter else { return };
        if !self.loaded.contains_key(name) && self.loaded.len() >= max_loras {
            let idle = self
                .loaded
                .iter()
                .find(|(_, running)| **running == 0)
                .map(|(n, _)| n.clone());
            if let Some(idle) = idle {
                self.loaded.remove(&idle);
            }
        }
        *self.loaded.entry(name.to_owned()).or_insert(0) += 1;
    }

    /// The next request to run: the first whose adapter is loaded or that needs none, else the first whose
    /// adapter can be loaded.
    fn next(&mut self, max_loras: usize) -> Option<Waiting> {
        let ready = |w: &Waiting| w.adapter.as_ref().is_none_or(|a| self.loaded.contains_key(a));
        let at = self.queue.iter().position(ready).or_else(|| {
            self.queue
                .iter()
                .position(|w| self.loadable(w.adapter.as_deref(), max_loras))
        })?;
        self.queue.remove(at)
    }
}

impl Engine {
    /// An idle engine.
    pub fn new(max_running: usize, max_waiting: usize, max_loras: usize) -> Self {
        Engine(Arc::new(Shared {
            max_running,
            max_waiting,
            max_loras,
            state: Mutex::default(),
        }))
    }

    /// Asks for a slot for a request that needs `adapter`.
    pub fn admit(&self, adapter: Option<&str>) -> Admission {
        let shared = &self.0;
        let mut state = shared.state.lock();
        if state.running < shared.max_running && state.loadable(adapter, shared.max_loras) {
            state.run(adapter, shared.max_loras);
            return Admission::Running(Slot {
                engine: self.clone(),
                adapter: adapter.map(str::to_owned),
            });
        }
        if state.queue.len() >= shared.max_waiting {
            return Admission::Full;
        }
        let (grant, granted) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        state.queue.push_back(Waiting {
            id,
            adapter: adapter.map(str::to_owned),
            grant,
        });
        Admission::Waiting(Place {
            engine: self.clone(),
            id,
            granted,
        })
    }

    /// Counts now.
    pub fn counts(&self) -> Counts {
        let state = self.0.state.lock();
        let mut waiting_adapters: Vec<String> =
            state.queue.iter().filter_map(|w| w.adapter.clone()).collect();
        waiting_adapters.sort_unstable();
        waiting_adapters.dedup();
        Counts {
            running: state.running,
            waiting: state.queue.len(),
            running_adapters: state
                .loaded
                .iter()
                .filter(|(_, n)| **n > 0)
                .map(|(a, _)| a.clone())
                .collect(),
            waiting_adapters,
        }
    }

    fn release(&self, adapter: Option<&str>) {
        let shared = &self.0;
        let mut grants = Vec::new();
        {
            let mut state = shared.state.lock();
            state.running -= 1;
            if let Some(running) = adapter.and_then(|a| state.loaded.get_mut(a)) {
                *running -= 1;
            }
            while state.running < shared.max_running {
                let Some(next) = state.next(shared.max_loras) else {
                    break;
                };
                state.run(next.adapter.as_deref(), shared.max_loras);
                grants.push(next);
            }
        }
        for Waiting { adapter, grant, .. } in grants {
            // A client that has left meanwhile drops the slot, which releases it in turn; the lock is free.
            let _ = grant.send(Slot {
                engine: self.clone(),
                adapter,
            });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.engine.release(self.adapter.as_deref());
    }
}

impl Place {
    /// Waits for the slot. `None`: the engine is gone.
    pub async fn slot(mut self) -> Option<Slot> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.engine.0.state.lock();
        let at = state.queue.iter().position(|w| w.id == self.id);
        // The entry is dropped after the lock: it may hold nothing that takes it, but order costs nothing.
        let left = at.and_then(|i| state.queue.remove(i));
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(admission: Admission) -> Slot {
        match admission {
            Admission::Running(slot) => slot,
            Admission::Waiting(_) => panic!("waiting"),
            Admission::Full => panic!("full"),
        }
    }

    fn place(admission: Admission) -> Place {
        match admission {
            Admission::Waiting(place) => place,
            _ => panic!("not waiting"),
        }
    }

    #[tokio::test]
    async fn requests_run_in_order_and_the_queue_is_bounded() {
        let engine = Engine::new(1, 2, 1);
        let running = slot(engine.admit(None));
        let (first, second) = (place(engine.admit(None)), place(engine.admit(None)));
        assert!(matches!(engine.admit(None), Admission::Full));
        assert_eq!((engine.counts().running, engine.counts().waiting), (1, 2));
        drop(running);
        let first = first.slot().await.unwrap();
        assert_eq!((engine.counts().running, engine.counts().waiting), (1, 1));
        drop(second);
        drop(first);
        assert_eq!(engine.counts(), Counts::default());
    }

    #[tokio::test]
    async fn a_client_that_leaves_after_the_grant_gives_the_slot_on() {
        let engine = Engine::new(1, 5, 1);
        let running = slot(engine.admit(None));
        let gone = place(engine.admit(None));
        let next = place(engine.admit(None));
        drop(running);
        drop(gone);
        drop(next.slot().await.unwrap());
        assert_eq!(engine.counts(), Counts::default());
    }

    #[tokio::test]
    async fn an_adapter_waits_for_room_and_others_pass_it() {
        let engine = Engine::new(2, 5, 1);
        let a = slot(engine.admit(Some("a")));
        let b = place(engine.admit(Some("b")));
        let base = slot(engine.admit(None));
        let a2 = place(engine.admit(Some("a")));
        assert_eq!(engine.counts().waiting_adapters, ["a", "b"]);
        drop(base);
        let a2 = a2.slot().await.unwrap();
        assert_eq!(engine.counts().running_adapters, ["a"]);
        drop((a, a2));
        drop(b.slot().await.unwrap());
        assert_eq!(engine.counts(), Counts::default());
    }
}
