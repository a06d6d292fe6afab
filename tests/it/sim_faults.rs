//! The simulator under clients that misbehave: a clear error, bounded memory, and every slot given back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::sim::Sim;

const IDLE: [&str; 2] = [
    "vllm:num_requests_running{model_name=\"m\"} 0",
    "vllm:num_requests_waiting{model_name=\"m\"} 0",
];

async fn send(sim: &Sim, head: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(sim.address).await.unwrap();
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp
}

fn post(length: usize) -> String {
    format!("POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn malformed_and_absurd_requests_are_refused_with_a_reason() {
    let sim = Sim::start(&["--model", "m", "--max-model-len", "100"]).await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let many = format!("{{\"model\":\"m\",\"messages\":[{}{{}}]}}", "{},".repeat(20_000));
    let rows = [
        ("", 400),
        ("{", 400),
        ("nonsense", 400),
        ("[]", 400),
        ("{\"model\":\"m\"}", 400),
        ("{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":1e400}", 400),
        (
            "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":99999999999999999999}",
            400,
        ),
        (
            "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":9223372036854775807}",
            400,
        ),
        (
            "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":-9223372036854775808}",
            400,
        ),
        (
            "{\"model\":\"m\",\"prompt\":\"a\",\"n\":9223372036854775807}",
            400,
        ),
        ("{\"model\":\"m\",\"prompt\":[]}", 400),
        ("{\"model\":\"m\",\"prompt\":\"\\ud8\"}", 400),
        ("{\"model\":3,\"prompt\":\"a\"}", 400),
        (deep.as_str(), 400),
        (many.as_str(), 400),
    ];
    for path in [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
    ] {
        for (body, code) in rows {
            if path != "/v1/completions" && !body.starts_with(['{', '[', 'n']) {
                continue;
            }
            let url = format!("http://{}{path}", sim.address);
            let response = sim.client.post(url).body(body.to_owned()).send().await.unwrap();
            let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
            let shown = &body[..body.len().min(80)];
            // Where a field means nothing, it is ignored.
            assert!(
                status == code || (path != "/v1/completions" && status == 200),
                "{path} {shown}: {status} {text}"
            );
            let error: Value = serde_json::from_str(&text).unwrap();
            assert!(
                status == 200 || error["error"]["message"].is_string(),
                "{path} {shown}: {text}"
            );
        }
    }
    for line in IDLE {
        sim.until(line).await;
    }
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_and_not_kept() {
    let sim = Sim::start(&["--model", "m"]).await;
    let response = sim.post(
        "/v1/completions",
        &json!({"model": "m", "prompt": "x".repeat(100_000_000)}),
    );
    let response = response.send().await.unwrap();
    assert_eq!(response.status(), 413);
    // Without a length, it is refused once it is too large.
    let chunk = vec![b' '; 1 << 20];
    let chunks = futures::stream::iter((0..100).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let url = format!("http://{}/v1/completions", sim.address);
    let response = sim
        .client
        .post(url)
        .body(reqwest::Body::wrap_stream(chunks))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 413);
    let peak = sim.peak_memory();
    assert!(peak < 256 << 20, "{peak} bytes");
}

#[tokio::test]
async fn a_small_body_does_not_unfold_into_a_large_memory() {
    let sim = Sim::start(&["--model", "m"]).await;
    // 12 MB of empty objects where messages, tools or blocks are expected.
    let list = format!("[{}{{}}]", "{},".repeat(4_000_000));
    for body in [
        format!("{{\"model\":\"m\",\"messages\":{list}}}"),
        format!("{{\"model\":\"m\",\"messages\":[],\"tools\":{list}}}"),
        format!("{{\"model\":\"m\",\"messages\":[{{\"content\":{list}}}]}}"),
    ] {
        let url = format!("http://{}/v1/chat/completions", sim.address);
        let response = sim.client.post(url).body(body).send().await.unwrap();
        assert_eq!(response.status(), 400);
    }
    let peak = sim.peak_memory();
    assert!(peak < 120 << 20, "{peak} bytes");
}

#[tokio::test]
async fn clients_that_break_off_hold_nothing() {
    let sim = Sim::start(&[
        "--model",
        "m",
        "--max-num-seqs",
        "1",
        "--time-to-first-token",
        "1h",
    ])
    .await;
    let body = json!({"model": "m", "prompt": "x"}).to_string();
    // Half a head; half a body, then gone; half a body, then silence.
    let silent = send(&sim, "POST /v1/compl").await;
    drop(send(&sim, &(post(body.len()) + &body[..5])).await);
    let waiting = send(&sim, &(post(body.len()) + &body[..5])).await;
    // A whole request, then the writing half is closed: that client is gone too.
    let mut half = send(&sim, &(post(body.len()) + &body)).await;
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    half.shutdown().await.unwrap();
    for line in IDLE {
        sim.until(line).await;
    }
    // The slot is free: a stream takes it, and gives it back when its client resets the connection.
    let body = json!({"model": "m", "prompt": "x", "stream": true}).to_string();
    let mut stream = send(&sim, &(post(body.len()) + &body)).await;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    drop(stream);
    for line in IDLE {
        sim.until(line).await;
    }
    drop((silent, waiting));
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody_else() {
    let sim = Sim::start(&["--model", "m", "--max-model-len", "2000000", "--mode", "echo"]).await;
    let body = json!({"model": "m", "prompt": "word ".repeat(300_000), "stream": true}).to_string();
    // Its events are more than any socket buffer holds, and it reads none of them.
    let slow = send(&sim, &(post(body.len()) + &body)).await;
    sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
    for _ in 0..20 {
        let (status, _) = sim
            .json("/v1/completions", &json!({"model": "m", "prompt": "x"}))
            .await;
        assert_eq!(status, 200);
    }
    let peak = sim.peak_memory();
    assert!(peak < 200 << 20, "{peak} bytes");
    drop(slow);
    for line in IDLE {
        sim.until(line).await;
    }
}

#[tokio::test]
async fn requests_in_one_connection_are_answered_in_turn() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let body = json!({"model": "m", "prompt": "x"}).to_string();
    let mut tcp = send(&sim, &(post(body.len()) + &body).repeat(3)).await;
    tcp.write_all(b"GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), tcp.read_to_string(&mut all));
    read.await.unwrap().unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 4, "{all}");
}
