//! An InferenceObjective: the name a request asks for, and the priority it gets.

use std::collections::HashMap;

/// Priorities by objective name. A request whose objective is unknown, or has no priority, has priority 0;
/// a request with a priority below 0 is sheddable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objectives(pub HashMap<String, i32>);

impl Objectives {
    /// Priority of the objective called `name`.
    pub fn priority(&self, name: &str) -> i32 {
        self.0.get(name).copied().unwrap_or(0)
    }
}
