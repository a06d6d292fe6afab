//! The CRDs: valid by the API's own type, our examples fit them, and what the reference's schemas refuse they refuse.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::{documents, is, path, read, schema, text};
use crate::support::refused;

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

#[test]
fn a_pool_that_the_reference_refuses_is_refused() {
    assert_eq!(mistakes(&refused::pool(|_| {})), Some(vec![]));
    for (pool, word) in refused::pools() {
        let mistakes = mistakes(&pool).unwrap();
        assert!(mistakes.iter().any(|m| m.contains(word)), "{word}: {mistakes:?}");
    }
    // A picker that is no Service needs no port.
    let other = refused::pool(|s| s["endpointPickerRef"] = json!({"name": "epp", "kind": "Deployment"}));
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
    for (object, word) in refused::others() {
        let mistakes = mistakes(&object).unwrap();
        assert!(mistakes.iter().any(|m| m.contains(word)), "{word}: {mistakes:?}");
    }
}
