//! Endpoints in order, as a list that never changes. A list is made of another by an edit and shares with it every part
//! the edit does not touch, so that one pod among thousands costs one part to write, to publish, to compare and to free.

use std::collections::HashSet;
use std::ops::Index;
use std::sync::Arc;

use super::endpoint::Endpoint;

/// Most endpoints in a part.
const PART: usize = 64;

type Part = Arc<[Arc<Endpoint>]>;

/// Endpoints in order.
#[derive(Clone, Debug, Default)]
pub struct EndpointList {
    /// None is empty, and no two neighbours would fit into one: their number stays within `2 * len / PART + 1`.
    parts: Vec<Part>,
    /// Position of the first endpoint of each part.
    starts: Vec<usize>,
    len: usize,
}

/// What tells two lists apart.
#[derive(Debug, Default)]
pub struct Difference {
    /// Endpoints, by identity, that only the newer list has, in its order.
    pub joined: Vec<Arc<Endpoint>>,
    /// Endpoints that only the older list has.
    pub left: Vec<Arc<Endpoint>>,
}

/// Changes to a list: endpoints by identity, and what takes their place.
#[derive(Debug, Default)]
pub struct Edit {
    places: Vec<(usize, Option<Arc<Endpoint>>)>,
    added: Vec<Arc<Endpoint>>,
}

impl Edit {
    /// Takes `endpoint` out.
    pub fn remove(&mut self, endpoint: &Arc<Endpoint>) {
        self.places.push((identity(endpoint), None));
    }

    /// Puts `new` where `old` is.
    pub fn replace(&mut self, old: &Arc<Endpoint>, new: Arc<Endpoint>) {
        self.places.push((identity(old), Some(new)));
    }

    /// Puts `new` at the end.
    pub fn append(&mut self, new: Arc<Endpoint>) {
        self.added.push(new);
    }

    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.added.is_empty()
    }

    fn place(&self, endpoint: &Arc<Endpoint>) -> Option<&Option<Arc<Endpoint>>> {
        let at = self.places.binary_search_by_key(&identity(endpoint), |p| p.0);
        Some(&self.places.get(at.ok()?)?.1)
    }

    /// The part after the edit; itself where nothing is different.
    fn part(&self, part: &Part) -> Part {
        if !part.iter().any(|e| self.place(e).is_some()) {
            return part.clone();
        }
        let after = |e: &Arc<Endpoint>| match self.place(e) {
            Some(place) => place.clone(),
            None => Some(e.clone()),
        };
        part.iter().filter_map(after).collect()
    }
}

fn identity(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint).addr()
}

impl EndpointList {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The endpoint at position `at`. A search among the parts; prefer [`EndpointList::iter`] to visit all.
    pub fn get(&self, at: usize) -> Option<&Arc<Endpoint>> {
        let part = self.starts.partition_point(|start| *start <= at).checked_sub(1)?;
        self.parts.get(part)?.get(at - self.starts.get(part)?)
    }

    /// The endpoint at position 0.
    pub fn first(&self) -> Option<&Arc<Endpoint>> {
        self.get(0)
    }

    /// All of them, in order, as slices.
    pub fn parts(&self) -> impl Iterator<Item = &[Arc<Endpoint>]> + Clone {
        self.parts.iter().map(|p| &**p)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> + Clone {
        self.parts().flatten()
    }

    /// The list after `edit`, sharing what that does not touch.
    #[must_use]
    pub fn edited(&self, mut edit: Edit) -> Self {
        edit.places.sort_unstable_by_key(|p| p.0);
        let mut list = EndpointList::with_parts(self.parts.len() + 1);
        for part in &self.parts {
            list.push(edit.part(part));
        }
        for added in edit.added.chunks(PART) {
            list.push(added.into());
        }
        list
    }

    /// Those `wanted`, sharing the parts of which all are.
    #[must_use]
    pub fn filtered(&self, wanted: impl Fn(&Endpoint) -> bool) -> Self {
        let mut list = EndpointList::with_parts(self.parts.len());
        for part in &self.parts {
            match part.iter().position(|e| !wanted(e)) {
                None => list.push(part.clone()),
                Some(at) => {
                    let rest = part[at + 1..].iter().filter(|e| wanted(e));
                    list.push(part[..at].iter().chain(rest).cloned().collect());
                }
            }
        }
        list
    }

    /// What this list has and `older` has not, and the other way round. Looks only into parts they do not share.
    pub fn difference(&self, older: &EndpointList) -> Difference {
        Difference {
            joined: self.beyond(older),
            left: older.beyond(self),
        }
    }

    fn beyond(&self, other: &EndpointList) -> Vec<Arc<Endpoint>> {
        let shared: HashSet<*const Arc<Endpoint>> = other.parts.iter().map(|p| p.as_ptr()).collect();
        let own: Vec<&Part> = self
            .parts
            .iter()
            .filter(|p| !shared.contains(&p.as_ptr()))
            .collect();
        if own.is_empty() {
            return Vec::new();
        }
        let here: HashSet<*const Arc<Endpoint>> = self.parts.iter().map(|p| p.as_ptr()).collect();
        let others = other.parts.iter().filter(|p| !here.contains(&p.as_ptr()));
        let known: HashSet<usize> = others.flat_map(|p| p.iter()).map(identity).collect();
        let unknown = own.into_iter().flat_map(|p| p.iter());
        unknown
            .filter(|e| !known.contains(&identity(e)))
            .cloned()
            .collect()
    }

    fn with_parts(parts: usize) -> Self {
        EndpointList {
            parts: Vec::with_capacity(parts),
            starts: Vec::with_capacity(parts),
            len: 0,
        }
    }

    /// Puts a part of at most [`PART`] at the end: into the last one, where both fit.
    fn push(&mut self, part: Part) {
        if part.is_empty() {
            return;
        }
        self.len += part.len();
        match self.parts.last_mut() {
            Some(last) if last.len() + part.len() <= PART => {
                *last = last.iter().chain(&*part).cloned().collect();
            }
            _ => {
                self.starts.push(self.len - part.len());
                self.parts.push(part);
            }
        }
    }
}

impl From<Vec<Arc<Endpoint>>> for EndpointList {
    fn from(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let added = endpoints;
        EndpointList::default().edited(Edit {
            added,
            ..Edit::default()
        })
    }
}

impl FromIterator<Arc<Endpoint>> for EndpointList {
    fn from_iter<I: IntoIterator<Item = Arc<Endpoint>>>(endpoints: I) -> Self {
        Vec::from_iter(endpoints).into()
    }
}

impl Index<usize> for EndpointList {
    type Output = Arc<Endpoint>;

