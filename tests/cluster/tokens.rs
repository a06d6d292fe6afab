//! Real tokens: of those who read metrics, and `epp`'s own, which the kubelet renews.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::access::get;
use crate::kubernetes::{POOL, endpoints_are, health, health_is, logged};
use crate::server::ApiServer;
use crate::support::apiserver::{PODS, POOLS, pod, pool};
use crate::support::epp::Epp;
use crate::support::tls::Authority;

async fn bearer(epp: &Epp, token: &str) -> u16 {
    get(epp, Some(&format!("Bearer {token}"))).await
}

#[tokio::test]
async fn tokens_that_are_revoked_or_for_others_read_no_metrics() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let revoked = server.token("gone");
    server.allow("gone", "get", "/metrics");
    let accounts = format!("/api/v1/namespaces/{}/serviceaccounts", server.namespace());
    server.process.admin.delete(&format!("{accounts}/gone"));
    let good = server.token("prometheus");
    server.allow("prometheus", "get", "/metrics");
    let request = json!({"spec": {"audiences": ["https://another.test"], "expirationSeconds": 3600}});
    let issued = server
        .process
        .admin
        .create(&format!("{accounts}/prometheus/token"), &request);
    let foreign = issued["status"]["token"].as_str().unwrap();
    let epp = Epp::in_cluster(&server, &["--pool-name=pool"], &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    assert_eq!(bearer(&epp, &revoked).await, 401);
    assert_eq!(bearer(&epp, foreign).await, 401);
    assert_eq!(bearer(&epp, &good).await, 200);
    // One letter of the signature.
    let forged = format!("{}{}", &good[..good.len() - 8], "AAAAAAAA");
    assert_eq!(bearer(&epp, &forged).await, 401);
}

/// Ids of the tokens with which the service account has asked.
fn used(server: &ApiServer) -> BTreeSet<String> {
    let pointer = "/user/extra/authentication.kubernetes.io~1credential-id/0";
    let id = |e: &Value| e.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    server.audited().iter().filter_map(id).collect()
}

#[tokio::test]
async fn a_token_that_is_renewed_is_taken_before_the_old_one_ends() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    let epp = Epp::in_cluster(&server, POOL, &[]);
    endpoints_are(&epp, &["a-rank-0"]).await;
    assert_eq!(used(&server).len(), 1);
    server.show(&server.issue(server.rights.account()));
    // A token of a file is read anew after at most a minute, with the next request.
    let start = std::time::Instant::now();
    while used(&server).len() < 2 {
        assert!(start.elapsed().as_secs() < 120, "{:?}", used(&server));
        server.cut_watches();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    server.apply(PODS, pod("b", "127.0.0.2"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_token() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.trust(&Authority::new().certificate);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    logged(&epp, "certificate").await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
    assert_eq!(used(&server).len(), 0);
}

#[tokio::test]
async fn a_server_that_does_not_know_us_is_told_from_one_that_refuses() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.show("a-token-that-is-none");
    let epp = Epp::in_cluster(&server, POOL, &[]);
    logged(&epp, "The API server does not know us").await;
    assert!(!epp.log().contains("grant list and watch"), "{}", epp.log());
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::NotServing));
}
