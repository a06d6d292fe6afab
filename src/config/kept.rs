//! Plugins of the running configuration, and what each was made from: a changed configuration that leaves a plugin
//! alone goes on with the same instance, and so with what it has learned (prefix indexes above all).

use serde_json::Value;

use crate::plugin::{Params, PluginInstance};

/// The plugins of a configuration with their parameters.
#[derive(Clone, Default)]
pub struct Kept(Vec<(PluginInstance, Option<Value>)>);

impl Kept {
    /// The instance of that name and type, if it was made from the same parameters.
    pub fn find(&self, name: &str, type_name: &str, params: &Params) -> Option<PluginInstance> {
        let same = |(plugin, made_from): &&(PluginInstance, Option<Value>)| {
            *plugin.name == *name && plugin.type_name == type_name && made_from.as_ref() == params.value()
        };
        self.0.iter().find(same).map(|(plugin, _)| plugin.clone())
    }

    /// Notes what a plugin was made from.
    pub fn add(&mut self, plugin: &PluginInstance, params: &Params) {
        self.0.push((plugin.clone(), params.value().cloned()));
    }

    /// Each plugin with its parameters as written, in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = (&PluginInstance, Option<&Value>)> {
        self.0.iter().map(|(plugin, params)| (plugin, params.as_ref()))
    }
}