    fn index(&self, at: usize) -> &Arc<Endpoint> {
        match self.get(at) {
            Some(endpoint) => endpoint,
            None => panic!("position {at} in a list of {} endpoints", self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::endpoint::EndpointSpec;

    fn endpoint(id: u64) -> Arc<Endpoint> {
        let spec = EndpointSpec {
            namespace: "n".into(),
            name: format!("e{id}"),
            address: ([10, 0, 0, 1], 1).into(),
            metrics_address: None,
            metrics_path: None,
            labels: BTreeMap::new(),
        };
        Arc::new(Endpoint::new(spec, id, 0))
    }

    fn ids<'a>(endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>) -> Vec<u64> {
        endpoints.into_iter().map(|e| e.id).collect()
    }

    fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
        ids.sort_unstable();
        ids
    }

    /// What a test does to an endpoint: its place in the list by share, and which of three edits.
    fn edits() -> impl Strategy<Value = Vec<Vec<(usize, u8)>>> {
        prop::collection::vec(prop::collection::vec((0_usize..1000, 0_u8..3), 1..90), 1..12)
    }

    proptest! {
        #[test]
        fn it_is_a_list_and_its_difference_is_what_was_edited(start in 0_u64..300, rounds in edits()) {
            let mut model: Vec<Arc<Endpoint>> = (0..start).map(endpoint).collect();
            let mut list: EndpointList = model.iter().cloned().collect();
            let mut next = start;
            for round in rounds {
                let (before, older) = (model.clone(), list.clone());
                let mut edit = Edit::default();
                let mut touched = HashSet::new();
                for (at, kind) in round {
                    next += 1;
                    let new = endpoint(next);
                    let old = before.get(at % before.len().max(1)).filter(|e| touched.insert(e.id));
                    match (kind, old) {
                        (1, Some(old)) => {
                            edit.remove(old);
                            model.retain(|e| e.id != old.id);
                        }
                        (2, Some(old)) => {
                            edit.replace(old, new.clone());
                            model.iter_mut().filter(|e| e.id == old.id).for_each(|e| *e = new.clone());
                        }
                        _ => {
                            edit.append(new.clone());
                            model.push(new);
                        }
                    }
                }
                list = list.edited(edit);
                prop_assert_eq!(ids(list.iter()), ids(&model));
                prop_assert_eq!(list.len(), model.len());
                for (at, endpoint) in model.iter().enumerate() {
                    prop_assert_eq!(list[at].id, endpoint.id);
                }
                prop_assert!(list.get(model.len()).is_none());
                prop_assert!(list.parts().all(|p| !p.is_empty() && p.len() <= PART));
                prop_assert!(list.parts.windows(2).all(|w| w[0].len() + w[1].len() > PART));
                let found = list.difference(&older);
                let (was, is): (HashSet<u64>, HashSet<u64>) =
                    (ids(&before).into_iter().collect(), ids(&model).into_iter().collect());
                prop_assert_eq!(sorted(ids(&found.joined)), sorted(is.difference(&was).copied().collect()));
                prop_assert_eq!(sorted(ids(&found.left)), sorted(was.difference(&is).copied().collect()));
                let odd = list.filtered(|e| e.id % 2 == 1);
                let wanted: Vec<u64> = ids(&model).into_iter().filter(|id| id % 2 == 1).collect();
                prop_assert_eq!(ids(odd.iter()), wanted);
            }
        }
    }

    #[test]
    fn what_an_edit_does_not_touch_is_shared() {
        let list: EndpointList = (0..1000).map(endpoint).collect();
        let mut edit = Edit::default();
        edit.remove(&list[500]);
        edit.append(endpoint(1000));
        let edited = list.edited(edit);
        let before: HashSet<_> = list.parts.iter().map(Arc::as_ptr).collect();
        let new = edited.parts.iter().filter(|p| !before.contains(&Arc::as_ptr(p)));
        assert_eq!(new.count(), 2);
        assert!(
            list.filtered(|_| true)
                .parts
                .iter()
                .all(|p| before.contains(&Arc::as_ptr(p)))
        );
    }
}
