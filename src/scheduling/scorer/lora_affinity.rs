//! `lora-affinity-scorer`: where the adapter is, then where there is room for it (plugins.md §3.3; distinct
//! adapters count, decision 20).

use std::sync::Arc;

use crate::model::sample::Signals;
use crate::plugin::{Cycle, PluginType, Roles, Scorer};

use super::NoParameters;

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "lora-affinity-scorer",
    help: "Prefers endpoints where the requested LoRA adapter runs, then those with room to load it, then those where it waits.",
    params: &[],
    make: |_, params| {
        let NoParameters {} = params.decode(&[])?;
        Ok(Roles {
            scorer: Some(Arc::new(LoraAffinity)),
            ..Roles::default()
        })
    },
};

/// Rates by the standing of the target model as an adapter.
pub struct LoraAffinity;

impl Scorer for LoraAffinity {
    fn score(&self, cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
        for (score, c) in out.iter_mut().zip(candidates) {
            *score = affinity(&cycle.signals[*c as usize]);
        }
    }

    fn of_signals(&self) -> bool {
        true
    }
}

fn affinity(signals: &Signals) -> f32 {
    if signals.adapter_active {
        1.0
    } else if signals.adapters < signals.max_adapters {
        0.8
    } else if signals.adapter_waiting {
        0.6
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::sample::{Lora, Sample};
    use crate::scheduling::fixture::Fixture;

    fn set(names: &[&str]) -> HashSet<Box<str>> {
        names.iter().map(|n| (*n).into()).collect()
    }

    #[test]
    fn active_then_room_then_waiting_then_nothing() {
        let table: [(&[&str], &[&str], u32, f32); 8] = [
            (&["m"], &[], 1, 1.0),
            (&["m"], &["m"], 1, 1.0),
            (&["a"], &[], 2, 0.8),
            (&["a"], &["m"], 3, 0.8),
            (&["a"], &["m"], 2, 0.6),
            (&["a"], &["b"], 2, 0.0),
            // An adapter both running and waiting takes one place, not two.
            (&["a"], &["a"], 2, 0.8),
            // Nothing reported: no capacity known.
            (&[], &[], 0, 0.0),
        ];
        for (active, waiting, max, expected) in table {
            let sample = Sample {
                lora: Lora::new(set(active), set(waiting), max),
                ..Sample::default()
            };
            let scores = Fixture::new(vec![sample.signals("m")]).score(&LoraAffinity);
            assert_eq!(scores, [expected], "{active:?} {waiting:?} {max}");
        }
    }
}
