//! What is installed: the chart as Helm renders it, and the rights it gives.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::apiserver::Release;

/// A file of the package.
pub fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

/// The documents of a YAML text; empty ones are left out.
pub fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    all.into_iter().filter(|d| !d.is_null()).collect()
}

/// The objects of the chart, as release `name` in `namespace`, with these values.
pub fn helm(name: &str, namespace: &str, values: &[&str]) -> Vec<Value> {
    let mut command = Command::new(path(".venv/bin/helm"));
    command
        .args(["template", name, "--namespace", namespace])
        .arg(path("deploy/helm/endpoint-picker"));
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("cannot run .venv/bin/helm ({e}): make venv"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values:?}: {said}");
    documents(&String::from_utf8_lossy(&output.stdout))
}

/// The objects of a release in `namespace`, without the pool.
pub fn objects(release: Release, namespace: &str) -> Vec<Value> {
    const BOTH: [&str; 4] = [
        "image.repository=r.example/epp",
        "replicas=2",
        "inferencePool.create=false",
        "inferencePool.name=pool",
    ];
    let more: &[&str] = match release {
        Release::Gateway => &["inferencePool.matchLabels.app=model"],
        Release::Experimental => &[
            "inferencePool.matchLabels.app=model",
            "inferencePool.apiVersion=inference.networking.x-k8s.io/v1alpha2",
        ],
        Release::Standalone => &["mode=standalone", "standalone.endpointSelector=app=model"],
    };
    helm("model", namespace, &[&BOTH, more].concat())
}

/// Where an object is, from its kind and name. `namespace` is for those that have one and do not say it.
pub fn place(object: &Value, namespace: &str) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").unwrap(), text("/metadata/name").unwrap());
    let version = text("/apiVersion").unwrap();
    let root = if version == "v1" { "/api" } else { "/apis" };
    let plural = match kind {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        other => format!("{}s", other.to_lowercase()),
    };
    let within = match kind {
        "Namespace" | "ClusterRole" | "ClusterRoleBinding" | "CustomResourceDefinition" => String::new(),
        _ => format!("/namespaces/{}", text("/metadata/namespace").unwrap_or(namespace)),
    };
    format!("{root}/{version}{within}/{plural}/{name}")
}
