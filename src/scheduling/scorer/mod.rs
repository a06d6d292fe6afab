//! Scorers: rate candidates by 0..=1, higher is better.

pub mod kv_cache_utilization;
pub mod lora_affinity;
pub mod prefix_cache;
pub mod queue;
pub mod running_requests;

use serde::Deserialize;

use crate::model::sample::Signals;
use crate::plugin::Cycle;

/// Parameters of a scorer that has none.
#[derive(Default, Deserialize)]
struct NoParameters {}

/// Rates by a load where less is better: (max − load) / (max − min) over the candidates, 1 when all are alike.
fn less_is_better(cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32], load: impl Fn(&Signals) -> u32) {
    let loads = || candidates.iter().map(|c| load(&cycle.signals[*c as usize]));
    let (min, max) = loads().fold((u32::MAX, 0), |(min, max), q| (min.min(q), max.max(q)));
    if min >= max {
        out.fill(1.0);
        return;
    }
    let scale = 1.0 / f64::from(max - min);
    for (score, q) in out.iter_mut().zip(loads()) {
        *score = (f64::from(max - q) * scale) as f32;
    }
}
