//! The simulator's events on the wire of HTTP/1: chunks, kept connections, clients of other versions.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::sim::Sim;

/// A request for `words` tokens as events, and what else its head says.
fn request(version: &str, words: usize, more: &str) -> String {
    let body = json!({"model": "m", "prompt": "word ".repeat(words), "stream": true}).to_string();
    let length = body.len();
    format!("POST /v1/completions HTTP/{version}\r\nhost: h\r\n{more}content-length: {length}\r\n\r\n{body}")
}

/// All that comes until the server closes.
async fn all(sim: &Sim, sent: &str) -> String {
    let mut tcp = TcpStream::connect(sim.address).await.unwrap();
    tcp.write_all(sent.as_bytes()).await.unwrap();
    let mut all = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), tcp.read_to_string(&mut all));
    read.await.unwrap().unwrap();
    all
}

/// The first answer of `text`: its head, the chunks of its body, and what follows.
fn first_answer(text: &str) -> (&str, Vec<&str>, &str) {
    let (head, mut rest) = text.split_once("\r\n\r\n").unwrap();
    let mut chunks = Vec::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let (chunk, after) = after.split_at(length);
        rest = after.strip_prefix("\r\n").unwrap();
        if length == 0 {
            return (head, chunks, rest);
        }
        chunks.push(chunk);
    }
}

/// What the events of these chunks say; every chunk is whole events.
fn said(chunks: &[&str]) -> String {
    let mut said = String::new();
    let mut done = false;
    for chunk in chunks {
        assert!(chunk.ends_with("\n\n"), "{chunk:?}");
        for event in chunk.split_terminator("\n\n") {
            let data = event.strip_prefix("data: ").unwrap();
            assert!(!done, "nothing comes after the end");
            if data == "[DONE]" {
                done = true;
            } else {
                let event: Value = serde_json::from_str(data).unwrap();
                said += event["choices"][0]["text"].as_str().unwrap_or("");
            }
        }
    }
    assert!(done);
    said
}

#[tokio::test]
async fn streams_follow_each_other_on_a_connection_even_when_they_are_asked_for_early() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let health = "GET /health HTTP/1.1\r\nhost: h\r\n\r\n";
    let sent = [
        &request("1.1", 3, ""),
        health,
        &request("1.1", 900, ""),
        &request("1.1", 1, "connection: close\r\n"),
    ]
    .concat();
    let text = all(&sim, &sent).await;
    let (head, chunks, rest) = first_answer(&text);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for line in ["content-type: text/event-stream", "cache-control: no-cache"] {
        assert!(head.lines().any(|l| l == line), "{head}");
    }
    assert!(
        head.lines()
            .any(|l| l.starts_with("date: ") && l.ends_with(" GMT"))
    );
    assert!(!head.contains("connection:"), "{head}");
    assert_eq!(said(&chunks).trim(), "word word word");
    let (_, rest) = rest.split_once("\r\n\r\n{}").unwrap();
    let (_, chunks, rest) = first_answer(rest);
    assert_eq!(said(&chunks).split_whitespace().count(), 900);
    let (head, chunks, rest) = first_answer(rest);
    assert!(head.lines().any(|l| l == "connection: close"), "{head}");
    assert_eq!(said(&chunks).trim(), "word");
    assert_eq!(rest, "");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let text = all(&sim, &request("1.0", 3, "")).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("chunked"), "{head}");
    assert_eq!(said(&[body]).trim(), "word word word");
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_read() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let mut tcp = TcpStream::connect(sim.address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for byte in request("1.1", 2, "connection: close\r\n").as_bytes() {
        tcp.write_all(&[*byte]).await.unwrap();
    }
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    let (_, chunks, _) = first_answer(&text);
    assert_eq!(said(&chunks).trim(), "word word");
}

#[tokio::test]
async fn events_come_as_they_come_due_and_not_at_the_end() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo", "--inter-token-latency", "1h"]).await;
    let mut tcp = TcpStream::connect(sim.address).await.unwrap();
    tcp.write_all(request("1.1", 3, "").as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("\n\n") {
        let mut some = [0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(20), tcp.read(&mut some));
        let n = read.await.unwrap().unwrap();
        text += std::str::from_utf8(&some[..n]).unwrap();
    }
    assert_eq!(text.matches("data: ").count(), 1, "{text}");
}

#[tokio::test]
async fn over_http_2_the_events_are_the_same_and_a_client_that_leaves_holds_nothing() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo", "--inter-token-latency", "1ms"]).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let ask = |words: usize| {
        let body = json!({"model": "m", "prompt": "word ".repeat(words), "stream": true});
        client
            .post(format!("http://{}/v1/completions", sim.address))
            .body(body.to_string())
            .send()
    };
    let response = ask(3).await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let text = response.text().await.unwrap();
    assert_eq!(said(&[&text]).trim(), "word word word");
    let mut long = ask(1_000).await.unwrap();
    assert!(long.chunk().await.unwrap().is_some());
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    drop(long);
    sim.until("vllm:num_requests_running{model_name=\"m\"} 0").await;
}
