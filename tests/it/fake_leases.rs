//! Leases that an API server refuses, contests or is silent about, which only the fake one does on demand: a reason for
//! each lost one.

use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::leases::{lease, replica, server};
use crate::kubernetes::{health, health_is, logged};
use crate::support::apiserver::LEASES;
use crate::support::wait::until;

#[tokio::test]
async fn who_may_create_but_not_update_the_lease_does_not_lead_and_says_so() {
    let server = server();
    server.refuse("PUT", LEASES.resource, 403);
    let epp = replica(&server, "ours");
    logged(
        &epp,
        "grant get, list, watch, create and update on leases.coordination.k8s.io",
    )
    .await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    assert!(!epp.log().contains("\"Leading\""), "{}", epp.log());
}

#[tokio::test]
async fn a_lost_lease_is_logged_with_its_reason() {
    let server = server();
    let mut epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.forbid(LEASES.resource, true);
    assert_eq!(epp.ended().await.code(), Some(1));
    let log = epp.log();
    let line = log.lines().find(|l| l.contains("Leader election lost")).unwrap();
    assert!(
        line.contains("not renewed for 10 s: leases.coordination.k8s.io is forbidden"),
        "{log}"
    );
    assert!(log.contains("Cannot renew the lease: trying again"), "{log}");
}

#[tokio::test]
async fn a_lease_that_somebody_else_keeps_writing_is_not_said_to_be_released() {
    let server = server();
    let mut epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.refuse("PUT", LEASES.resource, 409);
    epp.signal("TERM");
    assert!(epp.ended().await.success());
    logged(&epp, "Lease not released: somebody else writes it").await;
    assert!(!epp.log().contains("Lease released"), "{}", epp.log());
}

#[tokio::test]
async fn a_leader_survives_connections_that_go_silent() {
    let server = server();
    let epp = replica(&server, "ours");
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.silence();
    let renewed = || {
        server
            .get(LEASES, &lease(&server))
            .map(|l| l["spec"]["renewTime"].clone())
    };
    let before = renewed();
    until("the lease to be renewed", || renewed() != before).await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
    assert!(!epp.log().contains("Leader election lost"), "{}", epp.log());
}
