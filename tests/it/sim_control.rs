//! What can be asked of a running simulator beside generating: its settings, changed ones, errors on purpose, whether it
//! has started, what its log says.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::sim::{Sim, ports_in_a_row};
use crate::support::wait::until;

/// Status and answer of a change.
async fn change(sim: &Sim, body: Value) -> (u16, Value) {
    sim.json("/admin/config", &body).await
}

async fn status_of_one(sim: &Sim) -> u16 {
    let body = json!({"model": "m", "prompt": "a b c", "max_tokens": 1});
    sim.answered("/v1/completions", &body).await.0
}

#[tokio::test]
async fn latencies_change_while_it_runs() {
    let sim = Sim::start(&["--model", "m"]).await;
    let shown = sim.get_json("/admin/config").await;
    assert_eq!(
        (&shown["model"], &shown["time-to-first-token"]),
        (&json!("m"), &json!("0s"))
    );
    let (status, shown) = change(&sim, json!({"time-to-first-token": "300ms"})).await;
    assert_eq!((status, &shown["time-to-first-token"]), (200, &json!("300ms")));
    assert_eq!(sim.get_json("/admin/config").await, shown);
    let begun = Instant::now();
    assert_eq!(status_of_one(&sim).await, 200);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    // Changes add up; the calculator takes the one that fits.
    let fields = json!({"latency-calculator": "per-token", "prefill-time-per-token": "100ms", "prefill-overhead": null});
    let (_, shown) = change(&sim, fields).await;
    assert_eq!(
        (&shown["time-to-first-token"], &shown["prefill-overhead"]),
        (&json!("300ms"), &json!("0s"))
    );
    let begun = Instant::now();
    assert_eq!(status_of_one(&sim).await, 200);
    assert!(begun.elapsed() >= Duration::from_millis(300), "three tokens");
}

#[tokio::test]
async fn failures_change_while_it_runs() {
    let sim = Sim::start(&["--model", "m"]).await;
    assert_eq!(status_of_one(&sim).await, 200);
    for (fields, status) in [
        (
            json!({"failure-injection-rate": 100, "failure-types": ["rate_limit"]}),
            429,
        ),
        (json!({"failure-types": ["server_error"]}), 503),
        (json!({"failure-injection-rate": 0}), 200),
    ] {
        assert_eq!(change(&sim, fields.clone()).await.0, 200);
        assert_eq!(status_of_one(&sim).await, status, "{fields}");
    }
    assert_eq!(
        sim.get_json("/admin/config").await["failure-types"],
        json!(["server_error"])
    );
}

#[tokio::test]
async fn a_wrong_change_is_refused_and_changes_nothing() {
    let args = [
        "--model",
        "m",
        "--latency-model",
        "batch-step",
        "--fake-metrics",
        r#"{"running-requests":1}"#,
    ];
    let sim = Sim::start(&args).await;
    let before = sim.get_json("/admin/config").await;
    for (fields, text) in [
        (json!({"port": 1}), "field 'port' is not admin-configurable"),
        (
            json!({"image-emission-rate": 1}),
            "field 'image-emission-rate' is not admin-configurable",
        ),
        (
            json!({"inter-token-latency": 5}),
            "field 'inter-token-latency' must be a string",
        ),
        (
            json!({"inter-token-latency": "soon"}),
            "invalid duration format: soon",
        ),
        (
            json!({"inter-token-latency": "-1s"}),
            "inter token latency cannot be negative",
        ),
        (
            json!({"inter-token-latency": "1s", "inter-token-latency-std-dev": "400ms"}),
            "inter token latency standard deviation cannot be more than 30% of inter token latency",
        ),
        (
            json!({"time-to-first-token": "1s"}),
            "batch-step has no constant time to first token",
        ),
        (
            json!({"time-factor-under-load": 0.5}),
            "time factor under load cannot be less than 1.0",
        ),
        (
            json!({"latency-calculator": "bogus"}),
            "unknown latency-calculator bogus",
        ),
        (
            json!({"failure-injection-rate": 101}),
            "failure injection rate should be between 0 and 100",
        ),
        (
            json!({"failure-types": ["bogus"]}),
            "invalid failure type 'bogus'",
        ),
        (
            json!({"failure-types": "rate_limit"}),
            "field 'failure-types' must be an array of strings",
        ),
        (
            json!({"fake-metrics": 3}),
            "field 'fake-metrics' must be an object",
        ),
        (
            json!({"fake-metrics": {"kv-cache-usage": 2}}),
            "fake metrics KV cache usage must be between 0 and 1",
        ),
        // One wrong field spoils the others.
        (
            json!({"inter-token-latency": "1s", "seed": 1}),
            "field 'seed' is not admin-configurable",
        ),
        (
            json!([1]),
            "failed to unmarshal payload: it must be a JSON object",
        ),
    ] {
        let (status, answer) = change(&sim, fields.clone()).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(text), "{fields}: {answer}");
    }
    let large = sim.post("/admin/config", &json!({"failure-types": ["x".repeat(2 << 20)]}));
    assert_eq!(large.send().await.unwrap().status(), 413);
    assert_eq!(sim.get_json("/admin/config").await, before);
}

