//! What surrounds the answers of the simulator: who says they answer, ids, adapters, sleep, ranks (simulator.md §16.2).

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::epp::get;
use crate::support::sim::{Sim, chat, ports_in_a_row, text, with};

const TEST: &str = "This is a test.";

#[tokio::test]
async fn pods_name_themselves() {
    let env = [("POD_NAME", "pod-7"), ("POD_NAMESPACE", "ns")];
    for (env, named) in [(&env[..], true), (&[], false)] {
        let sim = Sim::start_with(&["--model", "m"], env).await;
        for stream in [false, true] {
            let body = with(chat(TEST), &json!({"stream": stream}));
            let response = sim.post("/v1/chat/completions", &body).send().await.unwrap();
            let header = |name: &str| {
                response
                    .headers()
                    .get(name)
                    .map(|v| v.to_str().unwrap().to_owned())
            };
            let expected = |value: &str| named.then(|| value.to_owned());
            assert_eq!(header("x-inference-pod"), expected("pod-7"));
            assert_eq!(
                header("x-inference-port"),
                expected(&sim.address.port().to_string())
            );
            assert_eq!(header("x-inference-namespace"), expected("ns"));
        }
    }
}

#[tokio::test]
async fn request_ids_are_the_clients_or_made_of_seed_port_and_number() {
    let sim = Sim::start(&["--model", "m", "--enable-request-id-headers", "--seed", "42"]).await;
    let ask = async |id: Option<&str>| {
        let mut request = sim.post("/v1/chat/completions", &chat(TEST));
        if let Some(id) = id {
            request = request.header("X-Request-Id", id);
        }
        let response = request.send().await.unwrap();
        let header = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        (header, answer["id"].as_str().unwrap().to_owned())
    };
    let (header, id) = ask(Some("body-test-999")).await;
    assert_eq!(
        (header.as_str(), id.as_str()),
        ("body-test-999", "chatcmpl-body-test-999")
    );
    // An empty one is none.
    for (number, given) in [(1, None), (2, Some(""))] {
        let (header, id) = ask(given).await;
        let name = format!("42-{}-{number}", sim.address.port());
        let made = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()).to_string();
        assert_eq!((header, id), (made.clone(), format!("chatcmpl-{made}")));
    }
    let plain = Sim::start(&["--model", "m"]).await;
    let response = plain
        .post("/v1/chat/completions", &chat(TEST))
        .header("X-Request-Id", "mine")
        .send()
        .await
        .unwrap();
    assert!(response.headers().get("x-request-id").is_none());
    assert!(!response.text().await.unwrap().contains("mine"));
}

#[tokio::test]
async fn adapters_come_and_go() {
    let sim = Sim::start(&[
        "--model",
        "m",
        "--served-model-name",
        "m",
        "n",
        "--lora-modules",
        "{\"name\":\"l1\"}",
    ])
    .await;
    let names = async || -> Vec<(String, Value)> {
        let models = sim.get_json("/v1/models").await;
        let entry = |m: &Value| (m["id"].as_str().unwrap().to_owned(), m["parent"].clone());
        models["data"].as_array().unwrap().iter().map(entry).collect()
    };
    let before = names().await;
    assert_eq!(
        before,
        [
            ("m".into(), Value::Null),
            ("n".into(), Value::Null),
            ("l1".into(), json!("m"))
        ]
    );
    let call = async |path: &str, body: Value| {
        let response = sim.post(path, &body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let load = json!({"lora_name": "l3", "lora_path": "/p"});
    assert_eq!(call("/v1/load_lora_adapter", load).await, (200, String::new()));
    assert_eq!(names().await.last().unwrap(), &("l3".to_owned(), json!("m")));
    let (status, answer) = sim
        .json("/v1/completions", &json!({"model": "l3", "prompt": "x"}))
        .await;
    assert_eq!((status, &answer["model"]), (200, &json!("l3")));
    for _ in 0..2 {
        let unload = json!({"lora_name": "l3"});
        assert_eq!(
            call("/v1/unload_lora_adapter", unload).await,
            (200, String::new())
        );
    }
    assert_eq!(names().await, before);
    let (status, _) = sim
        .json("/v1/completions", &json!({"model": "l3", "prompt": "x"}))
        .await;
    assert_eq!(status, 404);
    let (status, text) = call("/v1/load_lora_adapter", json!({})).await;
    assert!(
        status == 400 && text.starts_with("failed to read and parse load lora request body, "),
        "{text}"
    );
}

#[tokio::test]
async fn a_sleeper_answers_with_the_usual_latency() {
    let args = [
        "--model",
        "m",
        "--enable-sleep-mode",
        "--time-to-first-token",
        "150ms",
        "--enable-kvcache",
    ];
    let post = async |sim: &Sim, path: &str| {
        let response = sim.post(path, &Value::Null).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.text().await.unwrap()),
            (200, String::new())
        );
        sim.get_json("/is_sleeping").await["is_sleeping"]
            .as_bool()
            .unwrap()
    };
    let plain = Sim::start(&args).await;
    assert!(!post(&plain, "/sleep").await, "the variable is not set");
    let sim = Sim::start_with(&args, &[("POD_IP", "1.1.1.1"), ("VLLM_SERVER_DEV_MODE", "1")]).await;
    assert!(post(&sim, "/sleep").await);
    let asked = std::time::Instant::now();
    let (status, answer) = sim.json("/v1/completions", &text(TEST)).await;
    assert_eq!(status, 200);
    assert!(asked.elapsed() >= Duration::from_millis(150));
    assert!(
        answer["usage"].get("prompt_tokens_details").is_none(),
        "nothing is cached: {answer}"
    );
    assert!(!post(&sim, "/wake_up?tags=weights").await);
    assert!(post(&sim, "/sleep").await);
    assert!(!post(&sim, "/wake_up").await);
}

#[tokio::test]
async fn each_rank_has_a_port_of_its_own() {
    let args = ["--model", "m", "--data-parallel-size", "2", "--mode", "echo"];
    let sim = Sim::launch_on(ports_in_a_row(2), &args, &[]).serving().await;
    let mut second = sim.address;
    second.set_port(sim.address.port() + 1);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while get(second, "/health").await.is_none() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the second rank does not serve"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sim.json("/v1/completions", &text(TEST)).await;
    let counted = |page: &str| page.contains("vllm:prompt_tokens_total{model_name=\"m\"} 5");
    assert!(counted(&sim.page().await) && !counted(&get(second, "/metrics").await.unwrap()));
}
