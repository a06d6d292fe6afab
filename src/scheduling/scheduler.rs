//! The scheduler: asks the handler which profile runs next until it is done, then for the primary one.

use std::sync::Arc;

use rand::SeedableRng;

use crate::plugin::{Cycle, Decision, DecisionRng, Handler, HandlerStep, ProfileDecision, ProfileName};
use crate::telemetry::logging::verbose;

use super::Profile;
use super::observe::{Observer, Stage, Unobserved};

/// Why scheduling failed; the text goes after `failed to find target pod: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(pub String);

/// Profiles and their handler. Immutable; share it in an `Arc`.
pub struct Scheduler {
    names: Arc<[ProfileName]>,
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
        let names: Arc<[ProfileName]> = profiles.iter().map(|p| p.name.clone()).collect();
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

    /// Instance name and type of the handler.
    pub fn handler(&self) -> (&Arc<str>, &'static str) {
        (&self.handler.0, self.handler.1)
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
        self.schedule_observed(cycle, seed, decision, &mut Unobserved)
    }

    /// [`Scheduler::schedule`], with `observer` told of every boundary between plugins.
    ///
    /// # Errors
    /// As [`Scheduler::schedule`].
    pub fn schedule_observed(
        &self,
        cycle: &Cycle<'_>,
        seed: u64,
        decision: &mut Decision,
        observer: &mut impl Observer,
    ) -> Result<(), ScheduleError> {
        decision.reset(seed, &self.names);
        decision.avoided.extend_from_slice(cycle.avoided);
        let mut rng = DecisionRng::seed_from_u64(seed);
        let handler = &*self.handler.2;
        observer.started();
        loop {
            let step = handler.next(cycle, &self.names, decision);
            observer.ran(Stage::ProfilePicker);
            let HandlerStep::Run(at) = step else { break };
            let (profile, out) = self.due(at, decision)?;
            profile.run(at, cycle, &mut rng, out, observer);
        }
        if !decision.profiles.iter().any(|p| p.ran) {
            let id = &cycle.request.id;
            return Err(ScheduleError(format!(
                "failed to run any scheduler profile for request {id}"
            )));
        }
        let primary = handler.primary(&self.names, decision);
        observer.ran(Stage::ProcessProfilesResults);
        decision.primary = primary.map_err(|text| {
            self.explain(decision);
            ScheduleError(text)
        })?;
        if decision.targets().is_empty() {
            return Err(self.wrong_step("named a primary profile without endpoints", decision.primary));
        }
        Ok(())
    }

    /// Says in the log which filter or picker left a profile without an endpoint: the error has the reference's
    /// text, which does not.
    fn explain(&self, decision: &Decision) {
        for (profile, part) in self.profiles.iter().zip(&decision.profiles) {
            if let Some(reason) = profile.failure(part) {
                verbose!(
                    2,
                    profile = &*profile.name,
                    reason = reason,
                    "Scheduling profile has no endpoint"
                );
            }
        }
    }

    /// The profile the handler asked for. Asking twice for one would never end.
    fn due<'d>(
        &self,
        at: usize,
        decision: &'d mut Decision,
    ) -> Result<(&Profile, &'d mut ProfileDecision), ScheduleError> {
        match (self.profiles.get(at), decision.profiles.get_mut(at)) {
            (Some(profile), Some(out)) if !out.ran => Ok((profile, out)),
            _ => Err(self.wrong_step("asked for a profile that is not there or has run", at)),
        }
    }

    fn wrong_step(&self, what: &str, at: usize) -> ScheduleError {
        let (name, _) = self.handler();
        ScheduleError(format!("profile handler '{name}' {what}: profile {at}"))
    }
}

#[cfg(test)]
mod tests;
