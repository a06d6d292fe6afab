//! The simulator over real sockets: answers, events, errors, the queue, cancellation, the prefix cache, metrics.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::epp::{get, in_package};
use crate::support::sim::Sim;

fn chat(content: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 5})
}

const IDLE: [&str; 3] = [
    "vllm:num_requests_running{model_name=\"m\"} 0",
    "vllm:num_requests_waiting{model_name=\"m\"} 0",
    "vllm:kv_cache_usage_perc{model_name=\"m\"} 0",
];

#[tokio::test]
async fn answers_have_the_shapes_of_the_api() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let (status, text) = sim
        .json(
            "/v1/completions",
            &json!({"model": "m", "prompt": "Hello, world!"}),
        )
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        (&text["object"], &text["choices"][0]["text"]),
        (&json!("text_completion"), &json!("Hello, world!"))
    );
    assert_eq!(
        text["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8})
    );
    assert_eq!(text["choices"][0]["finish_reason"], "stop");
    let (_, answer) = sim.json("/v1/chat/completions", &chat("Hello there")).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": "Hello there"})
    );
    let models: Value = serde_json::from_str(&get(sim.address, "/v1/models").await.unwrap()).unwrap();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["parent"]),
        (&json!("m"), &Value::Null)
    );
}

#[tokio::test]
async fn events_are_framed_one_token_each_and_end_with_usage_and_done() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let mut body = chat("one two three");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = sim.post("/v1/chat/completions", &body).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let frames: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(frames.len(), 7, "{text}");
    assert_eq!(frames[6], "data: [DONE]");
    let events: Vec<Value> = frames[..6]
        .iter()
        .map(|f| serde_json::from_str(f.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert_eq!(events[1]["choices"][0]["delta"], json!({"content": "one "}));
    assert_eq!(events[3]["choices"][0]["delta"], json!({"content": "three"}));
    assert_eq!(events[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[5]["usage"]["total_tokens"], 6);
    assert!(
        events
            .iter()
            .all(|e| e["object"] == "chat.completion.chunk" && e["id"] == events[0]["id"])
    );
}

#[tokio::test]
async fn requests_are_refused_with_the_documented_errors() {
    let sim = Sim::start(&["--model", "m", "--max-model-len", "10"]).await;
    let rows = [
        (
            json!({"model": "x", "prompt": "a"}),
            404,
            "The model `x` does not exist.",
        ),
        (
            json!({"model": "m", "prompt": "a", "max_tokens": 0}),
            400,
            "Max completion tokens and max tokens should be positive",
        ),
        (
            json!({"model": "m", "prompt": "a", "max_tokens": -1}),
            400,
            "Max completion tokens and max tokens should be positive",
        ),
        (
            json!({"model": "m", "prompt": "a", "ignore_eos": true}),
            400,
            "Ignore_eos is true but max_completion_tokens (or max_tokens) is not set",
        ),
        (
            json!({"model": "m", "prompt": "a b c", "max_tokens": 8}),
            400,
            "This model's maximum context length is 10 tokens. However, you requested 11 tokens (3 in the messages, 8 in the completion). Please reduce the length of the messages or completion",
        ),
        (
            json!({"model": "m", "prompt": {"a": 1}}),
            400,
            "Failed to read and parse request body, ",
        ),
        (json!([1]), 400, "Failed to read and parse request body, "),
    ];
    for (body, code, text) in rows {
        let (status, error) = sim.json("/v1/completions", &body).await;
        assert_eq!(
            (status, error["error"]["code"].as_u64()),
            (code, Some(u64::from(code))),
            "{body}"
        );
        assert!(
            error["error"]["message"].as_str().unwrap().starts_with(text),
            "{body}: {error}"
        );
    }
    for line in &IDLE[..2] {
        sim.until(line).await;
    }
}

#[tokio::test]
async fn paths_and_methods_are_answered_as_by_the_reference() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let plain = "text/plain; charset=utf-8";
    // Method, path, status, body, content type, Allow, Location.
    let rows = [
        ("GET", "/nowhere", 404, "Not Found", plain, "", ""),
        ("POST", "/v1/completion", 404, "Not Found", plain, "", ""),
        ("OPTIONS", "/nowhere", 404, "Not Found", plain, "", ""),
        (
            "GET",
            "/v1/completions",
            405,
            "Method Not Allowed",
            plain,
            "POST, OPTIONS",
            "",
        ),
        (
            "PUT",
            "/admin/config",
            405,
            "Method Not Allowed",
            plain,
            "GET, POST, OPTIONS",
            "",
        ),
        (
            "OPTIONS",
            "/v1/chat/completions",
            200,
            "",
            "",
            "POST, OPTIONS",
            "",
        ),
        ("GET", "/v1/models/", 301, "", "", "", "/v1/models"),
        ("GET", "/V1/Models?a=b", 301, "", "", "", "/v1/models?a=b"),
        ("POST", "/v1/completions/", 307, "", "", "", "/v1/completions"),
        ("POST", "/v1/models/", 404, "Not Found", plain, "", ""),
        (
            "GET",
            "//is_sleeping",
            200,
            "{\"is_sleeping\":false}",
            "application/json",
            "",
            "",
        ),
        (
            "GET",
            "/x/.././%69s_sleeping",
            200,
            "{\"is_sleeping\":false}",
            "application/json",
            "",
            "",
        ),
    ];
    for (method, path, status, body, kind, allow, location) in rows {
        // As it stands: a library of URLs would take the dots out.
        let mut stream = tokio::net::TcpStream::connect(sim.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, said) = answer.split_once("\r\n\r\n").unwrap();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(&format!("{name}: ")))
                .unwrap_or("")
        };
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method} {path}: {head}"
        );
        assert_eq!(said, body, "{method} {path}");
        let told = (header("content-type"), header("allow"), header("location"));
        assert_eq!(told, (kind, allow, location), "{method} {path}");
    }
    // A request that is read by another path than its own keeps its body.
    let url = format!("http://{}//v1//completions", sim.address);
    let body = json!({"model": "m", "prompt": "again"}).to_string();
    let answer = client.post(url).body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["choices"][0]["text"], "again");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let sim = Sim::start(&["--model", "m", "--max-request-body-size-mb", "1"]).await;
    let (status, error) = sim
        .json(
            "/v1/completions",
            &json!({"model": "m", "prompt": "x".repeat(2 << 20)}),
        )
        .await;
    assert_eq!(
        (status, &error["error"]["message"]),
        (413, &json!("request body is larger than 1048576 bytes"))
    );
}