#[tokio::test]
async fn made_up_metrics_change_one_by_one() {
    let fake = r#"{"running-requests":1,"waiting-requests":2,"ttft-buckets-values":[1,2],"request-success-total":{"stop":3}}"#;
    let sim = Sim::start(&["--model", "m", "--fake-metrics", fake]).await;
    let running = |n| format!("vllm:num_requests_running{{model_name=\"m\"}} {n}");
    let waiting = "vllm:num_requests_waiting{model_name=\"m\"} 2";
    let ttft = "vllm:time_to_first_token_seconds_count{model_name=\"m\"} 3";
    sim.until_all(&[&running(1), waiting, ttft]).await;
    let fields =
        json!({"running-requests": 7, "waiting-requests": null, "kv-cache-usage": "ramp:0.5:0.5:1s"});
    let (status, shown) = change(&sim, json!({"fake-metrics": fields})).await;
    assert_eq!(
        (status, &shown["fake-metrics"]["running-requests"]),
        (200, &json!(7))
    );
    let usage = "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.5";
    sim.until_all(&[&running(7), waiting, ttft, usage]).await;
    // The older endpoint does the same; an empty list or object clears.
    let fields = json!({"ttft-buckets-values": [], "request-success-total": {}, "running-requests": 8});
    assert_eq!(sim.answered("/fake_metrics", &fields).await, (204, String::new()));
    sim.until_all(&[&running(8), waiting, usage]).await;
    let page = sim.page().await;
    assert!(!page.contains("time_to_first_token_seconds_count"), "{page}");
    assert!(!page.contains("vllm:request_success_total{"), "{page}");
    let (status, answer) = sim.json("/fake_metrics", &json!({"running-requests": -1})).await;
    let message = "Failed to update fake metrics: fake metrics request counters cannot be negative";
    assert_eq!((status, &answer["error"]["message"]), (500, &json!(message)));
}

#[tokio::test]
async fn real_metrics_stay_real() {
    let sim = Sim::start(&["--model", "m"]).await;
    let text = "the simulator is reporting real metrics; fake metrics cannot be updated";
    let (status, answer) = change(&sim, json!({"fake-metrics": {"running-requests": 1}})).await;
    assert_eq!((status, &answer["error"]["message"]), (400, &json!(text)));
    let (status, answer) = sim.json("/fake_metrics", &json!({"running-requests": 1})).await;
    let message = format!("Failed to update fake metrics: {text}");
    assert_eq!((status, &answer["error"]["message"]), (500, &json!(message)));
}

#[tokio::test]
async fn every_rank_changes_for_itself_and_knows_the_engines_of_all() {
    let args = ["--model", "m", "--data-parallel-size", "2", "--seed", "7"];
    let mut sim = Sim::launch_on(ports_in_a_row(2), &args, &[]).serving().await;
    assert_eq!(change(&sim, json!({"failure-injection-rate": 100})).await.0, 200);
    let engines = sim.get_json("/query").await;
    let ids: Vec<&str> = ["0", "1"]
        .iter()
        .map(|r| engines[r]["engine_id"].as_str().unwrap())
        .collect();
    assert!(
        ids[0] != ids[1] && ids.iter().all(|id| id.len() == 36),
        "{engines}"
    );
    assert_eq!(engines.as_object().unwrap().len(), 2);
    sim.address.set_port(sim.address.port() + 1);
    let shown = sim.get_json("/admin/config").await;
    assert_eq!(
        (&shown["failure-injection-rate"], shown.get("port")),
        (&json!(0), None)
    );
    assert_eq!(sim.get_json("/query").await, engines, "the same for all");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_said_before_any_failure() {
    let args = [
        "--model",
        "m",
        "--failure-injection-rate",
        "100",
        "--failure-types",
        "rate_limit",
    ];
    let sim = Sim::start(&args).await;
    let paths = [
        "/v1/completions",
        "/v1/chat/completions",
        "/inference/v1/generate",
        "/v1/responses",
        "/v1/messages",
    ];
    for path in paths {
        let answered = async |body: &'static str, header: &str| {
            let request = sim
                .client
                .post(format!("http://{}{path}", sim.address))
                .body(body);
            request
                .header("x-return-error", header)
                .send()
                .await
                .unwrap()
                .status()
                .as_u16()
        };
        for body in ["{\"model\":\"m\",", "", "[]", "{\"model\":1}"] {
            assert_eq!(answered(body, "").await, 400, "{path} {body}");
            assert_eq!(answered(body, "503").await, 400, "{path} {body}");
        }
        assert_eq!(answered("{}", "").await, 429, "{path}");
        assert_eq!(answered("{}", "503").await, 503, "{path}");
    }
}

