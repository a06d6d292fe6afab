//! The simulator as a process: TLS, stopping, what a start is refused for.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::sim::{Sim, https};

#[tokio::test]
async fn it_serves_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    for args in [
        &["--model", "m", "--self-signed-certs"][..],
        &[
            "--model",
            "m",
            "--ssl-certfile",
            certificate,
            "--ssl-keyfile",
            key,
        ],
    ] {
        let sim = Sim::launch(args, &[]);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let url = format!("https://{}/health", sim.address);
        let response = loop {
            match https().get(&url).send().await {
                Ok(response) => break response,
                Err(e) => assert!(tokio::time::Instant::now() < deadline, "{e:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(
            (
                response.status().as_u16(),
                response.text().await.unwrap().as_str()
            ),
            (200, "{}")
        );
    }
}

#[test]
fn a_start_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(
        path("text"),
        "no certificate, and no database either, but long enough for both",
    )
    .unwrap();
    std::fs::create_dir(path("m")).unwrap();
    std::fs::write(path("m/tokenizer.json"), "{}").unwrap();
    for (args, text) in [
        (
            vec!["--ssl-certfile", &path("none"), "--ssl-keyfile", &path("none")],
            "--ssl-certfile ",
        ),
        (
            vec!["--ssl-certfile", &path("text"), "--ssl-keyfile", &path("text")],
            "holds no certificate",
        ),
        (
            vec!["--dataset-path", &path("none")],
            "database file does not exist: ",
        ),
        (vec!["--dataset-path", &path("text")], "file is not a database"),
        (
            vec!["--tokenizers-cache-dir", &path("")],
            "cannot use the tokenizer ",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_inference-sim"))
            .args([
                "--model",
                "m",
                "--bind-address",
                "127.0.0.1",
                "--port",
                &crate::support::ports::free().to_string(),
            ])
            .args(&args)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(1) && error.contains(text),
            "{args:?}: {error}"
        );
    }
}

#[test]
fn help_ends_well_and_an_unknown_flag_does_not() {
    for (flag, code, text) in [
        ("--help", 0, "Usage of "),
        ("--no-such-flag", 1, "unknown flag: --no-such-flag"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inference-sim"));
        let output = command.arg(flag).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && error.contains(text),
            "{flag}: {error}"
        );
    }
}

/// Opens a connection and sends a request whose answer takes its time.
async fn begin(sim: &Sim) -> TcpStream {
    let mut tcp = TcpStream::connect(sim.address).await.unwrap();
    let body = json!({"model": "m", "prompt": "x", "max_tokens": 1}).to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all((head + &body).as_bytes()).await.unwrap();
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    tcp
}

#[tokio::test]
async fn after_a_signal_requests_under_way_end_and_new_ones_are_not_taken() {
    let mut sim = Sim::start(&["--model", "m", "--time-to-first-token", "1s"]).await;
    let mut tcp = begin(&sim).await;
    // Open, and without a request: it does not hold the process up.
    let mut idle = TcpStream::connect(sim.address).await.unwrap();
    sim.signal("TERM");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("text_completion"),
        "{answer}"
    );
    assert_eq!(sim.ended().await, Some(0));
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_second_signal_cuts_requests_off() {
    let mut sim = Sim::start(&["--model", "m", "--time-to-first-token", "1h"]).await;
    let mut tcp = begin(&sim).await;
    sim.signal("TERM");
    // The first signal has been seen once nobody takes connections any more.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(sim.address).await.is_ok() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it still takes connections"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sim.signal("INT");
    assert_eq!(sim.ended().await, Some(1));
    assert_eq!(tcp.read(&mut [0]).await.unwrap_or(0), 0);
}