#[tokio::test]
async fn the_queue_holds_then_refuses_and_a_client_that_leaves_frees_its_place() {
    let slow = [
        "--model",
        "m",
        "--max-num-seqs",
        "1",
        "--max-waiting-queue-length",
        "1",
        "--time-to-first-token",
        "1h",
    ];
    let sim = Sim::start(&slow).await;
    let open = |stream: bool| {
        let mut body = chat("hello");
        body["stream"] = json!(stream);
        tokio::spawn(sim.post("/v1/chat/completions", &body).send())
    };
    let running = open(false);
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    let waiting = open(true);
    sim.until("vllm:num_requests_waiting{model_name=\"m\"} 1").await;
    let (status, error) = sim.json("/v1/chat/completions", &chat("hello")).await;
    assert_eq!((status, &error["error"]["type"]), (429, &json!("RateLimitError")));
    running.abort();
    sim.until("vllm:num_requests_waiting{model_name=\"m\"} 0").await;
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    // Its headers have come: the connection ends when the response is dropped.
    waiting.abort();
    drop(waiting);
    for line in &IDLE {
        sim.until(line).await;
    }
}

#[tokio::test]
async fn a_repeated_prefix_is_cached_and_counted() {
    let cached = [
        "--model",
        "m",
        "--enable-kvcache",
        "--block-size",
        "8",
        "--kv-cache-size",
        "100",
        "--mode",
        "echo",
    ];
    let sim = Sim::start(&cached).await;
    let mut prompt = String::new();
    for i in 0..20 {
        write!(prompt, "word{i} ").unwrap();
    }
    for expected in [0, 16] {
        let (_, answer) = sim
            .json("/v1/completions", &json!({"model": "m", "prompt": prompt}))
            .await;
        assert_eq!(
            answer["usage"]["prompt_tokens_details"]["cached_tokens"],
            expected
        );
    }
    for line in [
        "vllm:prefix_cache_queries_total{model_name=\"m\"} 40",
        "vllm:prefix_cache_hits_total{model_name=\"m\"} 16",
        "vllm:cache_config_info{block_size=\"8\",num_gpu_blocks=\"100\"} 1",
        "vllm:request_success_total{finish_reason=\"stop\",model_name=\"m\"} 2",
        IDLE[2],
    ] {
        sim.until(line).await;
    }
    let (status, error) = sim
        .json(
            "/v1/completions",
            &json!({"model": "m", "prompt": "a ".repeat(900)}),
        )
        .await;
    assert_eq!(status, 500, "{error}");
    sim.until(IDLE[0]).await;
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answers() {
    let mut texts = Vec::new();
    for seed in ["7", "7", "8"] {
        let sim = Sim::start(&["--model", "m", "--seed", seed]).await;
        let (_, answer) = sim
            .json(
                "/v1/completions",
                &json!({"model": "m", "prompt": "x", "max_tokens": 50}),
            )
            .await;
        texts.push(answer["choices"][0]["text"].clone());
    }
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2], "another seed");
}

