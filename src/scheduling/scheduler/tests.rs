//! Tests of the scheduler: what a decision records, its errors, and that it is a function of its inputs.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::sample::Signals;
use crate::plugin::{DecisionRng, Filter, Picker, Scorer};
use crate::scheduling::RatedScorer;
use crate::scheduling::fixture::{Fixture, make};
use crate::scheduling::handler::single_profile::SingleProfile;
use crate::scheduling::picker::{max_score, random, weighted_random};

/// Keeps the endpoints named, whether they were candidates or not.
struct Keep(Vec<u32>);

impl Filter for Keep {
    fn filter(&self, _: &Cycle<'_>, candidates: &mut Vec<u32>) {
        candidates.clone_from(&self.0);
    }
}

/// Gives fixed scores by endpoint.
struct Fixed(Vec<f32>);

impl Scorer for Fixed {
    fn score(&self, _: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
        for (score, c) in out.iter_mut().zip(candidates) {
            *score = self.0[*c as usize];
        }
    }
}

/// Runs the profiles named, in order, then takes the last as primary.
struct Script(Vec<usize>);

impl Handler for Script {
    fn check(&self, _: &[ProfileName]) -> Result<(), String> {
        Ok(())
    }

    fn next(&self, _: &Cycle<'_>, _: &[ProfileName], decision: &Decision) -> HandlerStep {
        let ran = decision.profiles.iter().filter(|p| p.ran).count();
        self.0
            .get(ran)
            .map_or(HandlerStep::Done, |at| HandlerStep::Run(*at))
    }

    fn primary(&self, _: &[ProfileName], _: &Decision) -> Result<usize, String> {
        self.0.last().copied().ok_or_else(|| "nothing ran".into())
    }
}

fn profile(name: &str, filters: Vec<Keep>, scorers: Vec<(Vec<f32>, f64)>) -> Profile {
    let picker = make(&max_score::TYPE, "{}").picker.unwrap();
    Profile {
        name: name.into(),
        filters: filters
            .into_iter()
            .map(|f| ("keep".into(), "keep", Arc::new(f) as Arc<dyn Filter>))
            .collect(),
        scorers: scorers
            .into_iter()
            .map(|(scores, weight)| RatedScorer {
                name: "fixed".into(),
                type_name: "fixed",
                scorer: Arc::new(Fixed(scores)),
                weight,
            })
            .collect(),
        picker: ("max".into(), "max-score-picker", picker),
    }
}

fn single(profile: Profile) -> Scheduler {
    Scheduler::new(vec![profile], ("h".into(), "h", Arc::new(SingleProfile))).unwrap()
}

fn scripted(profiles: Vec<Profile>, script: Vec<usize>) -> Scheduler {
    Scheduler::new(profiles, ("h".into(), "h", Arc::new(Script(script)))).unwrap()
}

fn run(scheduler: &Scheduler, fixture: &Fixture) -> (Decision, Result<(), String>) {
    let mut decision = Decision::default();
    let result = scheduler.schedule(&fixture.cycle(), 1, &mut decision);
    (decision, result.map_err(|e| e.to_string()))
}

#[test]
fn scores_are_clamped_before_they_are_weighted() {
    let table: [(f32, f32); 6] = [
        (-1.0, 0.0),
        (0.25, 0.25),
        (1.0, 1.0),
        (7.0, 1.0),
        (f32::NAN, 0.0),
        (f32::INFINITY, 1.0),
    ];
    let scores = table.map(|(given, _)| given).to_vec();
    let (decision, result) = run(
        &single(profile("p", vec![], vec![(scores, 2.0), (vec![1.0; 6], 3.0)])),
        &Fixture::idle(6),
    );
    assert_eq!(result, Ok(()));
    let p = &decision.profiles[0];
    for (i, (given, clamped)) in table.into_iter().enumerate() {
        assert_eq!(p.scores(0)[i], clamped, "{given}");
        assert_eq!(p.totals[i], clamped * 2.0 + 3.0, "{given}");
    }
    assert_eq!(p.scores(1), [1.0; 6]);
    assert!([2, 3, 5].contains(&decision.targets()[0]));
}

#[test]
fn extreme_weights_still_give_a_pick() {
    for weight in [f64::MAX, f64::MIN, f64::INFINITY, f64::NAN, -1.0, 0.0] {
        let scorers = vec![(vec![0.0, 1.0], weight), (vec![1.0, 0.0], -weight)];
        let (decision, result) = run(&single(profile("p", vec![], scorers)), &Fixture::idle(2));
        assert_eq!(result, Ok(()), "{weight}");
        assert!(decision.profiles[0].totals.iter().all(|t| t.is_finite()));
    }
}

#[test]
fn every_filter_leaves_a_verdict_until_one_empties_the_list() {
    let filters = vec![Keep(vec![3, 1, 0]), Keep(vec![1, 3]), Keep(vec![]), Keep(vec![1])];
    let scheduler = single(profile("p", filters, vec![(vec![1.0; 4], 1.0)]));
    let (decision, result) = run(&scheduler, &Fixture::idle(4));
    assert_eq!(result, Err("failed to run scheduler profile 'p'".into()));
    let p = &decision.profiles[0];
    let removed: Vec<&[u32]> = p.verdicts.iter().map(|v| &p.removed[v.removed.clone()]).collect();
    assert_eq!(removed, [&[2][..], &[0], &[1, 3]]);
    assert!(p.raw.is_empty() && p.picked.is_empty());
    assert_eq!(
        scheduler.profiles()[0].failure(p).unwrap(),
        "no endpoints available for the given request: filter 'keep' left none"
    );
}

