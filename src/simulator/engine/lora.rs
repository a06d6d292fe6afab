//! Which adapters are loaded (simulator.md §8). `max_loras` are in slots, where requests can run with them;
//! `max_cpu_loras` are in memory, from where a slot is filled at once; the others come from disk, which takes time.
//! Called by the engine's core.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashlink::LinkedHashSet;

/// The adapters of one simulator.
#[derive(Debug, Default)]
pub struct Adapters {
    slots: usize,
    in_memory: usize,
    /// Running requests by adapter in a slot; 0: idle.
    loaded: BTreeMap<Arc<str>, usize>,
    /// Adapters in memory, least recently used first.
    memory: LinkedHashSet<Arc<str>>,
}

impl Adapters {
    /// No adapter is loaded.
    pub fn new(slots: usize, in_memory: usize) -> Self {
        Adapters {
            slots: slots.max(1),
            in_memory: in_memory.max(slots),
            ..Adapters::default()
        }
    }

    /// Is it in a slot?
    pub fn is_loaded(&self, name: &str) -> bool {
        self.loaded.contains_key(name)
    }

    /// Can an adapter that is not in a slot get one?
    pub fn has_room(&self) -> bool {
        self.loaded.len() < self.slots || self.loaded.values().any(|running| *running == 0)
    }

    /// Could a request with it run?
    pub fn is_loadable(&self, name: &str) -> bool {
        self.is_loaded(name) || self.has_room()
    }

    /// Counts a request that begins; false: the adapter had to come from disk.
    pub fn begin(&mut self, name: &Arc<str>) -> bool {
        if !self.is_loaded(name) && self.loaded.len() >= self.slots {
            // The one that was used longest ago of those that are idle.
            let idle = |a: &&Arc<str>| self.loaded.get(*a) == Some(&0);
            if let Some(idle) = self.memory.iter().find(idle).cloned() {
                self.loaded.remove(&idle);
            }
        }
        *self.loaded.entry(name.clone()).or_insert(0) += 1;
        let at_hand = self.memory.remove(name);
        self.memory.insert(name.clone());
        if self.memory.len() > self.in_memory {
            // What is in a slot stays in memory; there are at least as many places there as slots.
            let out = self
                .memory
                .iter()
                .find(|a| !self.loaded.contains_key(*a))
                .cloned();
            if let Some(out) = out {
                self.memory.remove(&out);
            }
        }
        at_hand
    }

    /// Counts a request that ends; true: it was the last one with this adapter.
    pub fn end(&mut self, name: &str) -> bool {
        let Some(running) = self.loaded.get_mut(name) else {
            return false;
        };
        *running = running.saturating_sub(1);
        *running == 0
    }

    /// Adapters in slots.
    pub fn loaded(&self) -> impl Iterator<Item = &Arc<str>> {
        self.loaded.keys()
    }

    /// Adapters requests run with, sorted.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        self.loaded
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(a, _)| a.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_adapter_makes_room_and_stays_in_memory_for_a_while() {
        let name = |n: &str| Arc::<str>::from(n);
        let mut adapters = Adapters::new(1, 2);
        assert!(!adapters.begin(&name("a")), "from disk");
        assert!(adapters.is_loadable("a") && !adapters.is_loadable("b"));
        assert!(adapters.end("a"));
        assert!(!adapters.begin(&name("b")));
        adapters.end("b");
        assert!(adapters.begin(&name("a")), "still in memory");
        adapters.end("a");
        assert!(!adapters.begin(&name("c")));
        adapters.end("c");
        assert!(!adapters.begin(&name("b")), "b had to go for c");
        assert_eq!(adapters.running().collect::<Vec<_>>(), ["b"]);
    }
}
