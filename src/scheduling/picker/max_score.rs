//! `max-score-picker`: the best total wins, ties are uniformly random (plugins.md §3.2).

use std::sync::Arc;

use rand::RngExt;

use crate::plugin::{DecisionRng, Picker, PluginType, Roles};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "max-score-picker",
    help: "Picks the endpoints with the greatest weighted sum of scores; ties are broken at random.",
    params: super::PARAMS,
    make: |_, params| {
        Ok(Roles {
            picker: Some(Arc::new(MaxScore {
                limit: super::limit(params)?,
            })),
            ..Roles::default()
        })
    },
};

/// Picks up to `limit` endpoints by descending total.
pub struct MaxScore {
    limit: usize,
}

impl Picker for MaxScore {
    fn pick(&self, candidates: &[u32], totals: &[f32], rng: &mut DecisionRng, out: &mut Vec<u32>) {
        if candidates.is_empty() {
            return;
        }
        if self.limit == 1 {
            out.push(candidates[best(totals, rng)]);
            return;
        }
        // Positions first, endpoints last: totals are by position. Sorting a uniform shuffle leaves ties in
        // uniform order, also with an unstable sort, since equal elements are alike to it.
        let from = out.len();
        out.extend((0..).take(candidates.len()));
        let order = &mut out[from..];
        super::shuffle_front(order, candidates.len(), rng);
        let by_total = |a: &u32, b: &u32| totals[*b as usize].total_cmp(&totals[*a as usize]);
        if self.limit < order.len() {
            order.select_nth_unstable_by(self.limit, by_total);
            out.truncate(from + self.limit);
        }
        out[from..].sort_unstable_by(by_total);
        for slot in &mut out[from..] {
            *slot = candidates[*slot as usize];
        }
    }
}

/// The position of the greatest total; one draw among ties.
fn best(totals: &[f32], rng: &mut DecisionRng) -> usize {
    let top = max(totals);
    let ties = totals.iter().filter(|t| **t == top).count();
    let chosen = if ties > 1 { rng.random_range(0..ties) } else { 0 };
    let mut of_top = totals.iter().enumerate().filter(|(_, t)| **t == top);
    of_top.nth(chosen).map_or(0, |(i, _)| i)
}

/// The greatest of `totals`, in lanes the compiler can keep in vector registers.
fn max(totals: &[f32]) -> f32 {
    const LANES: usize = 8;
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = totals.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, t) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, *t);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn pick(limit: usize, totals: &[f32], seed: u64) -> Vec<u32> {
        let candidates: Vec<u32> = (100..).take(totals.len()).collect();
        let mut out = Vec::new();
        let mut rng = DecisionRng::seed_from_u64(seed);
        MaxScore { limit }.pick(&candidates, totals, &mut rng, &mut out);
        out
    }

    #[test]
    fn the_best_totals_win_in_order() {
        let totals = [0.5, 3.0, 1.0, -2.0, 2.0];
        for (limit, expected) in [
            (1, vec![101]),
            (2, vec![101, 104]),
            (4, vec![101, 104, 102, 100]),
            (9, vec![101, 104, 102, 100, 103]),
        ] {
            for seed in 0..20 {
                assert_eq!(pick(limit, &totals, seed), expected, "limit {limit} seed {seed}");
            }
        }
    }

    #[test]
    fn ties_are_uniformly_random() {
        for limit in [1, 2, 4] {
            let mut counts = [0_u32; 20];
            let mut totals = [0.0_f32; 20];
            for tied in [3, 9, 17] {
                totals[tied] = 1.5;
            }
            for seed in 0..3000 {
                counts[pick(limit, &totals, seed)[0] as usize - 100] += 1;
            }
            for tied in [3, 9, 17] {
                assert!((880..1120).contains(&counts[tied]), "limit {limit}: {counts:?}");
            }
        }
    }

    #[test]
    fn no_candidates_no_pick() {
        assert!(pick(1, &[], 1).is_empty());
        assert!(pick(3, &[], 1).is_empty());
    }
}
