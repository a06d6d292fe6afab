//! A scheduling profile: filters narrow, scorers rate, one picker chooses.

use std::sync::Arc;

use crate::plugin::{Filter, Picker, ProfileName, Scorer};

/// A scorer and the weight its clamped scores are multiplied with.
#[derive(Clone)]
pub struct RatedScorer {
    /// Name of the plugin instance.
    pub name: Arc<str>,
    /// Its type.
    pub type_name: &'static str,
    /// The scorer.
    pub scorer: Arc<dyn Scorer>,
    /// Any finite number; weights are not normalised.
    pub weight: f64,
}

/// A profile, in configuration order.
#[derive(Clone)]
pub struct Profile {
    /// Name in the configuration.
    pub name: ProfileName,
    /// Filters by instance name, type and role.
    pub filters: Vec<(Arc<str>, &'static str, Arc<dyn Filter>)>,
    /// Scorers.
    pub scorers: Vec<RatedScorer>,
    /// Picker by instance name, type and role.
    pub picker: (Arc<str>, &'static str, Arc<dyn Picker>),
}
