//! Which endpoints a decision avoids: those that cannot be reached, as long as enough others can. The list of the whole
//! fleet is kept by each thread and made again only when a standing or the fleet has changed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::datastore::Fleet;
use crate::model::endpoint_list::EndpointList;
use crate::model::health::Standing;

/// The endpoints of one list that are not healthy, judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unhealthy {
    /// Their positions, ascending.
    positions: Vec<u32>,
    /// Are too many unhealthy? Then health is ignored.
    panic: bool,
}

/// What a thread knows of the health of a fleet. Used by the director; its contents outlive a decision.
#[derive(Debug, Default)]
pub struct Avoided {
    /// Whose. Weak: an idle thread keeps no endpoint alive.
    fleet: Weak<Fleet>,
    /// Changes of standing seen when the list was made.
    changes: u64,
    all: Unhealthy,
    /// The same of the last subset.
    subset: Unhealthy,
}

impl Avoided {
    /// Positions to avoid among `endpoints`, ascending: the endpoints of `fleet`, or where `subset` some of them.
    /// `panic_percent` is the share of healthy ones below which none is avoided; without any healthy one, none is either.
    pub fn of(
        &mut self,
        fleet: &Arc<Fleet>,
        endpoints: &EndpointList,
        subset: bool,
        panic_percent: u32,
    ) -> &[u32] {
        // Read before the standings: one that changes meanwhile makes the next call look again.
        let changes = fleet.health_changes.load(Ordering::Acquire);
        if self.fleet.as_ptr() != Arc::as_ptr(fleet) || self.changes != changes {
            self.fleet = Arc::downgrade(fleet);
            self.changes = changes;
            self.all.find(&fleet.endpoints, panic_percent);
        }
        if subset && !self.all.positions.is_empty() {
            self.subset.find(endpoints, panic_percent);
            return self.subset.avoided();
        }
        if subset { &[] } else { self.all.avoided() }
    }
}

impl Unhealthy {
    fn find(&mut self, endpoints: &EndpointList, panic_percent: u32) {
        self.positions.clear();
        let unhealthy = (0..).zip(endpoints.iter());
        let unhealthy = unhealthy.filter(|(_, e)| e.health.standing() != Standing::Healthy);
        self.positions.extend(unhealthy.map(|(at, _): (u32, _)| at));
        let healthy = endpoints.len() - self.positions.len();
        self.panic = healthy == 0 || healthy * 100 < endpoints.len() * panic_percent as usize;
    }

    fn avoided(&self) -> &[u32] {
        if self.panic { &[] } else { &self.positions }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::datastore::Datastore;
    use crate::model::endpoint::EndpointSpec;
    use crate::model::health::{Evidence, HealthPolicy};

    fn fleet(n: u16) -> Datastore {
        let store = Datastore::new("p");
        let spec = |port: u16| EndpointSpec {
            namespace: "n".into(),
            name: format!("e{port}"),
            address: ([10, 0, 0, 1], port).into(),
            metrics_address: None,
            metrics_path: None,
            labels: Default::default(),
        };
        store.set_endpoints((1..=n).map(spec).collect());
        store
    }

    fn observe(store: &Datastore, at: usize, evidence: Evidence) {
        let endpoint = store.fleet().endpoints[at].clone();
        endpoint
            .health
            .observe(evidence, Instant::now(), HealthPolicy::default());
    }

    #[test]
    fn the_unhealthy_are_avoided_unless_too_few_are_left() {
        // Endpoints, those that refuse, panic threshold, those avoided.
        let rows: [(u16, &[usize], u32, &[u32]); 8] = [
            (4, &[], 50, &[]),
            (4, &[1], 50, &[1]),
            (4, &[1, 3], 50, &[1, 3]),
            (4, &[1, 2, 3], 50, &[]),
            (4, &[1, 2, 3], 0, &[1, 2, 3]),
            (4, &[0, 1, 2, 3], 0, &[]),
            (4, &[2], 100, &[]),
            (1, &[0], 50, &[]),
        ];
        for (n, refuse, percent, want) in rows {
            let store = fleet(n);
            refuse
                .iter()
                .for_each(|at| observe(&store, *at, Evidence::Refused));
            let fleet = store.fleet().clone();
            let mut avoided = Avoided::default();
            let got = avoided.of(&fleet, &fleet.endpoints, false, percent);
            assert_eq!(got, want, "{n} {refuse:?} {percent}");
        }
    }

    #[test]
    fn a_changed_standing_and_a_changed_fleet_are_seen() {
        let store = fleet(3);
        let mut avoided = Avoided::default();
        let mut now = || -> Vec<u32> {
            let fleet = store.fleet().clone();
            avoided.of(&fleet, &fleet.endpoints, false, 50).to_vec()
        };
        assert!(now().is_empty());
        observe(&store, 2, Evidence::Refused);
        assert_eq!(now(), [2]);
        store.update(vec![], &[("n".into(), "e1".into())]);
        assert_eq!(now(), [1]);
        observe(&store, 1, Evidence::Answered);
        assert!(now().is_empty());
    }

    #[test]
    fn panic_is_judged_within_a_subset() {
        let store = fleet(6);
        observe(&store, 0, Evidence::Refused);
        let fleet = store.fleet().clone();
        let mut avoided = Avoided::default();
        let mut of = |ports: &[u16]| -> Vec<u32> {
            let subset = fleet.endpoints.filtered(|e| ports.contains(&e.port()));
            avoided.of(&fleet, &subset, true, 50).to_vec()
        };
        assert_eq!(of(&[1, 2]), [0]);
        assert!(of(&[1]).is_empty());
        assert!(of(&[2, 3]).is_empty());
    }
}
