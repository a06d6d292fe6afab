//! `queue-scorer`: the fewer requests waiting, the better (plugins.md §3.3).

use std::sync::Arc;

use crate::plugin::{Cycle, PluginType, Roles, Scorer};

use super::{NoParameters, less_is_better};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "queue-scorer",
    help: "Prefers endpoints with the fewest waiting requests.",
    params: &[],
    make: |_, params| {
        let NoParameters {} = params.decode(&[])?;
        Ok(Roles {
            scorer: Some(Arc::new(Queue)),
            ..Roles::default()
        })
    },
};

/// Rates by requests waiting, relative to the busiest and the idlest candidate.
pub struct Queue;

impl Scorer for Queue {
    fn score(&self, cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
        less_is_better(cycle, candidates, out, |s| s.waiting);
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
            // Within 64 and four times the median: as they are.
            (&[0, 100, 50], &[1.0, 0.0, 0.5]),
            // One that claims more than is plausible does not level the others: it counts as 64 + 4 * 16.
            (&[0, 16, 32, u32::MAX], &[1.0, 0.875, 0.75, 0.0]),
            (&[], &[]),
        ] {
            let signals = loads.iter().map(|n| Signals {
                waiting: *n,
                ..Signals::default()
            });
            assert_eq!(
                Fixture::new(signals.collect()).score(&Queue),
                expected,
                "{loads:?}"
            );
        }
    }
}
