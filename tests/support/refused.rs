//! Objects that the CRDs refuse, each with a word of what our own reading of the schemas says of it.

use serde_json::{Value, json};

/// A pool that is taken, changed.
pub fn pool(change: impl FnOnce(&mut Value)) -> Value {
    let mut pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "p"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 8000}],
                 "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}});
    change(&mut pool["spec"]);
    pool
}

/// Pools.
pub fn pools() -> Vec<(Value, &'static str)> {
    type Change = fn(&mut Value);
    let rows: [(Change, &str); 14] = [
        (
            |s| s["targetPorts"] = json!([{"number": 1}, {"number": 1}]),
            "port number must be unique",
        ),
        (|s| s["targetPorts"] = json!([]), "minItems"),
        (
            |s| s["targetPorts"] = json!([1, 2, 3, 4, 5, 6, 7, 8, 9].map(|n| json!({"number": n}))),
            "maxItems",
        ),
        (|s| s["targetPorts"][0]["number"] = json!(70000), "out of range"),
        (|s| s["targetPorts"][0]["number"] = json!(0), "out of range"),
        (|s| s["targetPorts"] = json!([{}]), ".number: is required"),
        (|s| s["selector"]["matchLabels"] = json!({}), "minProperties"),
        (|s| s["selector"]["matchLabels"] = json!({"a": "-"}), "pattern"),
        (|s| s["selector"] = json!({}), "matchLabels: is required"),
        (
            |s| s["endpointPickerRef"] = json!({"name": "epp"}),
            "port is required when kind is 'Service'",
        ),
        (
            |s| s["endpointPickerRef"]["failureMode"] = json!("Open"),
            "not one of",
        ),
        (|s| s["endpointPickerRef"]["name"] = json!(""), "minLength"),
        (|s| s["appProtocol"] = json!("grpc"), "not one of"),
        (|s| s["news"] = json!(1), "is unknown"),
    ];
    rows.into_iter()
        .map(|(change, word)| (pool(change), word))
        .collect()
}

/// Objectives and rewrites.
pub fn others() -> Vec<(Value, &'static str)> {
    let of = |kind: &str, spec: Value| json!({"apiVersion": "inference.networking.x-k8s.io/v1alpha2", "kind": kind, "metadata": {"name": "o"}, "spec": spec});
    let rule = |rule: Value| json!({"poolRef": {"name": "p"}, "rules": [rule]});
    vec![
        (
            of("InferenceObjective", json!({"priority": 1})),
            "poolRef: is required",
        ),
        (
            of(
                "InferenceObjective",
                json!({"poolRef": {"name": "p"}, "priority": "1"}),
            ),
            "is string",
        ),
        (
            of("InferenceModelRewrite", json!({"poolRef": {"name": "p"}})),
            "rules: is required",
        ),
        (
            of("InferenceModelRewrite", rule(json!({"targets": []}))),
            "minItems",
        ),
        (
            of(
                "InferenceModelRewrite",
                rule(json!({"targets": [{"modelRewrite": "m", "weight": 0}]})),
            ),
            "out of range",
        ),
        (
            of(
                "InferenceModelRewrite",
                rule(json!({"matches": [{"model": {"type": "Prefix", "value": "m"}}]})),
            ),
            "not one of",
        ),
        (
            of(
                "InferenceModelRewrite",
                rule(json!({"matches": [{"model": {"value": ""}}]})),
            ),
            "minLength",
        ),
    ]
}
