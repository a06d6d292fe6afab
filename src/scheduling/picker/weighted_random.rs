//! `weighted-random-picker`: the chance of an endpoint is its share of the scores (plugins.md §3.2).
//!
//! The reference draws a key `u^(1/score)` per endpoint and sorts (A-Res, Efraimidis and Spirakis 2006). Drawing
//! one endpoint after the other in proportion to what is left has the same distribution, needs one random
//! number per endpoint picked instead of one per candidate, and no buffer.

use std::sync::Arc;

use rand::RngExt;

use crate::plugin::{DecisionRng, Picker, PluginType, Roles};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "weighted-random-picker",
    help: "Picks at random in proportion to the weighted sum of scores; uniformly when no score is positive.",
    params: super::PARAMS,
    make: |_, params| {
        Ok(Roles {
            picker: Some(Arc::new(WeightedRandom {
                limit: super::limit(params)?,
            })),
            ..Roles::default()
        })
    },
};

/// Picks up to `limit` endpoints without replacement.
pub struct WeightedRandom {
    limit: usize,
}

impl Picker for WeightedRandom {
    fn pick(&self, candidates: &[u32], totals: &[f32], rng: &mut DecisionRng, out: &mut Vec<u32>) {
        let from = out.len();
        out.extend((0..).take(candidates.len()));
        let positions = &mut out[from..];
        for i in 0..self.limit.min(positions.len()) {
            let at = i + draw(&positions[i..], totals, rng);
            positions.swap(i, at);
        }
        out.truncate(from + self.limit.min(candidates.len()));
        for slot in &mut out[from..] {
            *slot = candidates[*slot as usize];
        }
    }
}

/// Draws one of `positions` (not empty) in proportion to its total; uniformly when none is positive.
fn draw(positions: &[u32], totals: &[f32], rng: &mut DecisionRng) -> usize {
    let weight = |p: &u32| f64::from(totals[*p as usize].max(0.0));
    let sum: f64 = positions.iter().map(weight).sum();
    if sum <= 0.0 {
        return rng.random_range(0..positions.len());
    }
    let mut left = rng.random::<f64>() * sum;
    let mut last = 0;
    for (i, w) in positions.iter().map(weight).enumerate() {
        if w > 0.0 {
            if left < w {
                return i;
            }
            left -= w;
            last = i;
        }
    }
    // Rounding can leave a crumb after the last positive weight.
    last
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn shares(limit: usize, totals: &[f32], at: usize) -> Vec<f64> {
        let candidates: Vec<u32> = (0..).take(totals.len()).collect();
        let mut rng = DecisionRng::seed_from_u64(11);
        let mut counts = vec![0.0; totals.len()];
        for _ in 0..20_000 {
            let mut out = Vec::new();
            WeightedRandom { limit }.pick(&candidates, totals, &mut rng, &mut out);
            assert_eq!(out.len(), limit.min(totals.len()));
            counts[out[at] as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    /// The distribution of the reference: key u^(1/score), greatest first.
    fn a_res(totals: &[f32], at: usize) -> Vec<f64> {
        let mut rng = DecisionRng::seed_from_u64(12);
        let mut counts = vec![0.0; totals.len()];
        for _ in 0..20_000 {
            let mut keys: Vec<(f64, usize)> = totals
                .iter()
                .enumerate()
                .map(|(i, t)| (rng.random::<f64>().powf(1.0 / f64::from(*t)), i))
                .collect();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            counts[keys[at].1] += 1.0 / 20_000.0;
        }
        counts
    }

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.02)
    }

    #[test]
    fn chances_follow_the_scores() {
        assert!(near(
            &shares(1, &[1.0, 3.0, 0.0, -2.0], 0),
            &[0.25, 0.75, 0.0, 0.0]
        ));
    }

    #[test]
    fn every_place_is_distributed_as_in_a_res() {
        let totals = [0.5, 1.0, 2.5, 3.0];
        for at in 0..4 {
            let (ours, theirs) = (shares(4, &totals, at), a_res(&totals, at));
            assert!(near(&ours, &theirs), "place {at}: {ours:?} {theirs:?}");
        }
    }

    #[test]
    fn without_a_positive_score_all_are_alike() {
        assert!(near(&shares(1, &[0.0, 0.0, -1.0, 0.0], 0), &[0.25; 4]));
        let second = shares(2, &[0.0, 5.0, 0.0], 1);
        assert!(near(&second, &[0.5, 0.0, 0.5]), "{second:?}");
    }
}
