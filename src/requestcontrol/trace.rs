//! What the span of an exchange is told: its request, its admission, how each profile decided.

use std::time::Instant;

use crate::base::clock::Clock;
use crate::model::request::InferenceRequest;
use crate::plugin::{Cycle, Decision, ProfileDecision};
use crate::scheduling::{Observer, Scheduler, Stage};
use crate::telemetry::spans::{ExchangeSpan, Value, names};

/// Tells the span what is asked for. Never a payload.
pub fn request(span: &mut ExchangeSpan, request: &InferenceRequest, objective: Option<&str>) {
    if !span.recording() {
        return;
    }
    span.set(names::MODEL, || request.incoming_model.clone());
    span.set(names::TARGET_MODEL, || request.target_model.clone());
    span.set(names::REQUEST_ID, || request.id.clone());
    span.set(names::FAIRNESS_ID, || request.fairness_id.clone());
    span.set(names::PRIORITY, || i64::from(request.priority));
    span.set(names::STREAMING, || request.streaming);
    span.set(names::REQUEST_BYTES, || whole(request.size));
    if let Some(objective) = objective {
        span.set(names::OBJECTIVE, || objective.to_owned());
    }
}

/// The admission as a child.
pub fn admission(span: &ExchangeSpan, times: (Instant, Instant), candidates: usize, shed: bool) {
    let result = if shed { "shed" } else { "admitted" };
    let attributes = [
        (names::CANDIDATES, Value::from(whole(candidates))),
        (names::ADMITTED, Value::from(result)),
    ];
    span.child(names::ADMISSION, times, None, attributes);
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Notes when each stage of a decision ended, beside another observer.
pub struct Stages<'a, O> {
    beside: O,
    clock: &'a Clock,
    ended: Vec<(Option<Stage>, Instant)>,
}

impl<'a, O: Observer> Stages<'a, O> {
    /// Notes beside `beside`.
    pub fn new(beside: O, clock: &'a Clock) -> Self {
        Stages {
            beside,
            clock,
            ended: Vec::new(),
        }
    }
}

impl<O: Observer> Observer for Stages<'_, O> {
    fn started(&mut self) {
        self.beside.started();
        self.ended.push((None, self.clock.now()));
    }

    fn ran(&mut self, stage: Stage) {
        self.beside.ran(stage);
        self.ended.push((Some(stage), self.clock.now()));
    }
}

impl<O> Stages<'_, O> {
    /// A child for every profile that ran, with its pick as a child of that.
    pub fn tell(&self, span: &ExchangeSpan, scheduler: &Scheduler, cycle: &Cycle<'_>, decision: &Decision) {
        let ran = decision.profiles.iter().enumerate().filter(|(_, p)| p.ran);
        for (at, profile) in ran {
            let Some(times) = self.times(|s| profile_of(s) == Some(at)) else {
                continue;
            };
            let Some(configured) = scheduler.profiles().get(at) else {
                continue;
            };
            let picked = picked(cycle, profile);
            let attributes = [
                (names::PROFILE_NAME, Value::from(configured.name.to_string())),
                (names::PROFILE_LEFT, Value::from(whole(profile.candidates.len()))),
                (names::PICKED, Value::from(picked.clone())),
            ];
            let child = span.child(names::PROFILE, times, None, attributes);
            if let Some(times) = self.times(|s| s == Stage::Picker { profile: at }) {
                let attributes = [
                    (names::PICKER, Value::from(configured.picker.0.to_string())),
                    (names::PICKED, Value::from(picked)),
                ];
                span.child(names::PICK, times, child.as_ref(), attributes);
            }
        }
    }

    /// From the end of what came before the first stage that is `of`, to the end of the last one.
    fn times(&self, of: impl Fn(Stage) -> bool) -> Option<(Instant, Instant)> {
        let is = |(stage, _): &(Option<Stage>, Instant)| stage.is_some_and(&of);
        let first = self.ended.iter().position(is)?;
        let last = self.ended.iter().rposition(is)?;
        let began = self.ended.get(first.checked_sub(1)?)?.1;
        Some((began, self.ended.get(last)?.1))
    }
}

fn profile_of(stage: Stage) -> Option<usize> {
    match stage {
        Stage::Filter { profile, .. } | Stage::Scorer { profile, .. } | Stage::Picker { profile } => {
            Some(profile)
        }
        Stage::ProfilePicker | Stage::ProcessProfilesResults => None,
    }
}

fn picked(cycle: &Cycle<'_>, profile: &ProfileDecision) -> String {
    let authority = |i: &u32| cycle.endpoints.get(*i as usize).map(|e| &*e.authority);
    let all: Vec<&str> = profile.picked.iter().filter_map(authority).collect();
    all.join(",")
}

/// Tells the span where the request goes, and how much of its prompt is known there.
pub fn pick(span: &mut ExchangeSpan, cycle: &Cycle<'_>, decision: &Decision) {
    let Some(target) = decision
        .targets()
        .first()
        .map(|t| *t as usize)
        .filter(|_| span.recording())
    else {
        return;
    };
    if let Some(endpoint) = cycle.endpoints.get(target) {
        span.set(names::ENDPOINT, || endpoint.authority.to_string());
        span.set(names::ENDPOINT_NAME, || endpoint.spec.name.clone());
    }
    let prefix = cycle.prefix.borrow();
    if let Some(found) = prefix.iter().next() {
        span.set(names::PROMPT_BLOCKS, || whole(found.hashes.len()));
        let matched = found.matched.get(target).copied().unwrap_or(0);
        span.set(names::CACHED_BLOCKS, || i64::from(matched));
    }
}
