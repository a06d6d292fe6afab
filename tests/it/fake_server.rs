//! Objects and faults that only a fake API server has: those a real one would refuse, ages and failures on demand.

use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::access::{TOKENS, get};
use crate::kubernetes::rules::{sent_as, sent_as_becomes};
use crate::kubernetes::{endpoints_are, health_is, logged, with_pool};
use crate::support::apiserver::{ApiServer, PODS, POOLS, REWRITES, pod, pool, unready_pod};
use crate::support::epp::Epp;

#[tokio::test]
async fn a_review_that_fails_once_is_asked_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let token = server.token("prometheus");
    server.allow("prometheus", "get", "/metrics");
    let epp = Epp::in_cluster(&server, &["--pool-name=pool"], &[]);
    health_is(&epp, "readiness", ServingStatus::Serving).await;
    server.fail(TOKENS, 500, 1);
    assert_eq!(get(&epp, Some(&format!("Bearer {token}"))).await, 200);
}

#[tokio::test]
async fn a_list_that_fails_once_is_asked_again() {
    let (server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0"]).await;
    for compacted in [false, true] {
        server.fail("pods", 500, 1);
        server.cut_watches();
        server.apply_all(PODS, [unready_pod("a", "127.0.0.1"), pod("b", "127.0.0.2")]);
        if compacted {
            server.compact();
        }
        endpoints_are(&epp, &["b-rank-0"]).await;
        server.apply_all(PODS, [pod("a", "127.0.0.1"), unready_pod("b", "127.0.0.2")]);
        endpoints_are(&epp, &["a-rank-0"]).await;
    }
}

#[tokio::test]
async fn malformed_objects_are_said_once_and_cost_only_themselves() {
    let (server, epp) = with_pool(&[8000]);
    let mut no_status = pod("no-status", "x");
    no_status.as_object_mut().unwrap().remove("status");
    let mut no_address = pod("no-address", "");
    no_address["status"].as_object_mut().unwrap().remove("podIP");
    let mut unknown = pod("good", "127.0.0.1");
    unknown["status"]["news"] = json!({"of": ["a", "later", "version"]});
    server.apply_all(
        PODS,
        [no_status, no_address, pod("bad-address", "10.0.0"), unknown],
    );
    endpoints_are(&epp, &["good-rank-0"]).await;
    for (ports, expected, words) in [
        (
            json!([{"number": 70000}, {"number": 8000}]),
            &["good-rank-0"][..],
            "1 to 65535, not 70000",
        ),
        (json!([]), &[], "no usable port"),
        (json!("8000"), &[], "must be a list"),
        (
            json!([1, 2, 3, 4, 5, 6, 7, 8, 9].map(|n| json!({"number": n}))),
            &[
                "good-rank-0",
                "good-rank-1",
                "good-rank-2",
                "good-rank-3",
                "good-rank-4",
                "good-rank-5",
                "good-rank-6",
                "good-rank-7",
            ],
            "at most 8 ports",
        ),
    ] {
        let mut pool = pool(&[]);
        pool["spec"]["targetPorts"] = ports;
        server.apply(POOLS, pool.clone());
        endpoints_are(&epp, expected).await;
        assert_eq!(logged(&epp, words).await, 1, "{words}");
        // Written again, unchanged: no more is said.
        server.apply(POOLS, pool);
    }
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("bad-address", "10.0.0"));
    endpoints_are(&epp, &["good-rank-0"]).await;
    let log = epp.log();
    assert_eq!(
        log.matches("pod no-address: it is ready but has no status.podIP")
            .count(),
        1,
        "{log}"
    );
    assert_eq!(log.matches("pod bad-address: status.podIP").count(), 1, "{log}");
    assert!(!log.contains("no-status"), "{log}");
    // A selector that is none: what was known stays.
    let mut nonsense = pool(&[8000]);
    nonsense["spec"]["selector"] = json!(7);
    server.apply(POOLS, nonsense);
    logged(&epp, "cannot be used as it is").await;
    endpoints_are(&epp, &["good-rank-0"]).await;
}

fn rewrite(name: &str, born: &str, pool: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name, "creationTimestamp": born},
           "spec": {"poolRef": {"name": pool}, "rules": rules}})
}

#[tokio::test]
async fn rewrites_apply_exact_first_then_generic_and_the_oldest_wins() {
    let (api, epp) = with_pool(&[8000]);
    api.apply(PODS, pod("p", "127.0.0.1"));
    endpoints_are(&epp, &["p-rank-0"]).await;
    assert_eq!(sent_as(&epp, "m").await, "m");
    let exact = |model: &str, to: &str| json!([{"matches": [{"model": {"type": "Exact", "value": model}}], "targets": [{"modelRewrite": to}]}]);
    let generic = json!([{"targets": [{"modelRewrite": "generic"}]}]);
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    api.apply_all(
        REWRITES,
        [
            rewrite("c-generic", old, "pool", generic),
            rewrite("b-young", new, "pool", exact("m", "young")),
            rewrite("foreign", old, "another", exact("m", "foreign")),
        ],
    );
    sent_as_becomes(&epp, "m", "young").await;
    assert_eq!(sent_as(&epp, "other").await, "generic");
    api.apply(REWRITES, rewrite("z-old", old, "pool", exact("m", "old")));
    sent_as_becomes(&epp, "m", "old").await;
    // Of the same age, the name settles it, whatever came first.
    api.apply(REWRITES, rewrite("y-old", old, "pool", exact("m", "by-name")));
    sent_as_becomes(&epp, "m", "by-name").await;
    // Without targets it rewrites nothing, and says so.
    api.apply(
        REWRITES,
        rewrite(
            "y-old",
            old,
            "pool",
            json!([{"matches": [{"model": {"value": "m"}}]}]),
        ),
    );
    sent_as_becomes(&epp, "m", "old").await;
    assert_eq!(logged(&epp, "no usable target").await, 1);
    api.delete(REWRITES, "z-old");
    sent_as_becomes(&epp, "m", "young").await;
    let page = epp.page().await.unwrap();
    assert!(page.contains("model_rewrite_name=\"z-old\""), "{page}");
}
