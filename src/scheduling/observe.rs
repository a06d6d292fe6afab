//! Who watches a decision: nothing, or the plugin timers. The scheduler itself reads no clock; an observer
//! that wants times reads them at the boundaries it is told of.

use std::time::Instant;

use crate::base::clock::Clock;
use crate::telemetry::metrics::{Metrics, PluginTimer};

use super::{Profile, Scheduler};

/// A piece of a decision that has just run. Numbers are positions in configuration order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The handler said which profile runs next.
    ProfilePicker,
    /// Filter `index` of a profile.
    Filter {
        /// Profile.
        profile: usize,
        /// Filter in the profile.
        index: usize,
    },
    /// Scorer `index` of a profile.
    Scorer {
        /// Profile.
        profile: usize,
        /// Scorer in the profile.
        index: usize,
    },
    /// The picker of a profile.
    Picker {
        /// Profile.
        profile: usize,
    },
    /// The handler named the primary result.
    ProcessProfilesResults,
}

/// Told of every boundary between the plugins of a decision.
pub trait Observer {
    /// The decision starts now.
    fn started(&mut self);
    /// `stage` has run since the last call.
    fn ran(&mut self, stage: Stage);
}

/// Watches nothing; compiles to nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    #[inline]
    fn started(&mut self) {}
    #[inline]
    fn ran(&mut self, _: Stage) {}
}

/// The timers of every plugin of a scheduler (`inference_extension_plugin_duration_seconds`), looked up once.
pub struct PluginTimers {
    clock: Clock,
    next: PluginTimer,
    primary: PluginTimer,
    profiles: Vec<ProfileTimers>,
}

struct ProfileTimers {
    filters: Vec<PluginTimer>,
    scorers: Vec<PluginTimer>,
    picker: PluginTimer,
}

impl PluginTimers {
    /// Looks up the timers of `scheduler`'s plugins.
    pub fn new(scheduler: &Scheduler, metrics: &Metrics, clock: Clock) -> Self {
        let (name, type_name) = scheduler.handler();
        PluginTimers {
            clock,
            next: metrics.plugin_timer("ProfilePicker", type_name, name),
            primary: metrics.plugin_timer("ProcessProfilesResults", type_name, name),
            profiles: scheduler
                .profiles()
                .iter()
                .map(|p| ProfileTimers::new(p, metrics))
                .collect(),
        }
    }

    /// An observer for one decision: one look at the clock per boundary.
    pub fn observer(&self) -> impl Observer + '_ {
        Timing {
            timers: self,
            last: None,
        }
    }

    fn timer(&self, stage: Stage) -> Option<&PluginTimer> {
        match stage {
            Stage::ProfilePicker => Some(&self.next),
            Stage::ProcessProfilesResults => Some(&self.primary),
            Stage::Filter { profile, index } => self.profiles.get(profile)?.filters.get(index),
            Stage::Scorer { profile, index } => self.profiles.get(profile)?.scorers.get(index),
            Stage::Picker { profile } => self.profiles.get(profile).map(|p| &p.picker),
        }
    }
}

impl ProfileTimers {
    fn new(profile: &Profile, metrics: &Metrics) -> Self {
        let (name, type_name, _) = &profile.picker;
        ProfileTimers {
            filters: profile
                .filters
                .iter()
                .map(|(name, type_name, _)| metrics.plugin_timer("Filter", type_name, name))
                .collect(),
            scorers: profile
                .scorers
                .iter()
                .map(|s| metrics.plugin_timer("Scorer", s.type_name, &s.name))
                .collect(),
            picker: metrics.plugin_timer("Picker", type_name, name),
        }
    }
}

struct Timing<'a> {
    timers: &'a PluginTimers,
    last: Option<Instant>,
}

impl Observer for Timing<'_> {
    fn started(&mut self) {
        self.last = Some(self.timers.clock.now());
    }

    fn ran(&mut self, stage: Stage) {
        let now = self.timers.clock.now();
        let began = self.last.replace(now).unwrap_or(now);
        if let Some(timer) = self.timers.timer(stage) {
            timer.observe(now.saturating_duration_since(began));
        }
    }
}