#[tokio::test]
async fn every_example_serves_and_the_command_line_wins() {
    let mut count = 0;
    for entry in std::fs::read_dir(in_package("config/simulator")).unwrap() {
        let path = entry.unwrap().path();
        let sim = Sim::start(&[
            "--config",
            path.to_str().unwrap(),
            "--model",
            "base",
            "--served-model-name",
            "first",
        ])
        .await;
        let models: Value = serde_json::from_str(&get(sim.address, "/v1/models").await.unwrap()).unwrap();
        assert_eq!(models["data"][0]["id"], "first", "{}", path.display());
        count += 1;
    }
    assert!(count >= 3);
}

#[tokio::test]
async fn an_adapter_is_served_under_its_name() {
    let sim = Sim::start(&[
        "--model",
        "m",
        "--lora-modules",
        "{\"name\":\"l\"}",
        "--time-to-first-token",
        "1h",
    ])
    .await;
    let mut body = chat("hello");
    body["model"] = json!("l");
    let request = tokio::spawn(sim.post("/v1/chat/completions", &body).send());
    let series =
        "vllm:lora_requests_info{max_lora=\"1\",running_lora_adapters=\"l\",waiting_lora_adapters=\"\"}";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !sim.page().await.contains(series) {
        assert!(tokio::time::Instant::now() < deadline, "{}", sim.page().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    request.abort();
    sim.until(IDLE[0]).await;
}

#[test]
fn a_refused_start_exits_1() {
    for args in [
        &["--port", "1"][..],
        &["--model", "m", "--nope"],
        &["--model", "m", "--config", "/nonexistent"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_inference-sim"))
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
}

/// The page is read by a parser that is not ours; it knows no colons in names.
#[tokio::test]
async fn another_parser_reads_the_page() {
    let sim = Sim::start(&["--model", "m"]).await;
    sim.json(
        "/v1/completions",
        &json!({"model": "m", "prompt": "x", "max_tokens": 5}),
    )
    .await;
    let page = sim.page().await.replace("vllm:", "vllm_");
    let scrape = prometheus_parse::Scrape::parse(page.lines().map(|l| Ok(l.to_owned()))).unwrap();
    let names: Vec<&str> = scrape.samples.iter().map(|s| s.metric.as_str()).collect();
    for name in [
        "vllm_num_requests_running",
        "vllm_time_to_first_token_seconds",
        "vllm_prompt_tokens_total",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[test]
fn the_simulator_page_lists_every_flag_with_its_default() {
    let page = std::fs::read_to_string(in_package("docs/user-guide/simulator.md")).unwrap();
    for flag in endpoint_picker::app::sim::FLAGS
        .iter()
        .filter(|f| f.short.is_none())
    {
        let row = page
            .lines()
            .find(|l| l.starts_with(&format!("| `--{}` |", flag.name)));
        let row = row.unwrap_or_else(|| panic!("simulator.md has no row for --{}", flag.name));
        let default = if flag.default.is_empty() {
            "| |".to_owned()
        } else {
            format!("| `{}` |", flag.default)
        };
        assert!(
            row.contains(&default),
            "--{}: the default is {default} in\n{row}",
            flag.name
        );
    }
}

#[test]
fn every_scenario_has_its_tests() {
    let page = std::fs::read_to_string(in_package("docs/developer-guide/simulator-tests.md")).unwrap();
    let mut scenarios = Vec::new();
    for line in page.lines().filter(|l| l.ends_with("` |")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _, tests] = cells[..] else {
            panic!("no row: {line}")
        };
        scenarios.push(name.to_owned());
        for test in tests.trim_end_matches(" |").split(", ") {
            let (file, test) = test.trim_matches('`').split_once("` `").unwrap();
            let text = std::fs::read_to_string(in_package(file)).unwrap();
            assert!(
                text.contains(&format!("fn {test}(")),
                "{name}: no {test} in {file}"
            );
        }
    }
    let numbers = [
        ("C", 10),
        ("H", 20),
        ("T", 7),
        ("L", 10),
        ("Q", 11),
        ("M", 10),
        ("F", 1),
        ("K", 10),
        ("D", 5),
    ];
    let expected = numbers
        .iter()
        .flat_map(|(letter, n)| (1..=*n).map(move |i| format!("{letter}{i}")));
    assert_eq!(scenarios, expected.collect::<Vec<_>>());
}
