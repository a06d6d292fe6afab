//! A scheduling profile: filters narrow, scorers rate, one picker chooses.

use std::sync::Arc;

use crate::plugin::{Cycle, DecisionRng, Filter, Picker, ProfileDecision, ProfileName, Scorer, others};

use super::observe::{Observer, Stage};

/// A scorer and the weight its clamped scores are multiplied with.
#[derive(Clone)]
pub struct RatedScorer {
    /// Name of the plugin instance.
    pub name: Arc<str>,
    /// Its type.
    pub type_name: &'static str,
    /// The scorer.
    pub scorer: Arc<dyn Scorer>,
    /// Any finite number; weights are not normalised.
    pub weight: f64,
}

/// A profile, in configuration order.
#[derive(Clone)]
pub struct Profile {
    /// Name in the configuration.
    pub name: ProfileName,
    /// Filters by instance name, type and role.
    pub filters: Vec<(Arc<str>, &'static str, Arc<dyn Filter>)>,
    /// Scorers.
    pub scorers: Vec<RatedScorer>,
    /// Picker by instance name, type and role.
    pub picker: (Arc<str>, &'static str, Arc<dyn Picker>),
}

/// Weights beyond this are taken as this, so that no sum of scores overflows and no total is NaN.
const MAX_WEIGHT: f64 = 1e30;

impl Profile {
    /// Runs profile number `at` over all endpoints of the cycle but those it avoids. `out.picked` stays empty when
    /// it fails; [`Profile::failure`] says why.
    pub(super) fn run(
        &self,
        at: usize,
        cycle: &Cycle<'_>,
        rng: &mut DecisionRng,
        out: &mut ProfileDecision,
        observer: &mut impl Observer,
    ) {
        out.ran = true;
        let all = u32::try_from(cycle.endpoints.len()).unwrap_or(u32::MAX);
        others(all, cycle.avoided, &mut out.candidates);
        for (index, (_, _, filter)) in self.filters.iter().enumerate() {
            out.narrow(index, |candidates| filter.filter(cycle, candidates));
            observer.ran(Stage::Filter { profile: at, index });
            if out.candidates.is_empty() {
                return;
            }
        }
        if out.candidates.is_empty() {
            return;
        }
        self.rate(at, cycle, out, observer);
        self.picker
            .2
            .pick(&out.candidates, &out.totals, rng, &mut out.picked);
        observer.ran(Stage::Picker { profile: at });
    }

    fn rate(&self, at: usize, cycle: &Cycle<'_>, out: &mut ProfileDecision, observer: &mut impl Observer) {
        let n = out.candidates.len();
        out.totals.resize(n, 0.0);
        out.raw.resize(n * self.scorers.len(), 0.0);
        for (index, (rated, row)) in self.scorers.iter().zip(out.raw.chunks_exact_mut(n)).enumerate() {
            rated.scorer.score(cycle, &out.candidates, row);
            weigh(row, rated.effective_weight(), &mut out.totals);
            observer.ran(Stage::Scorer { profile: at, index });
        }
    }

    /// Why this profile's part of a decision has no endpoint; `None` when it has one or has not run.
    pub fn failure(&self, decision: &ProfileDecision) -> Option<String> {
        if !decision.ran || !decision.picked.is_empty() {
            return None;
        }
        if !decision.candidates.is_empty() {
            return Some(format!("picker '{}' picked no endpoint", self.picker.0));
        }
        let last = decision.verdicts.last().and_then(|v| self.filters.get(v.filter));
        let by = last.map_or(String::new(), |(name, ..)| format!(": filter '{name}' left none"));
        Some(format!("no endpoints available for the given request{by}"))
    }
}

impl RatedScorer {
    /// The weight scores are multiplied with: finite, at most 1e30 either way; NaN is 0.
    pub fn effective_weight(&self) -> f32 {
        if self.weight.is_nan() {
            return 0.0;
        }
        self.weight.clamp(-MAX_WEIGHT, MAX_WEIGHT) as f32
    }
}

/// Clamps the scores of one scorer to 0..=1 and adds them to the totals of the candidates.
pub fn weigh(row: &mut [f32], weight: f32, totals: &mut [f32]) {
    for (score, total) in row.iter_mut().zip(totals) {
        *score = clamp(*score);
        *total += *score * weight;
    }
}

/// Into 0..=1; NaN is 0.
#[inline]
fn clamp(score: f32) -> f32 {
    if score > 0.0 { score.min(1.0) } else { 0.0 }
}
