//! The waiting requests (simulator.md §8): in order of arrival, those whose adapter is loaded first, and nobody for
//! ever. Called by the engine's core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lora::Adapters;

/// Who arrived when: smaller is earlier.
pub type Order = u64;

/// The waiting requests, by adapter.
#[derive(Debug)]
pub struct Queue {
    by_adapter: BTreeMap<Option<Arc<str>>, BTreeSet<Order>>,
    len: usize,
    /// Begun out of turn since the first one became the first.
    passed: usize,
    patience: usize,
}

impl Queue {
    /// An empty queue; once `patience` requests have gone before the first one, it is its turn.
    pub fn new(patience: usize) -> Self {
        Queue {
            by_adapter: BTreeMap::new(),
            len: 0,
            passed: 0,
            patience,
        }
    }

    /// Requests waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adapters waited for, sorted.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.by_adapter.keys().filter_map(|a| a.as_deref())
    }

    /// Adds a request.
    pub fn push(&mut self, order: Order, adapter: Option<Arc<str>>) {
        if self.first().is_none_or(|(first, _)| order < first) {
            self.passed = 0;
        }
        self.by_adapter.entry(adapter).or_default().insert(order);
        self.len += 1;
    }

    /// Takes a request out, to run or because its client has left.
    pub fn remove(&mut self, order: Order, adapter: &Option<Arc<str>>) -> bool {
        let first = self.first().map(|(first, _)| first);
        let Some(queue) = self.by_adapter.get_mut(adapter) else {
            return false;
        };
        if !queue.remove(&order) {
            return false;
        }
        if queue.is_empty() {
            self.by_adapter.remove(adapter);
        }
        self.len -= 1;
        if first == Some(order) {
            self.passed = 0;
        }
        true
    }

    /// Is it the first one?
    pub fn is_first(&self, order: Order) -> bool {
        self.first().is_some_and(|(first, _)| first == order)
    }

    /// A request has begun while the first one still waits.
    pub fn pass(&mut self) {
        if self.len > 0 {
            self.passed += 1;
        }
    }

    /// May a request with this adapter begin although others wait? Not where that would keep the first one waiting
    /// whose turn has come.
    pub fn lets_pass(&self, adapter: Option<&str>, adapters: &Adapters) -> bool {
        match self.overdue() {
            Some(Some(wanted)) => adapter.is_none() && !adapters.is_loadable(wanted),
            Some(None) => false,
            None => true,
        }
    }

    /// The next request to run: the first one that needs no adapter or a loaded one, else the first one whose
    /// adapter can be loaded. Where the first one has waited too long: that one, and until it can run only
    /// requests without an adapter.
    pub fn next(&self, adapters: &Adapters) -> Option<(Order, Option<Arc<str>>)> {
        if let Some(wanted) = self.overdue() {
            let can = wanted.is_none_or(|a| adapters.is_loadable(a));
            return if can {
                self.first().map(|(order, a)| (order, a.clone()))
            } else {
                self.front(&None).map(|order| (order, None))
            };
        }
        let ready = adapters.loaded().map(|a| Some(a.clone())).chain([None]);
        let ready = ready.filter_map(|a| self.front(&a).map(|order| (order, a)));
        ready.min().or_else(|| {
            let first = self.first().filter(|_| adapters.has_room());
            first.map(|(order, a)| (order, a.clone()))
        })
    }

    fn front(&self, adapter: &Option<Arc<str>>) -> Option<Order> {
        self.by_adapter.get(adapter)?.first().copied()
    }

    fn first(&self) -> Option<(Order, &Option<Arc<str>>)> {
        let fronts = self.by_adapter.iter();
        fronts
            .filter_map(|(a, queue)| Some((*queue.first()?, a)))
            .min_by_key(|(order, _)| *order)
    }

    /// What the first one needs, if too many have gone before it.
    fn overdue(&self) -> Option<Option<&str>> {
        if self.passed < self.patience {
            return None;
        }
        self.first().map(|(_, a)| a.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> Option<Arc<str>> {
        Some(Arc::from(n))
    }

    #[test]
    fn loaded_adapters_and_none_go_first_then_those_that_can_be_loaded() {
        let mut adapters = Adapters::new(1, 1);
        let mut queue = Queue::new(100);
        adapters.begin(&Arc::from("a"));
        queue.push(1, name("b"));
        queue.push(2, name("a"));
        queue.push(3, None);
        assert_eq!(queue.next(&adapters), Some((2, name("a"))));
        queue.remove(2, &name("a"));
        assert_eq!(queue.next(&adapters), Some((3, None)));
        queue.remove(3, &None);
        assert_eq!(queue.next(&adapters), None);
        adapters.end("a");
        assert_eq!(queue.next(&adapters), Some((1, name("b"))));
        assert_eq!(
            (queue.len(), queue.adapters().collect::<Vec<_>>()),
            (1, vec!["b"])
        );
    }

    #[test]
    fn who_has_been_passed_too_often_is_next() {
        let mut adapters = Adapters::new(1, 1);
        let mut queue = Queue::new(2);
        adapters.begin(&Arc::from("a"));
        queue.push(1, name("b"));
        assert!(queue.lets_pass(Some("a"), &adapters));
        queue.pass();
        queue.pass();
        queue.push(2, name("a"));
        queue.push(3, None);
        assert!(!queue.lets_pass(Some("a"), &adapters));
        assert!(
            queue.lets_pass(None, &adapters),
            "without an adapter it is in nobody's way"
        );
        assert_eq!(queue.next(&adapters), Some((3, None)));
        adapters.end("a");
        assert!(!queue.lets_pass(None, &adapters));
        assert_eq!(queue.next(&adapters), Some((1, name("b"))));
        queue.remove(1, &name("b"));
        assert_eq!(
            queue.next(&adapters),
            Some((2, name("a"))),
            "patience begins anew"
        );
    }
}
