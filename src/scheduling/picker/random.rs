//! `random-picker`: any candidate, all alike (plugins.md §3.2).

use std::sync::Arc;

use rand::RngExt;

use crate::plugin::{DecisionRng, Picker, PluginType, Roles};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "random-picker",
    help: "Picks uniformly at random, whatever the scores.",
    params: super::PARAMS,
    make: |_, params| {
        Ok(Roles {
            picker: Some(Arc::new(Random {
                limit: super::limit(params)?,
            })),
            ..Roles::default()
        })
    },
};

/// Picks up to `limit` endpoints at random.
pub struct Random {
    limit: usize,
}

impl Picker for Random {
    fn pick(&self, candidates: &[u32], _: &[f32], rng: &mut DecisionRng, out: &mut Vec<u32>) {
        if candidates.is_empty() {
            return;
        }
        if self.limit == 1 {
            out.push(candidates[rng.random_range(0..candidates.len())]);
            return;
        }
        let from = out.len();
        out.extend_from_slice(candidates);
        super::shuffle_front(&mut out[from..], self.limit, rng);
        out.truncate(from + self.limit);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_candidate_gets_its_share_and_none_comes_twice() {
        for limit in [1, 2, 9] {
            let mut rng = DecisionRng::seed_from_u64(7);
            let mut first = [0_u32; 4];
            for _ in 0..4000 {
                let mut out = Vec::new();
                Random { limit }.pick(&[0, 1, 2, 3], &[0.0; 4], &mut rng, &mut out);
                assert_eq!(out.len(), limit.min(4));
                first[out[0] as usize] += 1;
                out.sort_unstable();
                out.dedup();
                assert_eq!(out.len(), limit.min(4));
            }
            assert!(first.iter().all(|n| (850..1150).contains(n)), "{first:?}");
        }
    }
}
