//! The CRDs: valid by the API's own type, our examples fit them, and what the reference's schemas refuse they refuse.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::{documents, is, path, read, schema, text};

/// All CRDs.
fn crds() -> Vec<Value> {
    let folder = std::fs::read_dir(path("deploy/crds")).unwrap();
    let mut names: Vec<_> = folder.map(|f| f.unwrap().path()).collect();
    names.sort();
    let read = |p: &std::path::PathBuf| documents(&std::fs::read_to_string(p).unwrap());
    names.iter().flat_map(read).collect()
}

/// What is wrong with an object of one of our kinds.
pub fn mistakes(object: &Value) -> Option<Vec<String>> {
    let (group, version) = text(object, "/apiVersion").split_once('/')?;
    let all = crds();
    let crd = all.iter().find(|c| {
        let spec = &c["spec"];
        spec["group"] == json!(group)
            && spec["names"]["kind"] == object["kind"]
            && spec["versions"][0]["name"] == json!(version)
    })?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    Some(schema::mistakes(schema, object))
}

#[test]
fn each_crd_is_one_the_api_takes() {
    let all = crds();
    assert_eq!(all.len(), 4);
    for crd in &all {
        is::<CustomResourceDefinition>(crd);
        let (spec, name) = (&crd["spec"], text(crd, "/metadata/name"));
        let expected = format!("{}.{}", text(spec, "/names/plural"), text(spec, "/group"));
        assert_eq!((name, &spec["scope"]), (expected.as_str(), &json!("Namespaced")));
        assert!(
            spec["versions"][0]["subresources"]["status"].is_object(),
            "{name}"
        );
        let annotations = &crd["metadata"]["annotations"];
        for key in [
            "api-approved.kubernetes.io",
            "inference.networking.k8s.io/bundle-version",
        ] {
            assert!(annotations[key].is_string(), "{name} {key}");
        }
    }
    let short = |i: usize| all[i]["spec"]["names"]["shortNames"].clone();
    assert_eq!((short(0), short(3)), (json!(["infpool"]), json!(["xinfpool"])));
}

#[test]
fn the_examples_fit_the_schemas() {
    let mut checked = 0;
    for file in ["objectives", "rewrites", "pools"] {
        for object in documents(&read(&format!("deploy/examples/{file}.yaml"))) {
            assert_eq!(mistakes(&object), Some(vec![]), "{file}: {object:#}");
            checked += 1;
        }
    }
    assert_eq!(checked, 6);
    for file in ["httproute", "istio", "gke"] {
        for object in documents(&read(&format!("deploy/examples/{file}.yaml"))) {
            text(&object, "/metadata/name");
        }
    }
}

fn pool(change: impl FnOnce(&mut Value)) -> Value {
    let mut pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "p"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 8000}],
                 "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}});
    change(&mut pool["spec"]);
    pool
}

#[test]
fn a_pool_that_the_reference_refuses_is_refused() {
    assert_eq!(mistakes(&pool(|_| {})), Some(vec![]));
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
    for (change, word) in rows {
        let pool = pool(change);
        let mistakes = mistakes(&pool).unwrap();
        assert!(mistakes.iter().any(|m| m.contains(word)), "{word}: {mistakes:?}");
    }
    // A picker that is no Service needs no port.
    let other = pool(|s| s["endpointPickerRef"] = json!({"name": "epp", "kind": "Deployment"}));
    assert_eq!(mistakes(&other), Some(vec![]));
}

#[test]
fn an_objective_may_lack_its_spec() {
    let object = json!({"apiVersion": "inference.networking.x-k8s.io/v1alpha2", "kind": "InferenceObjective",
                        "metadata": {"name": "o"}});
    assert_eq!(mistakes(&object), Some(vec![]));
}

#[test]
fn objectives_and_rewrites_that_the_reference_refuses_are_refused() {
    let of = |kind: &str, spec: Value| json!({"apiVersion": "inference.networking.x-k8s.io/v1alpha2", "kind": kind, "metadata": {"name": "o"}, "spec": spec});
    let rule = |rule: Value| json!({"poolRef": {"name": "p"}, "rules": [rule]});
    for (object, word) in [
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
    ] {
        let mistakes = mistakes(&object).unwrap();
        assert!(mistakes.iter().any(|m| m.contains(word)), "{word}: {mistakes:?}");
    }
}
