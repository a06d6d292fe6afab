//! Which endpoints a pool has, as pods and the pool change.

use serde_json::json;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{destination, endpoints_are, health, health_is, with_pool};
use crate::ApiServer;
use crate::support::apiserver::{
    OBJECTIVES, PODS, POOLS, POOLS_EXPERIMENTAL, Release, pod, pool, unready_pod,
};
use crate::support::epp::Epp;
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

#[tokio::test]
async fn endpoints_follow_the_pods_of_the_pool() {
    let (server, epp) = with_pool(&[8000]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    assert_eq!(destination(&epp).await, Err(503));
    server.apply_all(PODS, [pod("a", "127.0.0.1"), unready_pod("b", "127.0.0.2")]);
    endpoints_are(&epp, &["a-rank-0"]).await;
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.1:8000"));
    server.apply(PODS, pod("b", "127.0.0.2"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    // No longer ready; other labels; on its way out; gone.
    server.apply(PODS, unready_pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["b-rank-0"]).await;
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    let mut stranger = pod("b", "127.0.0.2");
    stranger["metadata"]["labels"]["app"] = json!("other");
    server.apply(PODS, stranger);
    endpoints_are(&epp, &["a-rank-0"]).await;
    server.apply(PODS, pod("c", "127.0.0.3"));
    let mut leaving = pod("a", "127.0.0.1");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    server.apply(PODS, leaving);
    endpoints_are(&epp, &["c-rank-0"]).await;
    server.delete(PODS, "c");
    endpoints_are(&epp, &[]).await;
    // A pod that comes back under its name with another address is another endpoint.
    server.apply(PODS, pod("c", "127.0.0.9"));
    endpoints_are(&epp, &["c-rank-0"]).await;
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.9:8000"));
}

#[tokio::test]
async fn every_target_port_is_a_rank_and_an_annotation_chooses_among_them() {
    let (server, epp) = with_pool(&[8000, 8001]);
    server.apply(PODS, pod("p", "127.0.0.1"));
    endpoints_are(&epp, &["p-rank-0", "p-rank-1"]).await;
    let with_annotation = |ports: &str| {
        let mut pod = pod("p", "127.0.0.1");
        pod["metadata"]["annotations"] = json!({"inference.networking.k8s.io/active-ports": ports});
        pod
    };
    for (ports, expected) in [
        ("8001", &["p-rank-1"][..]),
        ("", &[]),
        ("8000, 8001", &["p-rank-0", "p-rank-1"]),
        ("8000,1", &["p-rank-0"]),
    ] {
        server.apply(PODS, with_annotation(ports));
        endpoints_are(&epp, expected).await;
    }
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.1:8000"));
    server.apply(PODS, pod("p", "127.0.0.1"));
    endpoints_are(&epp, &["p-rank-0", "p-rank-1"]).await;
}

#[tokio::test]
async fn changed_ports_and_selectors_take_effect_at_once() {
    let (server, epp) = with_pool(&[8000, 8001]);
    let mut other = pod("other", "127.0.0.2");
    other["metadata"]["labels"] = json!({"app": "other"});
    server.apply_all(PODS, [pod("p", "127.0.0.1"), other]);
    endpoints_are(&epp, &["p-rank-0", "p-rank-1"]).await;
    // A shorter list leaves no orphans behind.
    server.apply(POOLS, pool(&[8001]));
    endpoints_are(&epp, &["p-rank-0"]).await;
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.1:8001"));
    let mut changed = pool(&[8001, 8002]);
    changed["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
    server.apply(POOLS, changed);
    endpoints_are(&epp, &["other-rank-0", "other-rank-1"]).await;
    // The pods of before are no longer looked at.
    server.apply(PODS, pod("p", "127.0.0.7"));
    server.delete(PODS, "other");
    endpoints_are(&epp, &[]).await;
}

#[tokio::test]
async fn a_deleted_pool_has_nothing_and_comes_back_with_everything() {
    let (server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("p", "127.0.0.1"));
    server.apply(OBJECTIVES, super::rules::objective("batch", "pool", -1));
    endpoints_are(&epp, &["p-rank-0"]).await;
    server.delete(POOLS, "pool");
    health_is(&epp, "readiness", ServingStatus::NotServing).await;
    endpoints_are(&epp, &[]).await;
    // A pod without a pool must not be restarted for it.
    assert_eq!(health(&epp, "liveness").await, Some(ServingStatus::Serving));
    // Another pool is none of ours.
    let mut other = pool(&[9000]);
    other["metadata"]["name"] = json!("another");
    server.apply(POOLS, other);
    server.apply(POOLS, pool(&[8000]));
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    endpoints_are(&epp, &["p-rank-0"]).await;
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.1:8000"));
    assert_eq!(epp.log().matches("The pool is deleted").count(), 1);
}

#[tokio::test]
async fn a_pool_of_the_experimental_group_works_the_same() {
    let server = ApiServer::start_with(Release::Experimental);
    server.apply(PODS, pod("p", "127.0.0.1"));
    let spec =
        json!({"selector": {"app": "model"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}});
    server.apply(
        POOLS_EXPERIMENTAL,
        json!({"metadata": {"name": "pool"}, "spec": spec}),
    );
    let flags = [super::POOL, &["--pool-group=inference.networking.x-k8s.io"]].concat();
    let epp = Epp::in_cluster(&server, &flags, &[]);
    endpoints_are(&epp, &["p-rank-0"]).await;
    // An empty selector takes every pod of the namespace.
    let mut stranger = pod("q", "127.0.0.2");
    stranger["metadata"]["labels"] = json!({});
    server.apply(PODS, stranger);
    let spec = json!({"selector": {}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}});
    server.apply(
        POOLS_EXPERIMENTAL,
        json!({"metadata": {"name": "pool"}, "spec": spec}),
    );
    endpoints_are(&epp, &["p-rank-0", "q-rank-0"]).await;
}

#[tokio::test]
async fn metrics_are_scraped_from_the_port_of_the_flag() {
    let page = ModelServer::start(
        7,
        ports::free(),
        State {
            queue: 3,
            ..State::default()
        },
    )
    .await;
    let server = ApiServer::start();
    server.apply(PODS, pod("p", "127.0.0.7"));
    // Nothing listens where the requests would go.
    server.apply(POOLS, pool(&[ports::free()]));
    let port = format!("--model-server-metrics-port={}", page.address.port());
    let mut epp = Epp::in_cluster(&server, &[super::POOL, &[&port]].concat(), &[]);
    epp.eventually("inference_pool_per_pod_queue_size{name=\"pool\",model_server_pod=\"p-rank-0\"} 3")
        .await;
}

#[tokio::test]
async fn a_selector_that_matches_nothing_is_said_once() {
    let (server, epp) = with_pool(&[8000]);
    let wanted = format!(
        "no pod in namespace {} has the labels app=model",
        server.namespace()
    );
    assert_eq!(super::logged(&epp, &wanted).await, 1);
    server.apply(PODS, pod("p", "127.0.0.1"));
    endpoints_are(&epp, &["p-rank-0"]).await;
}
