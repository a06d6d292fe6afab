//! Objectives and model rewrites of the cluster at work on requests.

use serde_json::{Value, json};

use super::{ask, endpoints_are, with_pool};
use crate::support::apiserver::{ApiServer, OBJECTIVES, PODS, REWRITES, pod};
use crate::support::epp::Epp;
use crate::support::ext_proc::Answer;
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

pub fn objective(name: &str, pool: &str, priority: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"poolRef": {"name": pool}, "priority": priority}})
}

fn rewrite(name: &str, born: &str, pool: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name, "creationTimestamp": born},
           "spec": {"poolRef": {"name": pool}, "rules": rules}})
}

async fn status(epp: &Epp, objective: &str) -> i32 {
    match ask(epp, "m", &[("x-gateway-inference-objective", objective)])
        .await
        .0
    {
        Answer::RequestHeaders(..) => 200,
        Answer::Immediate(status, ..) => status,
        other => panic!("{other:?}"),
    }
}

async fn status_becomes(epp: &Epp, objective: &str, expected: i32) {
    for _ in 0..2000 {
        if status(epp, objective).await == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{objective} is not answered with {expected}\n{}", epp.log());
}

/// A pool of one pod with a long queue: saturated.
async fn saturated() -> (ApiServer, Epp) {
    let port = ports::free();
    let state = State {
        queue: 100,
        ..State::default()
    };
    let server = ModelServer::start(1, port, state).await;
    let (api, mut epp) = with_pool(&[server.address.port()]);
    api.apply(PODS, pod("p", "127.0.0.1"));
    epp.eventually("inference_pool_average_queue_size{name=\"pool\"} 100")
        .await;
    (api, epp)
}

#[tokio::test]
async fn requests_of_a_negative_objective_are_shed_when_the_pool_is_full() {
    let (api, epp) = saturated().await;
    assert_eq!(status(&epp, "batch").await, 200);
    api.apply_all(
        OBJECTIVES,
        [
            objective("batch", "pool", -1),
            objective("chat", "pool", 1),
            objective("foreign", "another", -1),
        ],
    );
    status_becomes(&epp, "batch", 429).await;
    for objective in ["chat", "foreign", "unknown"] {
        assert_eq!(status(&epp, objective).await, 200, "{objective}");
    }
    // The priority changes, the objective moves to another pool, it goes.
    api.apply(OBJECTIVES, objective("batch", "pool", 0));
    status_becomes(&epp, "batch", 200).await;
    api.apply(OBJECTIVES, objective("batch", "pool", -1));
    status_becomes(&epp, "batch", 429).await;
    api.apply(OBJECTIVES, objective("batch", "another", -1));
    status_becomes(&epp, "batch", 200).await;
    api.apply(OBJECTIVES, objective("chat", "pool", -5));
    status_becomes(&epp, "chat", 429).await;
    api.delete(OBJECTIVES, "chat");
    status_becomes(&epp, "chat", 200).await;
}

/// The model a request for `model` is sent as.
async fn sent_as(epp: &Epp, model: &str) -> String {
    let (_, body) = ask(epp, model, &[]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    body["model"].as_str().unwrap().to_owned()
}

async fn sent_as_becomes(epp: &Epp, model: &str, expected: &str) {
    for _ in 0..2000 {
        if sent_as(epp, model).await == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{model} is not sent as {expected}\n{}", epp.log());
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
    assert_eq!(super::logged(&epp, "no usable target").await, 1);
    api.delete(REWRITES, "z-old");
    sent_as_becomes(&epp, "m", "young").await;
    let page = epp.page().await.unwrap();
    assert!(page.contains("model_rewrite_name=\"z-old\""), "{page}");
}
