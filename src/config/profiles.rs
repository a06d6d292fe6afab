//! Profiles and their handler; what the document leaves out is injected, in configuration order.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::document::{Mistakes, Place};
use crate::api::picker_config::{PickerConfig, PluginRef, ProfileEntry};
use crate::plugin::{Handler, Picker, PluginInstance};
use crate::scheduling::{Profile, RatedScorer, Scheduler};

use super::references::find;

/// Handler of a single profile where none is configured.
pub const HANDLER: &str = "single-profile-handler";
/// Picker where none is configured.
pub const PICKER: &str = "max-score-picker";

/// The scheduler the document describes; injected plugins are added to `plugins`.
pub fn scheduler(
    document: &PickerConfig,
    plugins: &mut Vec<PluginInstance>,
    inject: impl Fn(&str) -> Option<PluginInstance>,
    m: &mut Mistakes,
) -> Option<Scheduler> {
    let entries = document
        .profiles
        .clone()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| vec![default_profile(plugins)]);
    let handler = handler(entries.len(), plugins, &inject, m);
    let any_picker = plugins.iter().any(|p| p.roles.picker.is_some());
    if !any_picker {
        plugins.extend(inject(PICKER));
    }
    let mut names = BTreeSet::new();
    let mut profiles = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        if !names.insert(entry.name.as_str()) {
            let text = format!("schedulingProfiles[{i}] has duplicate name '{}'", entry.name);
            m.add(entry.at, entry.path.clone(), text);
        }
        profiles.extend(profile(document, entry, plugins, m));
    }
    let handler = handler?;
    if profiles.len() < entries.len() {
        return None;
    }
    Scheduler::new(profiles, handler)
        .map_err(|text| m.add(Place::default(), "schedulingProfiles", text))
        .ok()
}

/// No profiles: one called `default` with every filter, scorer and picker, in configuration order.
fn default_profile(plugins: &[PluginInstance]) -> ProfileEntry {
    let used = |p: &&PluginInstance| {
        p.roles.filter.is_some() || p.roles.scorer.is_some() || p.roles.picker.is_some()
    };
    let reference = |p: &PluginInstance| {
        (
            PluginRef {
                name: p.name.to_string(),
                ..PluginRef::default()
            },
            None,
        )
    };
    ProfileEntry {
        name: "default".into(),
        plugins: plugins.iter().filter(used).map(reference).collect(),
        at: Place::default(),
        path: String::new(),
    }
}

type Named<T> = (Arc<str>, &'static str, Arc<T>);

fn handler(
    profiles: usize,
    plugins: &mut Vec<PluginInstance>,
    inject: impl Fn(&str) -> Option<PluginInstance>,
    m: &mut Mistakes,
) -> Option<Named<dyn Handler>> {
    let handlers: Vec<&PluginInstance> = plugins.iter().filter(|p| p.roles.handler.is_some()).collect();
    if let [first, second, ..] = handlers[..] {
        let text = format!(
            "only one profile handler may be configured, not both '{}' and '{}'",
            first.name, second.name
        );
        m.add(Place::default(), "plugins", text);
        return None;
    }
    if handlers.is_empty() {
        if profiles != 1 {
            m.add(Place::default(), "plugins", "no profile handler configured");
            return None;
        }
        plugins.extend(inject(HANDLER));
    }
    plugins
        .iter()
        .find_map(|p| Some((p.name.clone(), p.type_name, p.roles.handler.clone()?)))
}

fn profile(
    document: &PickerConfig,
    entry: &ProfileEntry,
    plugins: &[PluginInstance],
    m: &mut Mistakes,
) -> Option<Profile> {
    let mut profile = (Vec::new(), Vec::new(), None::<Named<dyn Picker>>);
    let before = m.list.len();
    let referrer = format!("schedulingProfiles[{}]", entry.name);
    for (reference, weight) in &entry.plugins {
        let Some(plugin) = find(document, plugins, reference, &referrer, m) else {
            continue;
        };
        let (name, type_name, roles) = (&plugin.name, plugin.type_name, &plugin.roles);
        if let Some(filter) = &roles.filter {
            profile.0.push((name.clone(), type_name, filter.clone()));
        }
        if let Some(scorer) = &roles.scorer {
            let weight = weight.unwrap_or(1.0);
            profile.1.push(RatedScorer {
                name: name.clone(),
                type_name,
                scorer: scorer.clone(),
                weight,
            });
        }
        if let Some(picker) = &roles.picker {
            if let Some((already, ..)) = &profile.2 {
                let text = format!("failed to set '{name}' as picker, already have '{already}'");
                m.add(reference.at, reference.path.clone(), text);
                continue;
            }
            profile.2 = Some((name.clone(), type_name, picker.clone()));
        }
        if roles.filter.is_none() && roles.scorer.is_none() && roles.picker.is_none() {
            let text = format!("the plugin '{name}' is no filter, scorer or picker");
            m.add(reference.at, reference.path.clone(), text);
        }
    }
    let picker = profile.2.or_else(|| default_picker(plugins));
    if m.list.len() > before {
        return None;
    }
    Some(Profile {
        name: entry.name.as_str().into(),
        filters: profile.0,
        scorers: profile.1,
        picker: picker?,
    })
}

/// For a profile without a picker: max-score where it is configured, else the first picker.
fn default_picker(plugins: &[PluginInstance]) -> Option<Named<dyn Picker>> {
    let named = |p: &PluginInstance| Some((p.name.clone(), p.type_name, p.roles.picker.clone()?));
    let preferred = plugins.iter().find(|p| p.type_name == PICKER).and_then(named);
    preferred.or_else(|| plugins.iter().find_map(named))
}
