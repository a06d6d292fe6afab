//! The simulator under clients that are not ours: OpenAI's, Anthropic's and gRPC's own, and curl.

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

/// Runs a script of `tests/sim/`, which must find all as it should be.
async fn succeeds(script: &str, args: &[&str]) {
    let mut command = Command::new(python());
    command.arg(in_package("tests/sim").join(script)).args(args);
    let run = move || command.output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
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
    succeeds("clients.py", &[&format!("http://{}", sim.address), "alias"]).await;
    sim.until("vllm:num_requests_running{model_name=\"alias\"} 0")
        .await;
}

#[tokio::test]
async fn grpcs_own_client_finds_everything_by_reflection() {
    let args = ["--model", "m", "--mode", "echo", "--inter-token-latency", "10ms"];
    let sim = Sim::start(&args).await;
    succeeds("grpc_client.py", &[&sim.address.to_string(), "m"]).await;
    sim.until("vllm:num_requests_running{model_name=\"m\"} 0").await;
    sim.until("vllm:num_requests_waiting{model_name=\"m\"} 0").await;
}

#[tokio::test]
async fn grpcs_own_client_is_served_over_tls_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("tls.crt"), path("tls.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let args = [
        "--model",
        "m",
        "--mode",
        "echo",
        "--ssl-certfile",
        &certificate,
        "--ssl-keyfile",
        &key,
    ];
    let sim = Sim::launch(&args, &[]);
    // The client tries until the port is open.
    succeeds("grpc_client.py", &[&sim.address.to_string(), "m", &certificate]).await;
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
