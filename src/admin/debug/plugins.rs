//! `/debug/plugins`: every plugin instance with its roles, where it is used and how long it takes; and every type.

use serde_json::{Value, json};

use super::DebugPages;
use super::config::veiled;
use crate::requestcontrol::plan::{Plan, PlannedPlugin};

impl DebugPages {
    /// The page.
    pub(super) fn plugins(&self) -> Value {
        let plan = (self.plan)();
        let active = self.config.load();
        let times = self.metrics.plugin_times();
        let instance = |plugin: &PlannedPlugin| {
            let part = &plugin.part;
            let configured = active.effective["plugins"].as_array();
            let parameters = configured
                .and_then(|list| list.iter().find(|p| p["name"] == *part.name))
                .map(|p| veiled(&p["parameters"]));
            let runs = times
                .iter()
                .filter(|([_, t, n], ..)| **t == *part.type_name && *n == part.name);
            json!({
                "name": &*part.name,
                "type": part.type_name,
                "help": self.registry.get(part.type_name).map(|t| t.help),
                "roles": plugin.roles,
                "parameters": parameters,
                "used_in": used_in(&plan, &part.name),
                "runs": runs.map(|([point, ..], count, mean)| json!({
                    "extension_point": &**point, "count": count, "mean_seconds": mean,
                })).collect::<Vec<_>>(),
            })
        };
        json!({
            "profile_handler": &*plan.handler.name,
            "plugins": plan.plugins.iter().map(instance).collect::<Vec<_>>(),
            "types": self.registry.iter().map(|t| json!({
                "type": t.name,
                "help": t.help,
                "parameters": t.params.iter().map(|p| json!({
                    "name": p.name, "kind": p.kind, "default": p.default, "help": p.help,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    }
}

/// The places of `name` in the profiles.
fn used_in(plan: &Plan, name: &str) -> Vec<Value> {
    let mut places = Vec::new();
    for profile in &plan.profiles {
        let place = |role: &str| json!({"profile": &*profile.name, "as": role});
        if profile.filters.iter().any(|f| *f.name == *name) {
            places.push(place("filter"));
        }
        for (_, weight) in profile.scorers.iter().filter(|(s, _)| *s.name == *name) {
            let mut scorer = place("scorer");
            scorer["weight"] = json!(weight);
            places.push(scorer);
        }
        if *profile.picker.name == *name {
            places.push(place("picker"));
        }
    }
    places
}
