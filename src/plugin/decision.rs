//! A decision that can be explained: every filter's verdict, every scorer's raw and weighted value.
//! Buffers are flat and reused, so that deciding allocates nothing after warm-up.

use std::sync::Arc;

use super::ProfileName;

/// Outcome of one scheduling call. Indices of endpoints are those of the [`super::Cycle`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Seed of the random generator: same request, snapshot, time and seed give the same decision.
    pub seed: u64,
    /// Endpoints that no profile started with, by ascending index.
    pub avoided: Vec<u32>,
    /// One entry per profile of the scheduler, in configuration order.
    pub profiles: Vec<ProfileDecision>,
    /// The profile whose endpoints become the destination.
    pub primary: usize,
    /// Names of the profiles, in configuration order.
    pub names: Arc<[ProfileName]>,
}

/// What one filter removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterVerdict {
    /// Position of the filter in its profile.
    pub filter: usize,
    /// Range of [`ProfileDecision::removed`] it took out.
    pub removed: std::ops::Range<usize>,
}

/// How one profile decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileDecision {
    /// Has this profile run in this decision?
    pub ran: bool,
    /// Verdicts, in filter order; filters after one that emptied the list have none.
    pub verdicts: Vec<FilterVerdict>,
    /// Endpoints removed by filters, grouped by verdict.
    pub removed: Vec<u32>,
    /// Endpoints left after the filters.
    pub candidates: Vec<u32>,
    /// Raw scores, one row of `candidates.len()` values per scorer, clamped to 0..=1.
    pub raw: Vec<f32>,
    /// Weighted sum per candidate.
    pub totals: Vec<f32>,
    /// Endpoints picked, best first. Empty: the profile ran and failed, or did not run.
    pub picked: Vec<u32>,
    scratch: Scratch,
}

/// The indices below `n` that are not in `avoided`, which ascends, appended to `out`.
pub fn others(n: u32, avoided: &[u32], out: &mut Vec<u32>) {
    let mut from = 0;
    for index in avoided.iter().filter(|i| **i < n) {
        out.extend(from..*index);
        from = index + 1;
    }
    out.extend(from..n);
}

/// Working memory of [`ProfileDecision::narrow`]; no part of the outcome, so all are equal.
#[derive(Clone, Debug, Default)]
struct Scratch {
    before: Vec<u32>,
    waiting: Vec<u64>,
}

impl PartialEq for Scratch {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Scratch {
    /// Takes `i` off the list of those still waiting for a verdict; false if it was not on it.
    fn take(&mut self, i: u32) -> bool {
        let Some(word) = self.waiting.get_mut(i as usize / 64) else {
            return false;
        };
        let bit = 1 << (i % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }
}

impl Decision {
    /// Prepares for another decision over the profiles `names`, keeping the buffers.
    pub fn reset(&mut self, seed: u64, names: &Arc<[ProfileName]>) {
        self.seed = seed;
        self.avoided.clear();
        self.primary = 0;
        if !Arc::ptr_eq(&self.names, names) {
            self.names = names.clone();
        }
        self.profiles.resize_with(names.len(), ProfileDecision::default);
        for p in &mut self.profiles {
            p.ran = false;
            p.verdicts.clear();
            p.removed.clear();
            p.candidates.clear();
            p.raw.clear();
            p.totals.clear();
            p.picked.clear();
        }
    }

    /// The part of the profile called `name`, if it ran.
    pub fn profile(&self, name: &str) -> Option<&ProfileDecision> {
        let at = self.names.iter().position(|n| **n == *name)?;
        self.profiles.get(at).filter(|p| p.ran)
    }

    /// The endpoints of the primary profile, best first.
    pub fn targets(&self) -> &[u32] {
        self.profiles.get(self.primary).map_or(&[], |p| &p.picked)
    }
}

impl ProfileDecision {
    /// The raw scores scorer number `scorer` gave, one per candidate.
    pub fn scores(&self, scorer: usize) -> &[f32] {
        let n = self.candidates.len();
        self.raw.get(scorer * n..(scorer + 1) * n).unwrap_or(&[])
    }

    /// Lets `filter` narrow the candidates and records its verdict. What it leaves that was no candidate, or
    /// leaves twice, is dropped: a filter can only take away and reorder.
    pub fn narrow(&mut self, filter: usize, run: impl FnOnce(&mut Vec<u32>)) {
        let scratch = &mut self.scratch;
        scratch.before.clone_from(&self.candidates);
        run(&mut self.candidates);
        let words = scratch.before.iter().max().map_or(0, |m| *m as usize / 64 + 1);
        scratch.waiting.clear();
        scratch.waiting.resize(words, 0);
        for i in &scratch.before {
            scratch.waiting[*i as usize / 64] |= 1 << (i % 64);
        }
        self.candidates.retain(|i| scratch.take(*i));
        let from = self.removed.len();
        for k in 0..scratch.before.len() {
            let i = scratch.before[k];
            if scratch.take(i) {
                self.removed.push(i);
            }
        }
        self.verdicts.push(FilterVerdict {
            filter,
            removed: from..self.removed.len(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_all_but_those_avoided() {
        for (n, avoided, want) in [
            (4, &[][..], &[0, 1, 2, 3][..]),
            (4, &[0, 3], &[1, 2]),
            (4, &[1, 2], &[0, 3]),
            (2, &[0, 1], &[]),
            (2, &[1, 9], &[0]),
            (0, &[], &[]),
        ] {
            let mut out = Vec::new();
            others(n, avoided, &mut out);
            assert_eq!(out, want, "{n} {avoided:?}");
        }
    }

    #[test]
    fn a_filter_can_only_take_away_and_reorder() {
        let mut p = ProfileDecision {
            candidates: vec![0, 1, 2, 70],
            ..ProfileDecision::default()
        };
        p.narrow(0, |c| *c = vec![70, 9, 0, 70, 400]);
        assert_eq!(p.candidates, [70, 0]);
        assert_eq!(p.removed, [1, 2]);
        p.narrow(1, Vec::clear);
        assert_eq!(p.verdicts[1].removed, 2..4);
        assert_eq!(p.removed, [1, 2, 70, 0]);
    }
}
