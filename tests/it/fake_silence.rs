//! API servers that stop answering without closing anything, and what is said of them. Only the fake one does so on demand.

use std::sync::Arc;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::changes::Picks;
use crate::kubernetes::{POOL, endpoints_are, health_is, logged, with_pool};
use crate::support::apiserver::{ApiServer, PODS, POOLS, pod, pool};
use crate::support::epp::Epp;
use crate::support::wait::until;

/// Age of the API server's last word by the metrics page, seconds.
async fn age(epp: &Epp) -> f64 {
    let page = epp.page().await.unwrap_or_default();
    let line = page
        .lines()
        .find_map(|l| l.strip_prefix("inference_extension_api_server_last_answer_age_seconds "));
    line.unwrap_or_else(|| panic!("no age in\n{page}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn connections_that_go_silent_are_noticed_and_replaced_without_losing_a_pick() {
    let (server, epp) = with_pool(&[8000]);
    let epp = Arc::new(epp);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    let picks = Picks::start(&epp);
    server.silence();
    server.apply(PODS, pod("b", "127.0.0.2"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    assert!(picks.all_served().await > 0);
    logged(&epp, "has gone silent: watching again").await;
}

#[tokio::test]
async fn a_list_that_is_never_answered_is_asked_for_again_and_said() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    server.hang("pods", 1);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    endpoints_are(&epp, &["a-rank-0"]).await;
    logged(&epp, "did not answer within 10 s").await;
}

#[tokio::test]
async fn the_age_of_the_servers_last_word_is_shown_and_its_silence_said() {
    let (mut server, epp) = with_pool(&[8000]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    assert!(age(&epp).await < 10.0);
    server.stop();
    logged(
        &epp,
        "The API server does not answer: what is known of the pool stays in use",
    )
    .await;
    assert!(age(&epp).await >= 5.0);
    server.restart();
    logged(&epp, "The API server answers again").await;
    assert!(age(&epp).await < 5.0);
}

#[tokio::test]
async fn a_server_where_nothing_changes_is_no_silent_one() {
    let (server, epp) = with_pool(&[8000]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    // Watches have come to their end and were opened again.
    let watched = || server.requests("GET", "pods");
    until("watches of pods to be renewed", || watched() >= 4).await;
    let log = epp.log();
    for words in ["silent", "Cannot watch", "does not answer"] {
        assert!(!log.contains(words), "{words}: {log}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_us_is_told_from_one_that_refuses() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.refuse("GET", "pods", 401);
    let epp = Epp::in_cluster(&server, POOL, &[]);
    logged(&epp, "The API server does not know us").await;
    assert!(
        !epp.log().contains("grant list and watch on pods"),
        "{}",
        epp.log()
    );
}

#[tokio::test]
async fn the_api_server_sees_who_asks() {
    let (server, epp) = with_pool(&[8000]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    let expected = format!("endpoint-picker/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(server.agents().into_iter().collect::<Vec<_>>(), [expected]);
}
