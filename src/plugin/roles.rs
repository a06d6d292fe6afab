//! The roles of scheduling: filter, scorer, picker, profile handler.

use std::any::Any;
use std::sync::Arc;

use super::hooks::{EndpointObserver, PreRequest, ResponseComplete, ResponseHeaders};
use super::{Cycle, Decision, DecisionRng};

/// Narrows the candidates.
pub trait Filter: Send + Sync {
    /// Leaves in `candidates` (indices of the cycle) those that may serve. Order is kept unless the filter
    /// means another one. An empty result fails the profile.
    fn filter(&self, cycle: &Cycle<'_>, candidates: &mut Vec<u32>);
}

/// Rates the candidates.
pub trait Scorer: Send + Sync {
    /// Writes one score per candidate into `out` (same length and order, all 0 on entry). Scores are clamped
    /// to 0..=1 by the caller before they are weighted.
    fn score(&self, cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32]);

    /// Do the scores follow from the signals of the candidates alone, whatever else is in the cycle? Then they are not
    /// recorded with a decision: who looks at it has them computed again.
    fn of_signals(&self) -> bool {
        false
    }
}

/// Chooses among rated candidates.
pub trait Picker: Send + Sync {
    /// Appends the chosen endpoints to `out`, best first. `totals` are the weighted sums of `candidates`.
    fn pick(&self, candidates: &[u32], totals: &[f32], rng: &mut DecisionRng, out: &mut Vec<u32>);
}

/// Name of a scheduling profile.
pub type ProfileName = Arc<str>;

/// What a handler wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerStep {
    /// Run the profile at this index, then ask again.
    Run(usize),
    /// No more profiles: process the results.
    Done,
}

/// Decides which profiles run, and which one is primary.
pub trait Handler: Send + Sync {
    /// Checks at start-up that the configured profiles suit this handler.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the profiles.
    fn check(&self, profiles: &[ProfileName]) -> Result<(), String>;

    /// The next profile to run, given what has run so far.
    fn next(&self, cycle: &Cycle<'_>, profiles: &[ProfileName], decision: &Decision) -> HandlerStep;

    /// Chooses the primary profile among those that ran.
    ///
    /// # Errors
    /// The text of the failure, when the results do not allow a destination.
    fn primary(&self, profiles: &[ProfileName], decision: &Decision) -> Result<usize, String>;
}

/// The roles one plugin instance plays. A plugin may play several.
#[derive(Clone, Default)]
pub struct Roles {
    /// Filter role.
    pub filter: Option<Arc<dyn Filter>>,
    /// Scorer role.
    pub scorer: Option<Arc<dyn Scorer>>,
    /// Picker role.
    pub picker: Option<Arc<dyn Picker>>,
    /// Profile handler role.
    pub handler: Option<Arc<dyn Handler>>,
    /// Runs after the pick, before the request goes on.
    pub pre_request: Option<Arc<dyn PreRequest>>,
    /// Runs on response headers.
    pub response_headers: Option<Arc<dyn ResponseHeaders>>,
    /// Runs once when the exchange is over.
    pub response_complete: Option<Arc<dyn ResponseComplete>>,
    /// Hears of endpoints that leave.
    pub endpoint_observer: Option<Arc<dyn EndpointObserver>>,
    /// A role of another floor (data source, extractor, discovery): that floor knows the type to ask for.
    pub extension: Option<Arc<dyn Any + Send + Sync>>,
}
