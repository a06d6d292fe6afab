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

/// A load up to this is taken as it is, however little load the others have.
const UNDOUBTED: u32 = 64;
/// How many times the median a load beyond that may be.
const TIMES_MEDIAN: u32 = 4;
/// Candidates looked at for the median at most, evenly spread.
const MEDIAN_OF: usize = 128;

/// The greatest load that is taken as it is: 64 and four times the median of `loads`. A candidate that claims more counts as
/// that, so that one cannot make the differences between all others vanish.
fn plausible(loads: impl ExactSizeIterator<Item = u32>) -> u32 {
    let mut seen = [0; MEDIAN_OF];
    let step = loads.len().div_ceil(MEDIAN_OF).max(1);
    let mut n = 0;
    for (place, load) in seen.iter_mut().zip(loads.step_by(step)) {
        *place = load;
        n += 1;
    }
    let seen = &mut seen[..n];
    if seen.is_empty() {
        return UNDOUBTED;
    }
    let (_, median, _) = seen.select_nth_unstable((n - 1) / 2);
    median.saturating_mul(TIMES_MEDIAN).saturating_add(UNDOUBTED)
}

/// Rates by a load where less is better: (max − load) / (max − min) over the candidates, 1 when all are alike. Loads beyond
/// what is [`plausible`] count as that.
fn less_is_better(cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32], load: impl Fn(&Signals) -> u32) {
    let loads = || candidates.iter().map(|c| load(&cycle.signals[*c as usize]));
    let (min, mut max) = loads().fold((u32::MAX, 0), |(min, max), q| (min.min(q), max.max(q)));
    if max > UNDOUBTED {
        max = max.min(plausible(loads()));
    }
    if min >= max {
        out.fill(1.0);
        return;
    }
    let scale = 1.0 / f64::from(max - min);
    for (score, q) in out.iter_mut().zip(loads()) {
        *score = (f64::from(max - q.min(max)) * scale) as f32;
    }
}
