//! Names and weights of what a director decides with: what a recorded decision needs to be explained later.

use std::fmt;
use std::sync::Arc;

use crate::plugin::{PluginInstance, Roles, Scorer};
use crate::scheduling::{Profile, Scheduler};

/// A plugin instance by name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Its type.
    pub type_name: &'static str,
}

/// A profile of a [`Plan`]; decisions name its filters and scorers by position.
#[derive(Clone, Debug)]
pub struct PlannedProfile {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Filters in order.
    pub filters: Vec<Part>,
    /// Scorers in order, each with the weight its scores are multiplied with.
    pub scorers: Vec<(Part, f32)>,
    /// Those of the scorers, by position, whose scores can be computed again from a record.
    pub again: Vec<Again>,
    /// The picker.
    pub picker: Part,
}

/// A scorer that can be asked again, if it can.
#[derive(Clone)]
pub struct Again(pub Option<Arc<dyn Scorer>>);

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Again").field(&self.0.is_some()).finish()
    }
}

/// A plugin instance and the roles it plays.
#[derive(Clone, Debug)]
pub struct PlannedPlugin {
    /// The instance.
    pub part: Part,
    /// Its roles, as words of the documentation.
    pub roles: Vec<&'static str>,
}

/// What a director decides with. Immutable, shared by all its records.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The profile handler.
    pub handler: Part,
    /// Profiles in configuration order.
    pub profiles: Vec<PlannedProfile>,
    /// Every plugin instance, injected ones last.
    pub plugins: Vec<PlannedPlugin>,
}

impl Plan {
    /// The plan of `scheduler` and `plugins`.
    pub fn new(scheduler: &Scheduler, plugins: &[PluginInstance]) -> Self {
        let (name, type_name) = scheduler.handler();
        Plan {
            handler: part(name, type_name),
            profiles: scheduler.profiles().iter().map(profile).collect(),
            plugins: plugins
                .iter()
                .map(|p| PlannedPlugin {
                    part: part(&p.name, p.type_name),
                    roles: roles(&p.roles),
                })
                .collect(),
        }
    }
}

fn part(name: &Arc<str>, type_name: &'static str) -> Part {
    Part {
        name: name.clone(),
        type_name,
    }
}

fn profile(profile: &Profile) -> PlannedProfile {
    let (picker, picker_type, _) = &profile.picker;
    PlannedProfile {
        name: profile.name.clone(),
        filters: profile.filters.iter().map(|(n, t, _)| part(n, t)).collect(),
        scorers: profile
            .scorers
            .iter()
            .map(|s| (part(&s.name, s.type_name), s.effective_weight()))
            .collect(),
        again: profile
            .scorers
            .iter()
            .map(|s| Again(s.scorer.of_signals().then(|| s.scorer.clone())))
            .collect(),
        picker: part(picker, picker_type),
    }
}

fn roles(roles: &Roles) -> Vec<&'static str> {
    [
        (roles.filter.is_some(), "filter"),
        (roles.scorer.is_some(), "scorer"),
        (roles.picker.is_some(), "picker"),
        (roles.handler.is_some(), "profile handler"),
        (roles.pre_request.is_some(), "pre-request"),
        (roles.response_headers.is_some(), "response headers"),
        (roles.response_complete.is_some(), "response complete"),
        (roles.endpoint_observer.is_some(), "endpoint observer"),
        (roles.extension.is_some(), "data layer"),
    ]
    .into_iter()
    .filter_map(|(plays, role)| plays.then_some(role))
    .collect()
}
