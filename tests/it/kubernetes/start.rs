//! Starting in a cluster: selector mode, identities, and clear errors when there is no cluster.

use std::process::Command;

use tonic_health::pb::health_check_response::ServingStatus;

use super::{destination, endpoints_are, health_is};
use crate::ApiServer;
use crate::support::apiserver::{OBJECTIVES, PODS, POOLS, Release, pod, pool};
use crate::support::epp::Epp;

const SELECTOR: [&str; 3] = [
    "--endpoint-selector=app=model",
    "--endpoint-target-ports=8000,8001",
    "--metrics-endpoint-auth=false",
];

#[tokio::test]
async fn selector_mode_needs_no_pool_and_is_ready_once_pods_are_listed() {
    let server = ApiServer::alone(Release::Standalone);
    for kind in [POOLS, OBJECTIVES] {
        server.install(kind, false);
    }
    server.forbid("pods", true);
    server.apply(PODS, pod("p", "127.0.0.1"));
    let environment = [("POD_NAME", "my-epp-5d9c7b6f4-abcde")];
    let mut epp = Epp::in_cluster(&server, &SELECTOR, &environment);
    health_is(&epp, "inference-extension", ServingStatus::NotServing).await;
    server.forbid("pods", false);
    health_is(&epp, "inference-extension", ServingStatus::Serving).await;
    endpoints_are(&epp, &["p-rank-0", "p-rank-1"]).await;
    assert!(destination(&epp).await.unwrap().starts_with("127.0.0.1:800"));
    // The deployment's name stands for the pool's.
    epp.eventually("inference_pool_per_pod_queue_size{name=\"my-epp\",model_server_pod=\"p-rank-0\"} 0")
        .await;
    assert_eq!(server.requests("GET", POOLS.resource), 0);
    assert_eq!(server.requests("GET", OBJECTIVES.resource), 0);
}

#[tokio::test]
async fn the_namespace_is_the_flags_or_the_environments() {
    for by_flag in [true, false] {
        let server = ApiServer::start();
        let elsewhere = server.another_namespace("elsewhere");
        let (flag, variable) = if by_flag {
            (Some(format!("--pool-namespace={elsewhere}")), "ignored")
        } else {
            (None, elsewhere.as_str())
        };
        let environment = &[("NAMESPACE", variable)];
        let mut pool = pool(&[8000]);
        pool["metadata"]["namespace"] = elsewhere.as_str().into();
        let mut there = pod("p", "127.0.0.1");
        there["metadata"]["namespace"] = elsewhere.as_str().into();
        server.apply(POOLS, pool);
        server.apply_all(PODS, [pod("here", "127.0.0.2"), there]);
        let flags: Vec<&str> = super::POOL.iter().copied().chain(flag.as_deref()).collect();
        let epp = Epp::in_cluster(&server, &flags, environment);
        endpoints_are(&epp, &["p-rank-0"]).await;
    }
}

/// stderr of an `epp` that must end with exit code 1.
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_epp"))
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("POD_NAME")
        .env("HOME", home.path())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

#[test]
fn without_a_cluster_the_error_names_both_ways() {
    let text = refused(&["--pool-name=p"], &[]);
    for word in [
        "no Kubernetes cluster",
        "KUBECONFIG",
        ".kube/config",
        "file-discovery",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_wrong_kubeconfig_or_service_account_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "clusters: 7").unwrap();
    let wrong = wrong.to_str().unwrap();
    let text = refused(&["--pool-name=p"], &[("KUBECONFIG", wrong)]);
    assert!(text.contains(wrong) && text.contains("$KUBECONFIG"), "{text}");
    let text = refused(&["--pool-name=p"], &[("KUBECONFIG", "/does/not/exist")]);
    assert!(text.contains("/does/not/exist"), "{text}");
    let text = refused(
        &["--pool-name=p"],
        &[
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ],
    );
    assert!(text.contains("service account"), "{text}");
}

#[test]
fn selector_mode_needs_the_pod_name_of_a_deployment() {
    let flags = &SELECTOR[..2];
    for (environment, word) in [
        (&[][..], "failed to get environment variable POD_NAME"),
        (&[("POD_NAME", "")], "failed to get environment variable POD_NAME"),
        (
            &[("POD_NAME", "epp-0")],
            "failed to parse deployment name from pod name epp-0",
        ),
    ] {
        let text = refused(flags, environment);
        assert!(text.contains(word), "{word}: {text}");
    }
}
