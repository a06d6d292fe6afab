//! Every right that the chart gives, taken away: what still works, and what is said.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::access::get;
use crate::kubernetes::{POOL, endpoints_are, health, health_is, logged, with_pool};
use crate::server::ApiServer;
use crate::support::apiserver::{OBJECTIVES, PODS, POOLS, REWRITES, pod, pool};
use crate::support::epp::Epp;

/// A pool with a pod, and `epp` that may not do `verb` on `resource`.
fn without(resource: &str, verb: &str) -> (ApiServer, Epp) {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    server.rights.set(resource, Some(verb), false);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    (server, epp)
}

#[tokio::test]
async fn it_is_not_ready_before_it_may_list_pods_and_its_pool() {
    for resource in [PODS.resource, POOLS.resource] {
        let (server, epp) = without(resource, "list");
        let wanted = format!("list and watch on {resource} in namespace {}", server.namespace());
        logged(&epp, &wanted).await;
        assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
        assert_eq!(health(&epp, "liveness").await, Some(ServingStatus::Serving));
        server.rights.set(resource, Some("list"), true);
        health_is(&epp, "readiness", ServingStatus::Serving).await;
        endpoints_are(&epp, &["a-rank-0"]).await;
    }
}

#[tokio::test]
async fn what_may_be_listed_and_not_watched_is_said_and_followed_once_granted() {
    for resource in [PODS.resource, POOLS.resource] {
        let (server, epp) = without(resource, "watch");
        let wanted = format!("list and watch on {resource} in namespace {}", server.namespace());
        logged(&epp, &wanted).await;
        server.rights.set(resource, Some("watch"), true);
        endpoints_are(&epp, &["a-rank-0"]).await;
        server.apply(PODS, pod("b", "127.0.0.2"));
        endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
        server.apply(POOLS, pool(&[8000, 8001]));
        endpoints_are(&epp, &["a-rank-0", "a-rank-1", "b-rank-0", "b-rank-1"]).await;
    }
}

#[tokio::test]
async fn objectives_and_rewrites_that_may_not_be_read_keep_nothing_from_working() {
    for resource in [OBJECTIVES.resource, REWRITES.resource] {
        let (_server, epp) = without(resource, "list");
        health_is(&epp, "readiness", ServingStatus::Serving).await;
        endpoints_are(&epp, &["a-rank-0"]).await;
        logged(&epp, &format!("list and watch on {resource}")).await;
    }
}

#[tokio::test]
async fn a_candidate_that_may_not_touch_the_lease_does_not_lead() {
    for verb in ["get", "create", "update"] {
        let server = ApiServer::start();
        server.apply(POOLS, pool(&[8000]));
        server.rights.set("leases.coordination.k8s.io", Some(verb), false);
        let flags = [POOL, &["--ha-enable-leader-election"]].concat();
        let epp = Epp::in_cluster(&server, &flags, &[("POD_NAME", "one")]);
        logged(
            &epp,
            "grant get, list, watch, create and update on leases.coordination.k8s.io",
        )
        .await;
        assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
        server.rights.set("leases.coordination.k8s.io", Some(verb), true);
        health_is(&epp, "readiness", ServingStatus::Serving).await;
    }
}

#[tokio::test]
async fn a_leader_that_may_not_write_events_leads() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.forbid("events", true);
    let flags = [POOL, &["--ha-enable-leader-election"]].concat();
    let epp = Epp::in_cluster(&server, &flags, &[("POD_NAME", "one")]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
}

/// Nothing that it does in its life is refused, and nothing is granted that it does not do: start, changes, election, metrics.
#[tokio::test]
async fn the_chart_gives_exactly_the_rights_that_are_used() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let token = server.token("prometheus");
    server.allow("prometheus", "get", "/metrics");
    let flags = ["--pool-name=pool", "--ha-enable-leader-election"];
    let mut epp = Epp::in_cluster(&server, &flags, &[("POD_NAME", "one")]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.apply(PODS, pod("a", "127.0.0.1"));
    assert_eq!(get(&epp, Some(&format!("Bearer {token}"))).await, 200);
    // The leader has renewed its lease and written its event.
    let asked = |verb: &str, resource: &str| {
        let of = |e: &Value| e["verb"] == json!(verb) && e["objectRef"]["resource"] == json!(resource);
        server.audited().iter().any(of)
    };
    crate::support::wait::until("a renewal and an event", || {
        asked("update", "leases") && asked("create", "events")
    })
    .await;
    epp.signal("TERM");
    assert!(epp.ended().await.success());
    let all = server.audited();
    let refused: Vec<&Value> = all
        .iter()
        .filter(|e| e["responseStatus"]["code"] == json!(403))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    // No right more than that.
    let used: BTreeSet<(String, String)> = all.iter().map(use_of).collect();
    let given = server.rights.all().iter().map(|r| (r.verb.clone(), r.resource()));
    let unused: Vec<(String, String)> = given.filter(|right| !used.contains(right)).collect();
    assert!(unused.is_empty(), "{unused:?} of {used:?}");
    let agents: Vec<String> = server.agents().into_iter().collect();
    assert_eq!(agents, [format!("endpoint-picker/{}", env!("CARGO_PKG_VERSION"))]);
}

/// Verb and resource, with its group, of an audit event.
fn use_of(event: &Value) -> (String, String) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let resource = match text(&object["apiGroup"]).as_str() {
        "" => text(&object["resource"]),
        group => format!("{}.{group}", text(&object["resource"])),
    };
    (text(&event["verb"]), resource)
}

#[tokio::test]
async fn a_pool_without_any_right_is_not_served() {
    let (server, _) = with_pool(&[8000]);
    for right in server.rights.all() {
        server.rights.set(&right.resource(), Some(&right.verb), false);
    }
    let epp = Epp::in_cluster(&server, POOL, &[]);
    logged(&epp, "grant").await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    assert_eq!(health(&epp, "liveness").await, Some(ServingStatus::Serving));
}
