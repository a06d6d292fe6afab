//! `kv-cache-utilization-scorer`: the emptier the KV cache, the better (plugins.md §3.3).

use std::sync::Arc;

use crate::plugin::{Cycle, PluginType, Roles, Scorer};

use super::NoParameters;

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "kv-cache-utilization-scorer",
    help: "Prefers endpoints with the most free KV cache.",
    params: &[],
    make: |_, params| {
        let NoParameters {} = params.decode(&[])?;
        Ok(Roles {
            scorer: Some(Arc::new(KvCacheUtilization)),
            ..Roles::default()
        })
    },
};

/// Rates by 1 − KV-cache use.
pub struct KvCacheUtilization;

impl Scorer for KvCacheUtilization {
    fn score(&self, cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
        for (score, c) in out.iter_mut().zip(candidates) {
            *score = (1.0 - cycle.signals[*c as usize].kv_usage) as f32;
        }
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
    fn the_score_is_what_is_free() {
        let signals = [0.0, 0.25, 0.8, 1.0].map(|kv_usage| Signals {
            kv_usage,
            ..Signals::default()
        });
        let scores = Fixture::new(signals.to_vec()).score(&KvCacheUtilization);
        assert_eq!(scores, [1.0, 0.75, 0.2, 0.0]);
    }
}
