//! InferencePool, both kinds: which pods belong to it and which of their ports take requests.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::spec::{self, Mistakes};

/// Ports a pool can have.
pub const MAX_PORTS: usize = 8;

/// `inference.networking.k8s.io/v1`.
#[derive(Clone, Debug, Deserialize)]
pub struct PoolV1 {
    /// Name, deletion.
    #[serde(deserialize_with = "super::metadata")]
    pub metadata: ObjectMeta,
    /// As written.
    #[serde(default)]
    pub spec: Value,
}

super::resource!(PoolV1, super::GROUP, "v1", "InferencePool", "inferencepools");

/// `inference.networking.x-k8s.io/v1alpha2`.
#[derive(Clone, Debug, Deserialize)]
pub struct PoolV1Alpha2 {
    /// Name, deletion.
    #[serde(deserialize_with = "super::metadata")]
    pub metadata: ObjectMeta,
    /// As written.
    #[serde(default)]
    pub spec: Value,
}

super::resource!(
    PoolV1Alpha2,
    super::GROUP_EXPERIMENTAL,
    "v1alpha2",
    "InferencePool",
    "inferencepools"
);

/// What a pool says, whatever its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Labels a pod must have, all of them, in order of their keys.
    pub selector: Vec<(String, String)>,
    /// Ports that take requests, in order: their places are the ranks. None left: the pool has no endpoints.
    pub ports: Vec<u16>,
}

/// A kind of InferencePool.
pub trait InferencePool {
    /// Is it being deleted?
    fn deleting(&self) -> bool;

    /// What it says, and what in it is wrong and was left out. A selector that is wrong selects nothing: `None`.
    fn read(&self) -> (Option<Pool>, Mistakes);
}

impl InferencePool for PoolV1 {
    fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn read(&self) -> (Option<Pool>, Mistakes) {
        let mut mistakes = Mistakes::new();
        let nothing = Value::Null;
        let labels = self.spec.get("selector").unwrap_or(&nothing).get("matchLabels");
        let selector = selector(labels, "spec.selector.matchLabels", true, &mut mistakes);
        let entries = spec::list(&self.spec, "spec", "targetPorts", &mut mistakes);
        let mut ports = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let path = format!("spec.targetPorts[{i}].number");
            let Some(port) = spec::port(entry.get("number"), &path, &mut mistakes) else {
                continue;
            };
            if ports.contains(&port) {
                mistakes.push(format!(
                    "{path}: {port} is there twice; port numbers must be unique"
                ));
            } else if ports.len() == MAX_PORTS {
                mistakes.push(format!(
                    "{path}: a pool has at most {MAX_PORTS} ports; {port} is left out"
                ));
            } else {
                ports.push(port);
            }
        }
        if ports.is_empty() {
            mistakes.push("spec.targetPorts: no usable port, so the pool has no endpoints".into());
        }
        (selector.map(|selector| Pool { selector, ports }), mistakes)
    }
}

impl InferencePool for PoolV1Alpha2 {
    fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn read(&self) -> (Option<Pool>, Mistakes) {
        let mut mistakes = Mistakes::new();
        let selector = selector(self.spec.get("selector"), "spec.selector", false, &mut mistakes);
        let path = "spec.targetPortNumber";
        let port = spec::port(self.spec.get("targetPortNumber"), path, &mut mistakes);
        let ports = port.into_iter().collect();
        (selector.map(|selector| Pool { selector, ports }), mistakes)
    }
}

/// Labels of a selector. An empty one, where it is allowed, selects every pod of the namespace.
fn selector(
    labels: Option<&Value>,
    path: &str,
    some: bool,
    mistakes: &mut Mistakes,
) -> Option<Vec<(String, String)>> {
    let Some(Value::Object(labels)) = labels else {
        let got = labels.map_or("nothing", spec::kind);
        mistakes.push(format!("{path}: must be an object of labels, not {got}"));
        return None;
    };
    if labels.is_empty() && some {
        mistakes.push(format!("{path}: at least one label is needed"));
        return None;
    }
    let mut selector = Vec::with_capacity(labels.len());
    for (key, value) in labels {
        let Value::String(value) = value else {
            mistakes.push(format!(
                "{path}.{key}: must be a string, not {}",
                spec::kind(value)
            ));
            return None;
        };
        selector.push((key.clone(), value.clone()));
    }
    selector.sort();
    Some(selector)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn v1(spec: Value) -> (Option<Pool>, Mistakes) {
        let pool: PoolV1 = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        pool.read()
    }

    fn v1alpha2(spec: Value) -> (Option<Pool>, Mistakes) {
        let pool: PoolV1Alpha2 =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        pool.read()
    }

    fn pool(selector: &[(&str, &str)], ports: &[u16]) -> Option<Pool> {
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Some(Pool {
            selector: selector.iter().map(pair).collect(),
            ports: ports.to_vec(),
        })
    }

    #[test]
    fn both_kinds_say_the_same_in_their_own_words() {
        let new = json!({
            "selector": {"matchLabels": {"app": "x", "a": "b"}},
            "targetPorts": [{"number": 8001}, {"number": 8000}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        });
        assert_eq!(
            v1(new),
            (pool(&[("a", "b"), ("app", "x")], &[8001, 8000]), vec![])
        );
        let old =
            json!({"selector": {"app": "x"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}});
        assert_eq!(v1alpha2(old), (pool(&[("app", "x")], &[8000]), vec![]));
        assert_eq!(
            v1alpha2(json!({"selector": {}, "targetPortNumber": 1})).0,
            pool(&[], &[1])
        );
    }

    #[test]
    fn what_is_wrong_is_said_and_left_out() {
        let labels = json!({"matchLabels": {"app": "x"}});
        let numbers = |ports: &[i64]| -> Vec<Value> { ports.iter().map(|n| json!({"number": n})).collect() };
        let with = |ports: &[i64]| json!({"selector": labels, "targetPorts": numbers(ports)});
        let app = &[("app", "x")][..];
        let nine = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let rows = [
            (with(&[]), pool(app, &[]), "no usable port"),
            (with(&[70000]), pool(app, &[]), "spec.targetPorts[0].number"),
            (with(&[0, 8000]), pool(app, &[8000]), "1 to 65535, not 0"),
            (with(&[8000, 8000]), pool(app, &[8000]), "twice"),
            (
                with(&nine),
                pool(app, &[1, 2, 3, 4, 5, 6, 7, 8]),
                "at most 8 ports",
            ),
            (json!(null), None, "must be an object of labels"),
            (
                json!({"selector": {"matchLabels": {}}}),
                None,
                "at least one label",
            ),
            (
                json!({"selector": {"matchLabels": {"a": 1}}}),
                None,
                "must be a string",
            ),
            (
                json!({"selector": labels, "targetPorts": 8000}),
                pool(app, &[]),
                "must be a list, not a number",
            ),
        ];
        for (spec, expected, word) in rows {
            let text = spec.to_string();
            let (got, mistakes) = v1(spec);
            assert_eq!(got, expected, "{text}");
            assert!(mistakes.iter().any(|m| m.contains(word)), "{text}: {mistakes:?}");
        }
    }
}
