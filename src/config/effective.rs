//! What a configuration comes to, defaults and injected plugins included: shown by `epp check`, compared when the
//! file changes, served by the explain pages.

use serde_json::{Map, Value, json};

use crate::base::duration::GoDuration;
use crate::discovery::file::FileDiscoverySettings;
use crate::saturation::UtilizationDetector;
use crate::scheduling::{Profile, Scheduler};

use super::Kept;

/// The effective configuration as a document.
pub fn document(
    plugins: &Kept,
    scheduler: &Scheduler,
    detector: &UtilizationDetector,
    gates: &[String],
    discovery: Option<&FileDiscoverySettings>,
) -> Value {
    let plugins: Vec<Value> = plugins
        .iter()
        .map(|(plugin, parameters)| {
            let mut entry = json!({"name": &*plugin.name, "type": plugin.type_name});
            if let Some(parameters) = parameters {
                entry["parameters"] = parameters.clone();
            }
            entry
        })
        .collect();
    let stale = i64::try_from(detector.metrics_staleness_threshold.as_nanos()).unwrap_or(i64::MAX);
    let mut document = json!({
        "featureGates": gates,
        "plugins": plugins,
        "profileHandler": &**scheduler.handler().0,
        "schedulingProfiles": scheduler.profiles().iter().map(profile).collect::<Vec<_>>(),
        "saturationDetector": {
            "queueDepthThreshold": detector.queue_depth_threshold,
            "kvCacheUtilThreshold": detector.kv_cache_util_threshold,
            "metricsStalenessThreshold": GoDuration(stale).to_string(),
        },
    });
    if let Some(file) = discovery {
        document["endpoints"] = json!({"path": file.path, "watchFile": file.watch_file});
    }
    document
}

fn profile(profile: &Profile) -> Value {
    let mut plugins: Vec<Value> = profile
        .filters
        .iter()
        .map(|(name, ..)| json!({"pluginRef": &**name}))
        .collect();
    let scorers = profile.scorers.iter();
    plugins.extend(scorers.map(|s| json!({"pluginRef": &*s.name, "weight": s.weight})));
    plugins.push(json!({"pluginRef": &*profile.picker.0}));
    json!({"name": &*profile.name, "plugins": plugins})
}

/// Most differences told; the rest is counted.
const MAX_TOLD: usize = 50;

/// What differs, one line each: `path: before -> after`, `added` or `removed`. Entries of lists are compared by
/// their `name` or `pluginRef` where they have one.
pub fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", before, after, &mut lines);
    if lines.len() > MAX_TOLD {
        let more = lines.len() - MAX_TOLD;
        lines.truncate(MAX_TOLD);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn compare(path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    if before == after {
        return;
    }
    match (members(before), members(after)) {
        (Some(old), Some(new)) => {
            let known = lines.len();
            for (key, value) in &old {
                match new.get(key) {
                    Some(other) => compare(&join(path, key), value, other, lines),
                    None => lines.push(format!("{}: removed, was {value}", join(path, key))),
                }
            }
            for (key, value) in new.iter().filter(|(k, _)| !old.contains_key(*k)) {
                lines.push(format!("{}: added {value}", join(path, key)));
            }
            if lines.len() == known {
                lines.push(format!("{path}: another order"));
            }
        }
        _ => lines.push(format!("{path}: {before} -> {after}")),
    }
}

fn join(path: &str, key: &str) -> String {
    match key.strip_prefix('[') {
        Some(_) => format!("{path}{key}"),
        None if path.is_empty() => key.to_owned(),
        None => format!("{path}.{key}"),
    }
}

/// The members of an object, or of a list whose entries have names.
fn members(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map.clone()),
        Value::Array(list) => {
            let named = |entry: &Value| {
                let name = entry.get("name").or_else(|| entry.get("pluginRef"))?.as_str()?;
                Some((format!("[{name}]"), entry.clone()))
            };
            let map: Option<Map<String, Value>> = list.iter().map(named).collect();
            map.filter(|m| m.len() == list.len())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_place_and_both_values() {
        let before = json!({
            "plugins": [{"name": "a", "type": "x", "parameters": {"n": 1}}, {"name": "b", "type": "y"}],
            "gates": ["one"],
            "same": {"deep": [1, 2]},
        });
        let after = json!({
            "plugins": [{"name": "c", "type": "z"}, {"name": "a", "type": "x", "parameters": {"n": 2}}],
            "gates": ["two"],
            "same": {"deep": [1, 2]},
        });
        let told = differences(&before, &after);
        assert_eq!(
            told,
            [
                r#"gates: ["one"] -> ["two"]"#,
                "plugins[a].parameters.n: 1 -> 2",
                r#"plugins[b]: removed, was {"name":"b","type":"y"}"#,
                r#"plugins[c]: added {"name":"c","type":"z"}"#,
            ]
        );
        assert!(differences(&before, &before).is_empty());
    }

    #[test]
    fn another_order_of_named_entries_is_a_difference() {
        let (a, b) = (json!({"name": "a"}), json!({"name": "b"}));
        let told = differences(&json!({"p": [a, b]}), &json!({"p": [b, a]}));
        assert_eq!(told, ["p: another order"]);
    }

    #[test]
    fn a_long_list_of_differences_is_cut() {
        let many: Map<String, Value> = (0..60).map(|i| (format!("k{i}"), json!(i))).collect();
        let told = differences(&json!({}), &Value::Object(many));
        assert_eq!(told.len(), MAX_TOLD + 1);
        assert_eq!(told.last().unwrap(), "and 10 more");
    }
}
