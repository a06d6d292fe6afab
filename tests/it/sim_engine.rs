//! The simulator's machinery over real sockets: readers that do not read, failures, made-up metrics, counters.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::sim::Sim;

const IDLE: [&str; 3] = [
    "vllm:num_requests_running{model_name=\"m\"} 0",
    "vllm:num_requests_waiting{model_name=\"m\"} 0",
    "vllm:kv_cache_usage_perc{model_name=\"m\"} 0",
];

async fn start(args: &[&str]) -> Sim {
    let all: Vec<&str> = ["--model", "m"].iter().chain(args).copied().collect();
    Sim::start_with(&all, &[("POD_IP", "127.0.0.1")]).await
}

fn ask(max_tokens: usize) -> Value {
    json!({"model": "m", "prompt": "hello there", "max_tokens": max_tokens, "ignore_eos": true})
}

#[tokio::test]
async fn a_client_that_stops_reading_keeps_no_slot_and_no_blocks() {
    let sim = start(&[
        "--max-num-seqs",
        "1",
        "--max-model-len",
        "200000",
        "--enable-kvcache",
        "--kv-cache-size",
        "100000",
    ])
    .await;
    let mut body = ask(100_000);
    body["stream"] = json!(true);
    let body = body.to_string();
    let mut stuck = TcpStream::connect(sim.address).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stuck.write_all(head.as_bytes()).unwrap();
    let mut begun = [0; 15];
    stuck.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    // Megabytes are due and not taken; the next request has the only slot all the same.
    assert_eq!(sim.answered("/v1/completions", &ask(5)).await.0, 200);
    sim.until_all(&IDLE).await;
    sim.until_all(&["vllm:request_success_total{finish_reason=\"length\",model_name=\"m\"} 2"])
        .await;
    drop(stuck);
}

#[tokio::test]
async fn counters_and_histograms_have_what_was_asked_for() {
    let sim = start(&["--mode", "echo", "--block-size", "8", "--kv-cache-size", "16"]).await;
    let body = json!({"model": "m", "prompt": "hello ".repeat(25), "max_tokens": 25});
    assert_eq!(sim.answered("/v1/completions", &body).await.0, 200);
    sim.until_all(&[
        "vllm:request_prompt_tokens_bucket{le=\"20\",model_name=\"m\"} 0",
        "vllm:request_prompt_tokens_bucket{le=\"50\",model_name=\"m\"} 1",
        "vllm:request_params_max_tokens_bucket{le=\"20\",model_name=\"m\"} 0",
        "vllm:request_params_max_tokens_bucket{le=\"50\",model_name=\"m\"} 1",
        "vllm:prompt_tokens_total{model_name=\"m\"} 25",
        "vllm:request_generation_tokens_count{model_name=\"m\"} 1",
        "vllm:inter_token_latency_seconds_count{model_name=\"m\"} 24",
        "vllm:request_success_total{finish_reason=\"length\",model_name=\"m\"} 1",
        "vllm:cache_config_info{block_size=\"8\",num_gpu_blocks=\"16\"} 1",
    ])
    .await;
}

#[tokio::test]
async fn a_prometheus_parser_reads_the_page() {
    let sim = start(&["--time-to-first-token", "1ms"]).await;
    for _ in 0..3 {
        assert_eq!(sim.answered("/v1/completions", &ask(5)).await.0, 200);
    }
    let page = sim.page().await;
    // The parser knows no colons in names, which Prometheus allows.
    let lines = page.lines().map(|l| Ok(l.replace("vllm:", "vllm_")));
    let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
    let value = |name: &str| {
        let sample = scrape.samples.iter().find(|s| s.metric == name);
        sample.map(|s| s.value.clone())
    };
    assert!(matches!(
        value("vllm_generation_tokens_total"),
        Some(prometheus_parse::Value::Counter(n)) if n == 15.0
    ));
    let Some(prometheus_parse::Value::Histogram(ttft)) = value("vllm_time_to_first_token_seconds") else {
        panic!("no histogram in\n{page}");
    };
    assert_eq!(ttft.len(), 23);
    assert_eq!(ttft.last().map(|b| b.count), Some(3.0));
}

