//! Tokens that somebody makes up: few are reviewed, and those that are known stay known.

use std::time::Instant;

use futures::StreamExt;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::access::TOKENS;
use crate::kubernetes::{health_is, logged};
use crate::support::apiserver::{ApiServer, POOLS, pool};
use crate::support::epp::Epp;

#[tokio::test]
async fn made_up_tokens_are_reviewed_at_a_limited_rate_and_push_nobody_out() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let good = server.token("prometheus");
    server.allow("prometheus", "get", "/metrics");
    let epp = Epp::in_cluster(&server, &["--pool-name=pool"], &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/metrics", epp.metrics);
    let get = |token: String| {
        let request = client.get(&url).bearer_auth(token);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(get(good.clone()).await, 200);
    let start = Instant::now();
    let made_up = (0..1000).map(|i| get(format!("made-up-{i}")));
    let answers: Vec<u16> = futures::stream::iter(made_up)
        .buffer_unordered(16)
        .collect()
        .await;
    let most = 21 + 10 * (start.elapsed().as_secs() as usize + 1);
    assert!(
        server.requests("POST", TOKENS) <= most,
        "{} > {most}",
        server.requests("POST", TOKENS)
    );
    assert!(answers.iter().all(|a| [401, 503].contains(a)), "{answers:?}");
    assert!(answers.contains(&401) && (most > 1000 || answers.contains(&503)));
    assert_eq!(get(good.clone()).await, 200);
    logged(&epp, "Too many unknown tokens").await;
}
