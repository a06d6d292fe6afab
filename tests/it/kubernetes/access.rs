//! Who may read metrics: the cluster is asked, and asked again only when its answer is old.

use tonic_health::pb::health_check_response::ServingStatus;

use super::health_is;
use crate::ApiServer;
use crate::support::apiserver::{POOLS, pool};
use crate::support::epp::Epp;

pub const TOKENS: &str = "tokenreviews.authentication.k8s.io";
const ACCESS: &str = "subjectaccessreviews.authorization.k8s.io";

pub async fn get(epp: &Epp, authorization: Option<&str>) -> u16 {
    let mut request = reqwest::Client::new().get(format!("http://{}/metrics", epp.metrics));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_bearer_token_is_reviewed_and_the_answer_kept() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let (good, nosy) = (server.token("prometheus"), server.token("intern"));
    server.allow("prometheus", "get", "/metrics");
    let epp = Epp::in_cluster(&server, &["--pool-name=pool"], &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    for (authorization, expected) in [
        (None, 401),
        (Some("Basic dXNlcjpwYXNz".to_owned()), 401),
        (Some("Bearer".to_owned()), 401),
        (Some("Bearer unknown".to_owned()), 401),
        (Some(format!("Bearer {nosy}")), 403),
        (Some(format!("Bearer {good}")), 200),
        (Some(format!("bearer {good}")), 200),
        (Some(format!("Bearer {good}")), 200),
        (Some(format!("Bearer {nosy}")), 403),
        (Some("Bearer unknown".to_owned()), 401),
    ] {
        assert_eq!(
            get(&epp, authorization.as_deref()).await,
            expected,
            "{authorization:?}"
        );
    }
    // One question for each of the three tokens and each of the two known owners.
    assert_eq!(
        (server.requests("POST", TOKENS), server.requests("POST", ACCESS)),
        (3, 2)
    );
}

#[tokio::test]
async fn a_cluster_that_refuses_reviews_is_503_and_said() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let good = format!("Bearer {}", server.token("prometheus"));
    server.forbid(TOKENS, true);
    let epp = Epp::in_cluster(&server, &["--pool-name=pool"], &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    assert_eq!(get(&epp, Some(&good)).await, 503);
    super::logged(&epp, "create on tokenreviews (cluster-wide) is needed").await;
    server.forbid(TOKENS, false);
    server.forbid(ACCESS, true);
    assert_eq!(get(&epp, Some(&good)).await, 503);
    server.forbid(ACCESS, false);
    server.allow("prometheus", "get", "/metrics");
    assert_eq!(get(&epp, Some(&good)).await, 200);
}