#[tokio::test]
async fn failures_come_as_told_and_leave_no_trace() {
    let sim = start(&["--failure-injection-rate", "100", "--failure-types", "rate_limit"]).await;
    let (status, text) = sim.answered("/v1/completions", &ask(5)).await;
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &error["error"]["type"]), (429, &json!("RateLimitError")));
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("Rate limit reached for m in")
    );
    let page = sim.page().await;
    assert!(!page.contains("request_success_total"), "{page}");
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn every_kind_of_failure_has_its_shape() {
    let sim = start(&[]).await;
    assert_eq!(
        sim.answered("/v1/completions", &ask(1)).await.0,
        200,
        "none by default"
    );
    let rows = [
        (
            "rate_limit",
            429,
            "RateLimitError",
            Value::Null,
            "Rate limit reached for m",
        ),
        (
            "invalid_api_key",
            401,
            "AuthenticationError",
            Value::Null,
            "Incorrect API key provided.",
        ),
        (
            "context_length",
            400,
            "BadRequestError",
            json!("messages"),
            "This model's maximum context length is 4096 tokens.",
        ),
        (
            "server_error",
            503,
            "InternalServerError",
            Value::Null,
            "The server is overloaded or not ready yet.",
        ),
        (
            "invalid_request",
            400,
            "BadRequestError",
            json!("model"),
            "Invalid request: missing required parameter 'model'.",
        ),
        (
            "model_not_found",
            404,
            "NotFoundError",
            json!("model"),
            "The model 'm-nonexistent' does not exist",
        ),
    ];
    let mut statuses = Vec::new();
    for (kind, status, name, param, message) in rows {
        statuses.push(status);
        let change = json!({"failure-injection-rate": 100, "failure-types": [kind]});
        assert_eq!(sim.answered("/admin/config", &change).await.0, 200);
        let (got, answer) = sim.json("/v1/completions", &ask(1)).await;
        let error = &answer["error"];
        assert_eq!(
            (got, &error["type"], &error["param"], &error["code"]),
            (status, &json!(name), &param, &json!(status)),
            "{kind}"
        );
        assert!(
            error["message"].as_str().unwrap().starts_with(message),
            "{answer}"
        );
    }
    let all = json!({"failure-types": []});
    assert_eq!(sim.answered("/admin/config", &all).await.0, 200);
    let (status, _) = sim.json("/v1/completions", &ask(1)).await;
    assert!(statuses.contains(&status), "any of them: {status}");
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn prompts_that_begin_alike_share_a_block() {
    let sim = start(&[
        "--enable-kvcache",
        "--block-size",
        "8",
        "--kv-cache-size",
        "16",
        "--time-to-first-token",
        "1h",
        "--max-num-seqs",
        "3",
    ])
    .await;
    let haifa = "What is the weather like in Haifa today?";
    let prompts = [
        format!("{haifa} Is it cold?"),
        haifa.to_owned(),
        "What is the weather like in New York today?".to_owned(),
    ];
    let bodies = prompts.map(|prompt| json!({"model": "m", "prompt": prompt}));
    let asked = futures::future::join_all(bodies.iter().map(|b| sim.answered("/v1/completions", b)));
    let lines = [
        "vllm:num_requests_running{model_name=\"m\"} 3",
        "vllm:num_requests_waiting{model_name=\"m\"} 0",
        "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.125",
    ];
    tokio::select! {
        _ = asked => panic!("answered within an hour"),
        () = sim.until_all(&lines) => {}
    }
    // The clients have left.
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn made_up_metrics_stand_in_for_the_real_ones() {
    let json = r#"{"running-requests":10,"waiting-requests":30,"kv-cache-usage":0.4,"request-success-total":{"stop":20},
        "request-prompt-tokens":[10,20,30],"ttft-buckets-values":[1,2,3],
        "loras":[{"running":"l1,l2","waiting":"l3","timestamp":1257894567},{"running":"","waiting":"","timestamp":1257894569}]}"#;
    let sim = start(&["--fake-metrics", json, "--max-loras", "2"]).await;
    assert_eq!(sim.answered("/v1/completions", &ask(5)).await.0, 200);
    sim.until_all(&[
        "vllm:num_requests_running{model_name=\"m\"} 10",
        "vllm:num_requests_waiting{model_name=\"m\"} 30",
        "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.4",
        "vllm:request_success_total{finish_reason=\"stop\",model_name=\"m\"} 20",
        "vllm:request_success_total{finish_reason=\"length\",model_name=\"m\"} 0",
        "vllm:request_prompt_tokens_bucket{le=\"1\",model_name=\"m\"} 10",
        "vllm:request_prompt_tokens_bucket{le=\"2\",model_name=\"m\"} 30",
        "vllm:request_prompt_tokens_bucket{le=\"5\",model_name=\"m\"} 60",
        "vllm:prompt_tokens_total{model_name=\"m\"} 140",
        "vllm:time_to_first_token_seconds_bucket{le=\"0.005\",model_name=\"m\"} 3",
        "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"l1,l2\",waiting_lora_adapters=\"l3\"} 1.257894567e+09",
        "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} 1.257894569e+09",
    ])
    .await;
}

#[tokio::test]
async fn requests_wait_for_blocks_and_gauges_end_at_zero_after_any_mix() {
    let sim = start(&[
        "--max-num-seqs",
        "3",
        "--max-waiting-queue-length",
        "20",
        "--enable-kvcache",
        "--block-size",
        "8",
        "--kv-cache-size",
        "4",
        "--inter-token-latency",
        "1ms",
        "--time-to-first-token",
        "2ms",
    ])
    .await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..60 {
        let url = format!("http://{}/v1/completions", sim.address);
        let words: String = (0..12).map(|w| format!("w{i}x{w} ")).collect();
        let tokens = if i % 7 == 0 { 0 } else { 12 };
        let body = json!({"model": "m", "prompt": words, "max_tokens": tokens, "stream": i % 2 == 0});
        let request = sim.client.post(url).body(body.to_string());
        tasks.spawn(async move {
            if i % 5 == 0 {
                let sent = tokio::time::timeout(Duration::from_millis(3), request.send()).await;
                return sent.map_or(0, |r| r.unwrap().status().as_u16());
            }
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            response.text().await.unwrap();
            status
        });
    }
    let mut served = 0;
    while let Some(status) = tasks.join_next().await {
        let status = status.unwrap();
        assert!(matches!(status, 0 | 200 | 400 | 429), "{status}");
        served += usize::from(status == 200);
    }
    assert!(served >= 20, "{served}");
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn batch_steps_serve_requests_and_refuse_a_constant_first_token() {
    let sim = start(&[
        "--latency-model",
        "batch-step",
        "--max-num-batched-tokens",
        "4",
        "--prefill-time-per-token",
        "1ms",
        "--inter-token-latency",
        "1ms",
    ])
    .await;
    let body = json!({"model": "m", "prompt": "a b c d e f g h i j", "max_tokens": 5, "ignore_eos": true});
    let answers = futures::future::join_all((0..5).map(|_| sim.answered("/v1/completions", &body))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200));
    sim.until_all(&IDLE).await;
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_inference-sim"))
        .args([
            "--model",
            "m",
            "--latency-model",
            "batch-step",
            "--time-to-first-token",
            "1s",
        ])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("batch-step has no constant time to first token")
    );
}
