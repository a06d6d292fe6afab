//! A decision as the ring keeps it: what cannot be had again. Scores that follow from the numbers of the endpoints are
//! computed anew when somebody looks, by the scorers that gave them; so are the totals. Writing less is what makes
//! recording cheap: the memory of a slot is cold whenever its turn comes.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use crate::model::endpoint_list::EndpointList;
use crate::model::request::InferenceRequest;
use crate::model::sample::Signals;
use crate::plugin::{Cycle, Decision, FilterVerdict, PrefixState, ProfileDecision, ProfileName, others};
use crate::scheduling::weigh;

use super::gather::{Gathered, Seen};
use super::plan::{Plan, PlannedProfile};

/// The numbers a decision was made from.
pub enum Numbers<'a> {
    /// Those of the whole fleet.
    Fleet(&'a mut Gathered),
    /// Those of the endpoints of a subset hint.
    Subset(&'a [Signals]),
}

/// A decision and its numbers. Buffers are reused.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    seed: u64,
    avoided: Vec<u32>,
    primary: usize,
    names: Arc<[ProfileName]>,
    profiles: Vec<KeptProfile>,
    /// `None`: the numbers are in `own`.
    seen: Option<Seen>,
    own: Vec<Signals>,
}

#[derive(Clone, Debug, Default)]
struct KeptProfile {
    ran: bool,
    verdicts: Vec<FilterVerdict>,
    removed: Vec<u32>,
    /// How many candidates the filters left.
    left: usize,
    /// Which; empty where no filter ran, and so all that were not avoided are left in their order.
    candidates: Vec<u32>,
    /// Were they scored?
    rated: bool,
    /// Scores of the scorers that cannot be asked again, one row each.
    rows: Vec<f32>,
    picked: Vec<u32>,
}

impl Kept {
    /// Takes over what is needed of `decision`, made with `plan` from `numbers`.
    pub fn fill(&mut self, decision: &Decision, plan: &Plan, numbers: Numbers<'_>) {
        self.seed = decision.seed;
        self.avoided.clone_from(&decision.avoided);
        self.primary = decision.primary;
        if !Arc::ptr_eq(&self.names, &decision.names) {
            self.names = decision.names.clone();
        }
        self.profiles
            .resize_with(decision.profiles.len(), KeptProfile::default);
        let decided = decision.profiles.iter().zip(&plan.profiles);
        for (kept, (decided, planned)) in self.profiles.iter_mut().zip(decided) {
            kept.fill(decided, planned);
        }
        self.own.clear();
        self.seen = match numbers {
            Numbers::Fleet(gathered) => Some(gathered.keep()),
            Numbers::Subset(signals) => {
                self.own.extend_from_slice(signals);
                None
            }
        };
    }

    /// The numbers of each endpoint.
    pub fn signals(&self) -> Vec<Signals> {
        self.seen.as_ref().map_or_else(|| self.own.clone(), Seen::signals)
    }

    /// The decision as it was made, at `now`, with `plan` among `endpoints`, whose numbers were `signals`.
    pub fn decision(
        &self,
        plan: &Plan,
        endpoints: &EndpointList,
        signals: &[Signals],
        now: Instant,
    ) -> Decision {
        let cycle = Cycle {
            request: &InferenceRequest::default(),
            endpoints,
            signals,
            avoided: &self.avoided,
            now,
            prefix: &RefCell::new(PrefixState::default()),
        };
        let profiles = self.profiles.iter().zip(&plan.profiles);
        Decision {
            seed: self.seed,
            avoided: self.avoided.clone(),
            primary: self.primary,
            names: self.names.clone(),
            profiles: profiles
                .map(|(kept, planned)| kept.decision(planned, &cycle))
                .collect(),
        }
    }
}

impl KeptProfile {
    fn fill(&mut self, decided: &ProfileDecision, planned: &PlannedProfile) {
        self.ran = decided.ran;
        self.left = decided.candidates.len();
        self.rated = !decided.totals.is_empty();
        self.verdicts.clone_from(&decided.verdicts);
        self.removed.clone_from(&decided.removed);
        self.picked.clone_from(&decided.picked);
        self.candidates.clear();
        if !decided.verdicts.is_empty() {
            self.candidates.extend_from_slice(&decided.candidates);
        }
        self.rows.clear();
        for (scorer, again) in planned.again.iter().enumerate() {
            if again.0.is_none() {
                self.rows.extend_from_slice(decided.scores(scorer));
            }
        }
    }

    fn decision(&self, planned: &PlannedProfile, cycle: &Cycle<'_>) -> ProfileDecision {
        let mut decision = ProfileDecision::default();
        decision.ran = self.ran;
        decision.verdicts.clone_from(&self.verdicts);
        decision.removed.clone_from(&self.removed);
        decision.picked.clone_from(&self.picked);
        if self.verdicts.is_empty() {
            let all = u32::try_from(self.left + cycle.avoided.len()).unwrap_or(u32::MAX);
            others(all, cycle.avoided, &mut decision.candidates);
        } else {
            decision.candidates.clone_from(&self.candidates);
        }
        if self.rated {
            self.rate(planned, cycle, &mut decision);
        }
        decision
    }

