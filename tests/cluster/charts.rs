//! What is shipped is what a real API server takes: the chart in every combination, `deploy/kustomize/` and the
//! examples, applied strictly without keeping them.

use serde_json::Value;

use crate::server::{ApiServer, documents, helm, path, place};

/// Applies `object` strictly, without keeping it; what the server says against it.
fn refusal(server: &ApiServer, object: &Value) -> Option<String> {
    let place = place(object, server.namespace());
    let (status, answer) = server.process.admin.apply(&place, object, true);
    (!(200..300).contains(&status)).then(|| format!("{place}: {status}: {}", answer["message"]))
}

#[test]
fn sixteen_combinations_of_the_chart_pass_a_strict_dry_run() {
    let server = ApiServer::start();
    let modes: [&[&str]; 2] = [
        &["inferencePool.matchLabels.app=model"],
        &["mode=standalone", "standalone.endpointSelector=app=model"],
    ];
    let replicas: [&[&str]; 2] = [&["replicas=2"], &["replicas=3", "leaderElection=false"]];
    let more: [&[&str]; 2] = [
        &[],
        &[
            "tlsSecretName=cert",
            "tracing.enabled=true",
            "networkPolicy.enabled=true",
            "flags.grpc-port=9002",
        ],
    ];
    let mut checked = 0;
    for mode in modes {
        for replicas in replicas {
            for more in more {
                for auth in ["metrics.auth=true", "metrics.auth=false"] {
                    let base = ["image.repository=r.example/epp", auth];
                    let values = [&base[..], mode, replicas, more].concat();
                    let objects = helm("model", server.namespace(), &values);
                    let wrong: Vec<String> = objects.iter().filter_map(|o| refusal(&server, o)).collect();
                    assert!(wrong.is_empty(), "{values:?}: {wrong:#?}");
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 16);
}

#[test]
fn the_experimental_pool_of_the_chart_passes_a_strict_dry_run() {
    let server = ApiServer::start();
    let values = [
        "image.repository=r.example/epp",
        "inferencePool.matchLabels.app=model",
        "inferencePool.apiVersion=inference.networking.x-k8s.io/v1alpha2",
    ];
    for object in helm("model", server.namespace(), &values) {
        assert_eq!(refusal(&server, &object), None);
    }
}

#[test]
fn releases_of_any_name_pass_a_strict_dry_run() {
    let server = ApiServer::start();
    let values = [
        "image.repository=r.example/epp",
        "replicas=2",
        "inferencePool.matchLabels.app=model",
    ];
    for name in ["70b", "model.v1", "a", &"x".repeat(53)] {
        for object in helm(name, server.namespace(), &values) {
            assert_eq!(refusal(&server, &object), None, "{name}");
        }
    }
}

#[test]
fn kustomize_and_the_examples_pass_a_strict_dry_run() {
    let server = ApiServer::start();
    let mut checked = 0;
    for file in [
        "kustomize/gateway/manifests",
        "kustomize/standalone/manifests",
        "examples/pools",
        "examples/objectives",
        "examples/rewrites",
    ] {
        let text = std::fs::read_to_string(path(&format!("deploy/{file}.yaml"))).unwrap();
        for object in documents(&text) {
            assert_eq!(refusal(&server, &object), None, "{file}");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}