#[test]
fn no_endpoints_at_all_fail_the_profile() {
    let scheduler = single(profile("p", vec![], vec![(vec![], 1.0)]));
    let (decision, result) = run(&scheduler, &Fixture::idle(0));
    assert_eq!(result, Err("failed to run scheduler profile 'p'".into()));
    let failure = scheduler.profiles()[0].failure(&decision.profiles[0]);
    assert_eq!(failure.unwrap(), "no endpoints available for the given request");
}

#[test]
fn handlers_run_profiles_in_their_order_and_name_the_primary() {
    let profiles = || {
        ["a", "b", "c"]
            .map(|n| profile(n, vec![Keep(vec![u32::from(n.as_bytes()[0] - b'a')])], vec![]))
            .to_vec()
    };
    let (decision, result) = run(&scripted(profiles(), vec![2, 0]), &Fixture::idle(3));
    assert_eq!(result, Ok(()));
    assert_eq!(
        decision.profiles.iter().map(|p| p.ran).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert_eq!((decision.primary, decision.targets()), (0, &[0][..]));
    let errors = [
        (vec![], "failed to run any scheduler profile for request r1"),
        (
            vec![1, 1],
            "profile handler 'h' asked for a profile that is not there or has run: profile 1",
        ),
        (
            vec![9],
            "profile handler 'h' asked for a profile that is not there or has run: profile 9",
        ),
    ];
    for (script, error) in errors {
        assert_eq!(
            run(&scripted(profiles(), script), &Fixture::idle(3)).1,
            Err(error.into())
        );
    }
}

#[test]
fn a_handler_may_dislike_the_profiles() {
    let profiles = vec![profile("a", vec![], vec![]), profile("b", vec![], vec![])];
    let made = Scheduler::new(profiles, ("h".into(), "h", Arc::new(SingleProfile)));
    assert_eq!(
        made.err().unwrap(),
        "SingleProfileHandler cannot support multiple scheduling profiles"
    );
}

#[test]
fn an_observer_hears_every_stage_in_order() {
    struct Log(Vec<Stage>);
    impl Observer for Log {
        fn started(&mut self) {
            assert!(self.0.is_empty());
        }
        fn ran(&mut self, stage: Stage) {
            self.0.push(stage);
        }
    }
    let scheduler = single(profile("p", vec![Keep(vec![0])], vec![(vec![1.0], 1.0)]));
    let (fixture, mut decision, mut log) = (Fixture::idle(1), Decision::default(), Log(Vec::new()));
    scheduler
        .schedule_observed(&fixture.cycle(), 1, &mut decision, &mut log)
        .unwrap();
    let (profile, index) = (0, 0);
    let expected = [
        Stage::ProfilePicker,
        Stage::Filter { profile, index },
        Stage::Scorer { profile, index },
        Stage::Picker { profile },
        Stage::ProfilePicker,
        Stage::ProcessProfilesResults,
    ];
    assert_eq!(log.0, expected);
}

fn picker(which: usize, json: &str) -> Arc<dyn Picker> {
    let types = [&max_score::TYPE, &random::TYPE, &weighted_random::TYPE];
    make(types[which], json).picker.unwrap()
}

proptest! {
    #[test]
    fn a_decision_repeats_and_picks_only_candidates(
        n in 0_usize..40,
        scores in prop::collection::vec(prop::collection::vec(prop::num::f32::ANY, 40), 0..4),
        weights in prop::collection::vec(prop::num::f64::ANY, 4),
        keep in prop::option::of(prop::collection::vec(0_u32..60, 0..30)),
        which in 0_usize..3,
        limit in 1_usize..6,
        seed in any::<u64>(),
    ) {
        let scorers = scores.into_iter().zip(weights).collect();
        let mut p = profile("p", keep.into_iter().map(Keep).collect(), scorers);
        p.picker.2 = picker(which, &format!("{{\"maxNumOfEndpoints\": {limit}}}"));
        let scheduler = single(p);
        let fixture = Fixture::new(vec![Signals::default(); n]);
        let (mut first, mut again) = (Decision::default(), Decision::default());
        let result = scheduler.schedule(&fixture.cycle(), seed, &mut first);
        // The second run reuses the buffers of another decision.
        let _ = scheduler.schedule(&fixture.cycle(), !seed, &mut again);
        prop_assert_eq!(&result, &scheduler.schedule(&fixture.cycle(), seed, &mut again));
        prop_assert_eq!(&first, &again);
        let p = &first.profiles[0];
        prop_assert_eq!(result.is_ok(), !p.candidates.is_empty());
        prop_assert_eq!(p.picked.len(), limit.min(p.candidates.len()));
        for (i, picked) in p.picked.iter().enumerate() {
            prop_assert!(p.candidates.contains(picked) && (*picked as usize) < n);
            prop_assert!(!p.picked[..i].contains(picked));
        }
    }
}

#[test]
fn other_seeds_break_ties_otherwise() {
    let scheduler = single(profile("p", vec![], vec![]));
    let fixture = Fixture::idle(10);
    let mut seen = [false; 10];
    for seed in 0..200 {
        let mut decision = Decision::default();
        scheduler.schedule(&fixture.cycle(), seed, &mut decision).unwrap();
        seen[decision.targets()[0] as usize] = true;
    }
    assert_eq!(seen, [true; 10]);
}

#[test]
fn pickers_may_not_be_asked_about_nothing_and_pick_something() {
    for which in 0..3 {
        let mut out = Vec::new();
        let mut rng = DecisionRng::seed_from_u64(1);
        picker(which, "{\"maxNumOfEndpoints\": 2}").pick(&[], &[], &mut rng, &mut out);
        assert!(out.is_empty());
    }
}
