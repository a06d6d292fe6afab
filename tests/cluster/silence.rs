//! Connections to a real API server (TLS, HTTP/2) that carry nothing any more and stay open: noticed, said and replaced.

use std::sync::Arc;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::changes::Picks;
use crate::kubernetes::leases::{lease, replica, server};
use crate::kubernetes::{POOL, endpoints_are, health, health_is, logged, with_pool};
use crate::server::ApiServer;
use crate::support::apiserver::{LEASES, PODS, POOLS, pod, pool, unready_pod};
use crate::support::epp::Epp;
use crate::support::wait::until;

#[tokio::test]
async fn silent_connections_are_replaced_without_losing_a_pick() {
    let (server, epp) = with_pool(&[8000]);
    let epp = Arc::new(epp);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    let picks = Picks::start(&epp);
    server.silence();
    server.apply(PODS, pod("b", "127.0.0.2"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    assert!(picks.all_served().await > 0);
    logged(&epp, "silent").await;
    // Again, and what is no longer ready leaves.
    server.silence();
    server.apply(PODS, unready_pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["b-rank-0"]).await;
}

#[tokio::test]
async fn a_first_connection_that_is_never_answered_on_is_given_up() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    server.mute(2);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    endpoints_are(&epp, &["a-rank-0"]).await;
}

#[tokio::test]
async fn a_leader_survives_silent_connections() {
    let server = server();
    let epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.silence();
    let renewed = || {
        let lease = server.get(LEASES, &lease(&server));
        lease.map(|l| l["spec"]["renewTime"].clone())
    };
    let before = renewed();
    until("the lease to be renewed", || renewed() != before).await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
    assert!(!epp.log().contains("Leader election lost"), "{}", epp.log());
}

#[tokio::test]
async fn a_server_where_nothing_changes_is_no_silent_one() {
    let (server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    let asked = server.requests("GET", PODS.resource);
    // Longer than a connection may be silent: another pool's lease is renewed meanwhile, ours has nothing to tell.
    let other = self::server();
    let leader = replica(&other, "other");
    health_is(&leader, "readiness", ServingStatus::Serving).await;
    let renewals = || {
        let of = |e: &&serde_json::Value| e["verb"] == "update" && e["stage"] == "RequestReceived";
        other.audited().iter().filter(of).count()
    };
    until("ten renewals", || renewals() >= 10).await;
    for words in ["silent", "Cannot watch", "does not answer"] {
        assert!(!epp.log().contains(words), "{words}: {}", epp.log());
    }
    assert_eq!(
        server.requests("GET", PODS.resource),
        asked,
        "the watch was opened anew"
    );
}
