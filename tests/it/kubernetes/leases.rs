//! Leases that are deleted or left behind: never two leaders, and no wait where none is needed.

use std::time::Duration;

use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{POOL, health, health_is, health_within, logged};
use crate::ApiServer;
use crate::support::apiserver::{LEASES, POOLS, pool};
use crate::support::epp::Epp;
use crate::support::wait::until;

/// Name of the lease.
pub fn lease(server: &ApiServer) -> String {
    let namespace = server.namespace();
    format!("epp-{namespace}-pool.gateway-api-inference-extension.sigs.k8s.io")
}

pub fn server() -> ApiServer {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server
}

pub fn replica(server: &ApiServer, name: &str) -> Epp {
    let flags = [
        POOL,
        &["--ha-enable-leader-election", "--drain-timeout=5s", "--v=1"],
    ]
    .concat();
    Epp::in_cluster(server, &flags, &[("POD_NAME", name)])
}

fn holder(server: &ApiServer) -> String {
    let lease: Option<Value> = server.get(LEASES, &lease(server));
    let holder = lease.and_then(|l| l["spec"]["holderIdentity"].as_str().map(str::to_owned));
    holder.unwrap_or_default()
}

#[tokio::test]
async fn a_deleted_lease_is_written_anew_by_its_holder_and_nobody_else_gets_ready() {
    let server = server();
    let first = replica(&server, "first");
    health_is(&first, "readiness", ServingStatus::Serving).await;
    let second = replica(&server, "second");
    logged(&second, "Following the leader").await;
    let leader = holder(&server);
    for _ in 0..3 {
        server.delete(LEASES, &lease(&server));
        until("the lease to be written anew", || holder(&server) == leader).await;
        assert_eq!(health(&first, "readiness").await, Some(ServingStatus::Serving));
        assert_eq!(
            health(&second, "readiness").await,
            Some(ServingStatus::NotServing)
        );
    }
    assert!(!second.log().contains("Leading"), "{}", second.log());
}

#[tokio::test]
async fn an_expired_lease_of_the_same_pod_is_taken_at_once() {
    let server = server();
    let record = json!({"metadata": {"name": lease(&server)}, "spec": {
        "holderIdentity": "ours_0b5c", "leaseDurationSeconds": 15, "leaseTransitions": 3,
        "acquireTime": "2020-01-01T00:00:00.000000Z", "renewTime": "2020-01-01T00:00:00.000000Z"}});
    server.apply(LEASES, record);
    let epp = replica(&server, "ours");
    // Well before the 15 seconds a stranger's lease is respected for.
    health_within(&epp, "readiness", ServingStatus::Serving, Duration::from_secs(10)).await;
    assert!(holder(&server).starts_with("ours_"));
}