#[tokio::test]
async fn a_header_asks_for_an_error() {
    let sim = Sim::start(&["--model", "m", "--failure-injection-rate", "100"]).await;
    let body = json!({"model": "m", "prompt": "x"});
    let paths = [
        "/v1/completions",
        "/v1/chat/completions",
        "/inference/v1/generate",
        "/v1/responses",
        "/v1/messages",
    ];
    for (value, status, text) in [
        (
            "429",
            429,
            "Simulated error triggered by X-Return-Error header (code 429)",
        ),
        (
            "503",
            503,
            "Simulated error triggered by X-Return-Error header (code 503)",
        ),
        (
            "abc",
            400,
            "Invalid X-Return-Error header value \"abc\": must be an integer",
        ),
        (
            "200",
            400,
            "Invalid X-Return-Error header value \"200\": must be a status from 400 to 599",
        ),
    ] {
        for path in paths {
            let response = sim
                .post(path, &body)
                .header("X-Return-Error", value)
                .send()
                .await
                .unwrap();
            assert_eq!(response.status(), status, "{path}");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["error"]["message"], text, "{path}");
        }
    }
    sim.until("vllm:num_requests_running{model_name=\"m\"} 0").await;
}

#[tokio::test]
async fn it_is_not_ready_while_it_starts() {
    let status = async |sim: &Sim, path: &str| {
        let url = format!("http://{}{path}", sim.address);
        sim.client.get(url).send().await.unwrap().status().as_u16()
    };
    let sim = Sim::start(&["--model", "m", "--startup-duration", "1h"]).await;
    for (path, expected) in [("/health", 200), ("/ready", 503), ("/health/ready", 503)] {
        assert_eq!(status(&sim, path).await, expected, "{path}");
    }
    assert_eq!(
        status_of_one(&sim).await,
        200,
        "requests are answered all the same"
    );
    let sim = Sim::start(&["--model", "m", "--startup-duration", "100ms"]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while status(&sim, "/ready").await != 200 {
        assert!(Instant::now() < deadline, "it does not become ready");
    }
    assert_eq!(status(&sim, "/health/ready").await, 200);
}

#[tokio::test]
async fn the_log_has_the_settings_and_what_goes_over_http_without_secrets() {
    let args = [
        "--model",
        "m",
        "--mode",
        "echo",
        "--log-http",
        "--time-to-first-token",
        "5ms",
    ];
    let sim = Sim::start(&args).await;
    let body = json!({"model": "m", "prompt": "asked"});
    let whole = sim
        .post("/v1/completions", &body)
        .bearer_auth("s3cret")
        .send()
        .await
        .unwrap();
    assert!(whole.text().await.unwrap().contains("asked"));
    let streamed = json!({"model": "m", "prompt": "streamed", "stream": true});
    sim.events("/v1/completions", &streamed).await;
    let lines = [
        r#""time-to-first-token":"5ms""#,
        r#""method":"POST","requestURI":"/v1/completions""#,
        r#"authorization: ***\n"#,
        r#""body":"{\"model\":\"m\",\"prompt\":\"asked\"}""#,
        r#"\"text\":\"asked\""#,
        r#""body":"<streamed response body not logged>""#,
    ];
    until("lines of the log", || {
        let log = sim.log();
        lines.iter().all(|line| log.contains(line))
    })
    .await;
    let log = sim.log();
    assert!(log.contains("\tConfiguration:\t"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
    assert!(!log.contains(r#"\"text\":\"streamed\""#), "{log}");
    let quiet = Sim::start(&["--model", "m"]).await;
    assert_eq!(status_of_one(&quiet).await, 200);
    assert!(!quiet.log().contains("HTTP request"));
}
