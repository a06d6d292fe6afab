//! Leader election over the lease, among ours and with candidates of client-go.

use std::time::Duration;

use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{POOL, endpoints_are, health, health_is, health_within};
use crate::ApiServer;
use crate::support::apiserver::{LEASES, PODS, POOLS, pod, pool};
use crate::support::epp::Epp;

/// Name of the lease.
fn lease(server: &ApiServer) -> String {
    let namespace = server.namespace();
    format!("epp-{namespace}-pool.gateway-api-inference-extension.sigs.k8s.io")
}

fn server() -> ApiServer {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("p", "127.0.0.1"));
    server
}

fn replica(server: &ApiServer, name: &str) -> Epp {
    let flags = [POOL, &["--ha-enable-leader-election", "--drain-timeout=5s"]].concat();
    Epp::in_cluster(server, &flags, &[("POD_NAME", name)])
}

/// A record as a candidate of client-go writes it.
fn foreign(server: &ApiServer, holder: &str, transitions: i32) -> Value {
    json!({"metadata": {"name": lease(server)}, "spec": {
        "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": transitions,
        "acquireTime": "2020-01-01T00:00:00.000000Z", "renewTime": "2020-01-01T00:00:00.000000Z"}})
}

fn spec(server: &ApiServer) -> Value {
    server
        .get(LEASES, &lease(server))
        .map(|l| l["spec"].clone())
        .unwrap_or_default()
}

fn holder(server: &ApiServer) -> String {
    spec(server)["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn only_the_leader_is_ready_and_a_released_lease_is_taken_over_within_two_seconds() {
    let server = server();
    let mut first = replica(&server, "first");
    health_is(&first, "readiness", ServingStatus::Serving).await;
    let second = replica(&server, "second");
    // The follower is warm, alive and not ready.
    endpoints_are(&second, &["p-rank-0"]).await;
    for (service, status) in [
        ("liveness", ServingStatus::Serving),
        ("readiness", ServingStatus::NotServing),
        ("", ServingStatus::NotServing),
        (
            "envoy.service.ext_proc.v3.ExternalProcessor",
            ServingStatus::NotServing,
        ),
        ("foo", ServingStatus::ServiceUnknown),
    ] {
        assert_eq!(health(&second, service).await, Some(status), "{service}");
    }
    let record = spec(&server);
    assert!(
        record["holderIdentity"].as_str().unwrap().starts_with("first_"),
        "{record}"
    );
    assert_eq!(
        (&record["leaseDurationSeconds"], &record["leaseTransitions"]),
        (&json!(15), &json!(0))
    );
    first.signal("TERM");
    health_within(
        &second,
        "readiness",
        ServingStatus::Serving,
        Duration::from_secs(2),
    )
    .await;
    assert!(first.ended().await.success());
    let record = spec(&server);
    assert!(
        record["holderIdentity"].as_str().unwrap().starts_with("second_"),
        "{record}"
    );
    assert_eq!(record["leaseTransitions"], json!(1));
    super::logged(&first, "Lease released").await;
}

#[tokio::test]
async fn a_leader_that_dies_is_followed_when_its_lease_has_run_out() {
    let server = server();
    let first = replica(&server, "first");
    health_is(&first, "readiness", ServingStatus::Serving).await;
    let second = replica(&server, "second");
    super::logged(&second, "Following the leader").await;
    first.signal("KILL");
    // Lease duration and one retry.
    let took = health_within(
        &second,
        "readiness",
        ServingStatus::Serving,
        Duration::from_secs(17),
    )
    .await;
    assert!(
        took > Duration::from_secs(5),
        "the lease was not respected: {took:?}"
    );
}

#[tokio::test]
async fn a_foreign_holder_is_respected_until_it_lets_go() {
    let server = server();
    server.apply(LEASES, foreign(&server, "client-go_1", 4));
    let epp = replica(&server, "ours");
    super::logged(&epp, "client-go_1").await;
    // Its times are old, but what counts is when we saw the record change.
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    assert_eq!(holder(&server), "client-go_1");
    let mut free = foreign(&server, "", 4);
    free["spec"]["leaseDurationSeconds"] = json!(1);
    server.apply(LEASES, free);
    health_within(&epp, "readiness", ServingStatus::Serving, Duration::from_secs(2)).await;
    assert_eq!(spec(&server)["leaseTransitions"], json!(5));
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_stops_being_ready_drains_and_ends() {
    let server = server();
    let mut epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.apply(LEASES, foreign(&server, "thief_1", 9));
    let status = epp.ended().await;
    assert_eq!(status.code(), Some(1), "{}", epp.log());
    assert!(epp.log().contains("leader election lost"), "{}", epp.log());
    assert_eq!(
        holder(&server),
        "thief_1",
        "a lease that is not ours is not released"
    );
}

#[tokio::test]
async fn a_leader_that_cannot_renew_gives_up_before_its_lease_runs_out() {
    let server = server();
    let mut epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.forbid(LEASES.resource, true);
    let status = tokio::time::timeout(Duration::from_secs(15), epp.ended()).await;
    assert_eq!(status.expect("an end within the lease").code(), Some(1));
}

#[tokio::test]
async fn leaders_are_seen_in_events() {
    let server = server();
    let epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    crate::support::wait::until("an event", || server.requests("POST", "events") == 1).await;
}
