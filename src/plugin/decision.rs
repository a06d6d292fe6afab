//! A decision that can be explained: every filter's verdict, every scorer's raw and weighted value.
//! Buffers are flat and reused, so that deciding allocates nothing after warm-up.

/// Outcome of one scheduling call. Indices of endpoints are those of the [`super::Cycle`].
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Seed of the random generator: same request, snapshot, time and seed give the same decision.
    pub seed: u64,
    /// One entry per profile of the scheduler, in configuration order.
    pub profiles: Vec<ProfileDecision>,
    /// The profile whose endpoints become the destination.
    pub primary: usize,
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
#[derive(Clone, Debug, Default)]
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
}

impl Decision {
    /// Prepares for another decision over `profiles` profiles, keeping the buffers.
    pub fn reset(&mut self, seed: u64, profiles: usize) {
        self.seed = seed;
        self.primary = 0;
        self.profiles.resize_with(profiles, ProfileDecision::default);
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
}