    fn rate(&self, planned: &PlannedProfile, cycle: &Cycle<'_>, decision: &mut ProfileDecision) {
        let n = self.left;
        decision.totals.resize(n, 0.0);
        decision.raw.resize(n * planned.scorers.len(), 0.0);
        let mut rows = self.rows.chunks_exact(n);
        let scorers = planned.again.iter().zip(&planned.scorers);
        for ((again, (_, weight)), row) in scorers.zip(decision.raw.chunks_exact_mut(n)) {
            match &again.0 {
                Some(scorer) => scorer.score(cycle, &decision.candidates, row),
                None => row
                    .iter_mut()
                    .zip(rows.next().unwrap_or(&[]))
                    .for_each(|(to, from)| *to = *from),
            }
            weigh(row, *weight, &mut decision.totals);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datastore::Datastore;
    use crate::model::endpoint::EndpointSpec;
    use crate::model::sample::Sample;
    use crate::plugin::{Filter, Params, Roles, Scorer};
    use crate::scheduling::{Profile, RatedScorer, Scheduler, plugin_types};

    /// Keeps those named.
    struct Keep(Vec<u32>);

    impl Filter for Keep {
        fn filter(&self, _: &Cycle<'_>, candidates: &mut Vec<u32>) {
            candidates.retain(|c| self.0.contains(c));
            candidates.reverse();
        }
    }

    /// Knows what no signal says, so that it cannot be asked again.
    struct Knows(Vec<f32>);

    impl Scorer for Knows {
        fn score(&self, _: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
            for (score, c) in out.iter_mut().zip(candidates) {
                *score = self.0[*c as usize];
            }
        }
    }

    fn make(name: &str) -> Roles {
        let context = crate::plugin::Context {
            name: name.into(),
            metrics: Arc::default(),
            clock: crate::base::clock::Clock::System,
        };
        let types = plugin_types();
        let found = types.iter().find(|t| t.name == name).unwrap();
        (found.make)(&context, &Params::default()).unwrap()
    }

    fn scheduler(known: Vec<f32>, keep: Option<Vec<u32>>) -> Scheduler {
        let rated = |name: &'static str, weight, scorer| RatedScorer {
            name: name.into(),
            type_name: name,
            scorer,
            weight,
        };
        let own = |name, weight| rated(name, weight, make(name).scorer.unwrap());
        let picker = make("weighted-random-picker").picker.unwrap();
        let profile = Profile {
            name: "default".into(),
            filters: keep
                .into_iter()
                .map(|k| ("keep".into(), "keep", Arc::new(Keep(k)) as Arc<dyn Filter>))
                .collect(),
            scorers: vec![
                own("queue-scorer", 2.5),
                rated("knows", -0.7, Arc::new(Knows(known))),
                own("kv-cache-utilization-scorer", 0.3),
                own("lora-affinity-scorer", 1.1),
                own("running-requests-size-scorer", 1e9),
            ],
            picker: ("p".into(), "weighted-random-picker", picker),
        };
        let handler = make("single-profile-handler").handler.unwrap();
        Scheduler::new(vec![profile], ("h".into(), "single-profile-handler", handler)).unwrap()
    }

    proptest! {
        #[test]
        fn a_decision_comes_back_as_it_was_made(
            loads in prop::collection::vec((0_u32..9, 0_u32..5, 0.0_f64..1.2, 0_u32..3, -0.5_f32..2.0), 1..40),
            kept in prop::option::of(prop::collection::vec(0_u32..40, 0..20)),
            hinted: bool,
            unreachable in prop::collection::btree_set(0_u32..40, 0..5),
            seed: u64,
        ) {
            let store = Datastore::new("p");
            let spec = |i: usize| EndpointSpec {
                namespace: "n".into(),
                name: format!("e{i}"),
                address: ([10, 0, 0, 1], i as u16).into(),
                metrics_address: None,
                metrics_path: None,
                labels: Default::default(),
            };
            store.set_endpoints((0..loads.len()).map(spec).collect());
            let fleet = store.fleet();
            for (endpoint, (waiting, running, kv_usage, adapters, _)) in fleet.endpoints.iter().zip(&loads) {
                let lora = crate::model::sample::Lora {
                    distinct: *adapters,
                    max: 2,
                    ..Default::default()
                };
                let (waiting, running, kv_usage) = (*waiting, *running, *kv_usage);
                endpoint.publish(Sample { waiting, running, kv_usage, lora, ..Sample::default() });
            }
            let mut gathered = Gathered::default();
            let signals = gathered.gather(&fleet, "m").to_vec();
            let scheduler = scheduler(loads.iter().map(|l| l.4).collect(), kept);
            let plan = Plan::new(&scheduler, &[]);
            let avoided: Vec<u32> =
                unreachable.into_iter().filter(|i| (*i as usize) < loads.len()).collect();
            let (request, now) = (InferenceRequest::default(), Instant::now());
            let cycle = Cycle {
                request: &request,
                endpoints: &fleet.endpoints,
                signals: &signals,
                avoided: &avoided,
                now,
                prefix: &RefCell::default(),
            };
            let mut decision = Decision::default();
            let _ = scheduler.schedule(&cycle, seed, &mut decision);
            let numbers = if hinted { Numbers::Subset(&signals) } else { Numbers::Fleet(&mut gathered) };
            let mut kept = Kept::default();
            kept.fill(&decision, &plan, numbers);
            prop_assert_eq!(kept.signals(), signals);
            let back = kept.decision(&plan, &fleet.endpoints, &kept.signals(), now);
            prop_assert_eq!(back, decision);
        }
    }
}
