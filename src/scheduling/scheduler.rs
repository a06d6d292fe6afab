//! The scheduler: asks the handler which profile runs next until it is done, then for the primary one.

use std::sync::Arc;

use crate::plugin::{Cycle, Decision, Handler, ProfileName};

use super::Profile;

/// Why scheduling failed; the text goes after `failed to find target pod: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(pub String);

/// Profiles and their handler. Immutable; share it in an `Arc`.
pub struct Scheduler {
    names: Vec<ProfileName>,
    profiles: Vec<Profile>,
    handler: (Arc<str>, &'static str, Arc<dyn Handler>),
}

impl Scheduler {
    /// A scheduler over `profiles`.
    ///
    /// # Errors
    /// What the handler dislikes about the profiles.
    pub fn new(
        profiles: Vec<Profile>,
        handler: (Arc<str>, &'static str, Arc<dyn Handler>),
    ) -> Result<Self, String> {
        let names: Vec<ProfileName> = profiles.iter().map(|p| p.name.clone()).collect();
        handler.2.check(&names)?;
        Ok(Scheduler {
            names,
            profiles,
            handler,
        })
    }

    /// Profile names in configuration order.
    pub fn profile_names(&self) -> &[ProfileName] {
        &self.names
    }

    /// The profiles in configuration order; decisions index them.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// Decides. Deterministic in (cycle, seed); `decision` is overwritten and its buffers reused.
    ///
    /// # Errors
    /// No profile ran, or the handler cannot name a primary result.
    pub fn schedule(
        &self,
        cycle: &Cycle<'_>,
        seed: u64,
        decision: &mut Decision,
    ) -> Result<(), ScheduleError> {
        decision.reset(seed, self.profiles.len());
        let _ = (cycle, &self.handler);
        Err(ScheduleError("not written yet".into()))
    }
}
