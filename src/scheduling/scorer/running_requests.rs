//! `running-requests-size-scorer`: the fewer requests running, the better (plugins.md §3.3).

use std::sync::Arc;

use crate::plugin::{Cycle, PluginType, Roles, Scorer};

use super::{NoParameters, less_is_better};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "running-requests-size-scorer",
    help: "Prefers endpoints with the fewest running requests.",
    params: &[],
    make: |_, params| {
        let NoParameters {} = params.decode(&[])?;
        Ok(Roles {
            scorer: Some(Arc::new(RunningRequests)),
            ..Roles::default()
        })
    },
};

/// Rates by requests running, relative to the busiest and the idlest candidate.
pub struct RunningRequests;

impl Scorer for RunningRequests {
    fn score(&self, cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
        less_is_better(cycle, candidates, out, |s| s.running);
    }

    fn of_signals(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample::Signals;
    use crate::scheduling::fixture::Fixture;

    #[test]
    fn scores_spread_between_the_idlest_and_the_busiest_candidate() {
        for (loads, expected) in [
            (&[10, 5, 0][..], &[0.0, 0.5, 1.0][..]),
            (&[7, 7], &[1.0, 1.0]),
            (&[3], &[1.0]),
            (&[0, u32::MAX], &[1.0, 0.0]),
            (&[], &[]),
        ] {
            let signals = loads.iter().map(|n| Signals {
                running: *n,
                ..Signals::default()
            });
            assert_eq!(
                Fixture::new(signals.collect()).score(&RunningRequests),
                expected,
                "{loads:?}"
            );
        }
    }
}
