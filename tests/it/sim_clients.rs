//! The simulator under clients that are not ours: OpenAI's and Anthropic's own, and curl.

use std::process::Command;

use serde_json::Value;

use crate::support::epp::in_package;
use crate::support::sim::Sim;

/// The Python that `make venv` has given the clients.
fn python() -> std::path::PathBuf {
    let path = in_package(".venv/bin/python");
    assert!(path.exists(), "no Python at {}: run `make venv`", path.display());
    path
}

#[tokio::test]
async fn the_official_clients_are_served() {
    let sim = Sim::start(&[
        "--model",
        "m",
        "--mode",
        "echo",
        "--served-model-name",
        "alias",
        "m",
    ])
    .await;
    let url = format!("http://{}", sim.address);
    let script = in_package("tests/sim/clients.py");
    let run = move || {
        Command::new(python())
            .arg(script)
            .args([&url, "alias"])
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    sim.until("vllm:num_requests_running{model_name=\"alias\"} 0")
        .await;
}

#[tokio::test]
async fn curl_gets_the_documented_json() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let url = format!("http://{}/v1/completions", sim.address);
    let curl = || {
        let body = r#"{"model":"m","prompt":"Hello, world"}"#;
        Command::new("curl")
            .args(["-sS", &url, "-d", body])
            .output()
            .unwrap()
    };
    let output = curl();
    let text = String::from_utf8(output.stdout).unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let (id, created) = (answer["id"].as_str().unwrap(), &answer["created"]);
    assert_eq!(
        text,
        format!(
            "{{\"id\":\"{id}\",\"created\":{created},\"model\":\"m\",\"usage\":{{\"prompt_tokens\":3,\
             \"completion_tokens\":3,\"total_tokens\":6}},\"object\":\"text_completion\",\"kv_transfer_params\":null,\
             \"choices\":[{{\"index\":0,\"finish_reason\":\"stop\",\"text\":\"Hello, world\"}}]}}"
        )
    );
}
