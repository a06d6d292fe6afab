//! API servers that cut, forget, refuse, dawdle and go away, and CRDs that come late: what is known stays, what changes
//! is caught up with.

use std::time::Duration;

use tonic_health::pb::health_check_response::ServingStatus;

use super::{POOL, destination, endpoints_are, health, health_is, logged, with_pool};
use crate::ApiServer;
use crate::support::apiserver::{OBJECTIVES, PODS, POOLS, REWRITES, Release, pod, pool, unready_pod};
use crate::support::epp::Epp;
use crate::support::wait::until;

#[tokio::test]
async fn cut_and_expired_watches_are_caught_up_with() {
    let (server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    for round in 0..3 {
        // Changes happen while the watch is cut, and then the server has forgotten them.
        server.cut_watches();
        server.apply_all(PODS, [unready_pod("a", "127.0.0.1"), pod("b", "127.0.0.2")]);
        if round > 0 {
            server.compact();
        }
        endpoints_are(&epp, &["b-rank-0"]).await;
        server.cut_watches();
        server.delete(PODS, "b");
        server.apply(PODS, pod("a", "127.0.0.1"));
        server.compact();
        server.cut_watches();
        endpoints_are(&epp, &["a-rank-0"]).await;
    }
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
}

#[tokio::test]
async fn a_server_that_is_away_leaves_the_last_state_and_is_caught_up_with() {
    let (mut server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    server.stop();
    logged(&epp, "keeping what is known").await;
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.1:8000"));
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
    server.apply(PODS, pod("b", "127.0.0.2"));
    server.restart();
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    let said = epp.log().matches("keeping what is known").count();
    assert!(said <= 4, "once per watch, not once per try: {said}");
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    server.stop();
    let epp = Epp::in_cluster(&server, POOL, &[]);
    logged(&epp, "Cannot watch now").await;
    assert_eq!(health(&epp, "liveness").await, Some(ServingStatus::Serving));
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    server.restart();
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    endpoints_are(&epp, &["a-rank-0"]).await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let (server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    server.delay(Duration::from_millis(300));
    server.cut_watches();
    server.compact();
    server.apply(PODS, pod("b", "127.0.0.2"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
}

#[tokio::test]
async fn crds_that_come_late_are_noticed() {
    let server = ApiServer::alone(Release::Gateway);
    for kind in [POOLS, OBJECTIVES, REWRITES] {
        server.install(kind, false);
    }
    server.apply(PODS, pod("a", "127.0.0.1"));
    let epp = Epp::in_cluster(&server, POOL, &[]);
    assert_eq!(
        logged(
            &epp,
            "does not know inferencepools.inference.networking.k8s.io: install its CRD"
        )
        .await,
        1
    );
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    server.install(POOLS, true);
    logged(&epp, "there is no InferencePool \"pool\"").await;
    server.apply(POOLS, pool(&[8000]));
    // The others are still missing, and that keeps nothing from working.
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    endpoints_are(&epp, &["a-rank-0"]).await;
    let watched = |plural: &str| server.requests("GET", plural);
    let before = watched(OBJECTIVES.resource);
    server.install(OBJECTIVES, true);
    until("objectives to be looked for", || {
        watched(OBJECTIVES.resource) > before + 1
    })
    .await;
    assert_eq!(logged(&epp, "does not know inferencemodelrewrites").await, 1);
}

#[tokio::test]
async fn a_resource_that_is_forbidden_is_said_once_with_what_to_grant() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    server.forbid(OBJECTIVES.resource, true);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    endpoints_are(&epp, &["a-rank-0"]).await;
    logged(
        &epp,
        "grant list and watch on inferenceobjectives.inference.networking.x-k8s.io",
    )
    .await;
    let tries = || server.requests("GET", OBJECTIVES.resource);
    until("three tries", || tries() >= 3).await;
    assert_eq!(logged(&epp, "grant list and watch on").await, 1, "{}", epp.log());
    server.forbid(OBJECTIVES.resource, false);
    logged(&epp, "Watching again").await;
}

#[tokio::test]
async fn pods_that_are_forbidden_keep_it_unready_until_they_are_granted() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    server.forbid("pods", true);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    let wanted = format!("grant list and watch on pods in namespace {}", server.namespace());
    logged(&epp, &wanted).await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    server.forbid("pods", false);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    endpoints_are(&epp, &["a-rank-0"]).await;
}

#[tokio::test]
async fn a_thousand_pods_are_listed_in_pages() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let pods = (0..1000).map(|i| pod(&format!("p-{i}"), &format!("127.1.{}.{}", i / 250, i % 250 + 1)));
    server.apply_all(PODS, pods);
    let flags = [POOL, &["--refresh-metrics-interval=10s"]].concat();
    let epp = Epp::in_cluster(&server, &flags, &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    assert_eq!(super::endpoints(&epp).await.len(), 1000);
    assert!(server.requests("GET", "pods") >= 3, "two pages and a watch");
}
