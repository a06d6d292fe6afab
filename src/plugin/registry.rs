//! The registry: plugin types by name, each with its documented parameters and a factory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::suggest;
use crate::telemetry::metrics::Metrics;

use super::{Params, ParamsError, Roles};

/// What a factory may use.
#[derive(Clone)]
pub struct Context {
    /// Name of the instance being made.
    pub name: Arc<str>,
    /// Where plugins record their metrics.
    pub metrics: Arc<Metrics>,
    /// The clock, for plugins with a life outside decisions.
    pub clock: Clock,
}

/// Documentation of one parameter; the configuration reference is generated from these.
#[derive(Clone, Copy, Debug)]
pub struct ParamDoc {
    /// Key in `parameters`.
    pub name: &'static str,
    /// Type, in words: `int`, `bool`, `string`, `duration`, …
    pub kind: &'static str,
    /// Default, as written in YAML; empty when required.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// A plugin type: the name configurations use, its documentation and its factory.
#[derive(Clone, Copy)]
pub struct PluginType {
    /// The `type` in configurations.
    pub name: &'static str,
    /// What it does, one sentence.
    pub help: &'static str,
    /// Its parameters.
    pub params: &'static [ParamDoc],
    /// Makes an instance.
    pub make: fn(&Context, &Params) -> Result<Roles, ParamsError>,
}

impl PluginType {
    /// The names of the parameters.
    pub fn param_names(&self) -> Vec<&'static str> {
        self.params.iter().map(|p| p.name).collect()
    }
}

/// A live plugin.
#[derive(Clone)]
pub struct PluginInstance {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Its type.
    pub type_name: &'static str,
    /// The roles it plays.
    pub roles: Roles,
}

/// All known plugin types.
#[derive(Clone, Default)]
pub struct Registry {
    types: BTreeMap<&'static str, PluginType>,
}

impl Registry {
    /// Adds a type; a later one of the same name replaces the earlier.
    pub fn register(&mut self, plugin: PluginType) {
        self.types.insert(plugin.name, plugin);
    }

    /// The type called `name`.
    pub fn get(&self, name: &str) -> Option<&PluginType> {
        self.types.get(name)
    }

    /// All types by name.
    pub fn iter(&self) -> impl Iterator<Item = &PluginType> {
        self.types.values()
    }

    /// ` (did you mean "x"?)` for a mistyped type name, or nothing.
    pub fn hint(&self, name: &str) -> String {
        suggest::hint(name, self.types.keys().copied())
    }
}
