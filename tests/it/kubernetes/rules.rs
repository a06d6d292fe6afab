//! Objectives and model rewrites of the cluster at work on requests.

use serde_json::{Value, json};

use super::{ask, with_pool};
use crate::ApiServer;
use crate::support::apiserver::{OBJECTIVES, PODS, pod};
use crate::support::epp::Epp;
use crate::support::ext_proc::Answer;
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

pub fn objective(name: &str, pool: &str, priority: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"poolRef": {"name": pool}, "priority": priority}})
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
pub async fn sent_as(epp: &Epp, model: &str) -> String {
    let (_, body) = ask(epp, model, &[]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    body["model"].as_str().unwrap().to_owned()
}

pub async fn sent_as_becomes(epp: &Epp, model: &str, expected: &str) {
    for _ in 0..2000 {
        if sent_as(epp, model).await == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{model} is not sent as {expected}\n{}", epp.log());
}
