//! Latency a client sees at 1,000 requests a second through a real Envoy: with the plain server, and with `epp`.
//! `cargo bench --bench latency`, after `make venv`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

mod load;
#[path = "plain/mod.rs"]
mod plain;
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use load::child::{Server, free_port};
use load::epp::Epp;
use load::pool::Pool;
use load::shapes;
use support::envoy::{Envoy, Kind, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RATE: u64 = 1_000;
const CONNECTIONS: u64 = 64;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(4);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [role, port, destination] = &args[..]
        && role == "plain-server"
    {
        return plain::serve(
            SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())),
            destination,
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(compare());
}

async fn compare() {
    let upstream = upstream().await;
    let pool = Pool::at(vec![upstream]);
    let own = std::env::current_exe().unwrap().display().to_string();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let words = [
        own,
        "plain-server".into(),
        address.port().to_string(),
        upstream.to_string(),
    ];
    let plain = Server::start(&words, address, None);
    let (epp, _files) = Epp {
        pool: &pool,
        core: None,
        scrape_interval: "50ms",
        flags: &[],
    }
    .start();
    let mut envoys = Vec::new();
    for server in [&plain, &epp] {
        let envoy = Envoy::launch(
            Kind::OriginalDst,
            Transport::Plaintext,
            server.address,
            &[upstream],
        )
        .await;
        envoys.push(envoy.unwrap());
    }
    let body = shapes::chat_body(1850, 1000, 7);
    let mut times = [Vec::new(), Vec::new()];
    for envoy in &envoys {
        drive(envoy.traffic, &body, Duration::from_secs(1)).await;
    }
    for _ in 0..ROUNDS {
        for (envoy, times) in envoys.iter().zip(&mut times) {
            times.extend(drive(envoy.traffic, &body, ROUND).await);
        }
    }
    println!(
        "Latency at {RATE} requests/s through Envoy, {ROUNDS} alternating rounds of {ROUND:?}, milliseconds"
    );
    println!("| behind Envoy | p50 | p90 | p99 |");
    println!("|---|---|---|---|");
    let rows = times.map(|mut t| {
        t.sort();
        [0.5, 0.9, 0.99].map(|q| t[((t.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3)
    });
    for (name, row) in ["plain tonic server", "epp"].iter().zip(&rows) {
        println!("| {name} | {:.2} | {:.2} | {:.2} |", row[0], row[1], row[2]);
    }
    let added = rows[1][2] - rows[0][2];
    let verdict = if added <= 1.0 { "met" } else { "MISSED" };
    println!("\nadded at p99: {added:.2} ms (bar 1 ms, {verdict})");
}

/// A model server that answers at once, and has a metrics page.
async fn upstream() -> SocketAddr {
    let json = format!(
        "{{\"object\":\"chat.completion\",\"text\":\"{}\"}}",
        "word ".repeat(50)
    );
    let page = "vllm:num_requests_waiting 0\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.1\n";
    let answer = move |_: axum::body::Bytes| async move { ([("content-type", "application/json")], json) };
    let app = Router::new()
        .route("/v1/chat/completions", post(answer))
        .route("/metrics", axum::routing::get(move || async move { page }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Sends requests at the rate over kept connections; times are from sending to the last byte.
async fn drive(to: SocketAddr, body: &[u8], time: Duration) -> Vec<Duration> {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let request: Vec<u8> = [head.as_bytes(), body].concat();
    let start = Instant::now() + Duration::from_millis(50);
    let every = Duration::from_micros(1_000_000 * CONNECTIONS / RATE);
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|i| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut socket = tokio::net::TcpStream::connect(to).await.unwrap();
                socket.set_nodelay(true).unwrap();
                let first = start + Duration::from_micros(1_000_000 * i / RATE);
                let (mut times, mut next, mut buffer) = (Vec::new(), first, vec![0; 16 * 1024]);
                while next < start + time {
                    tokio::time::sleep_until(next.into()).await;
                    let sent = Instant::now();
                    socket.write_all(&request).await.unwrap();
                    answer(&mut socket, &mut buffer).await;
                    times.push(sent.elapsed());
                    next += every;
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times
}

/// Reads one answer to its last byte: its length is given, or its chunks end.
async fn answer(socket: &mut tokio::net::TcpStream, buffer: &mut [u8]) {
    let mut held = 0;
    loop {
        let n = socket.read(&mut buffer[held..]).await.unwrap();
        assert!(n > 0, "the connection ended");
        held += n;
        let text = &buffer[..held];
        let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|l| l.split("\r\n").next()?.parse::<usize>().ok());
        let whole = match length {
            Some(length) => held >= end + 4 + length,
            None => text.ends_with(b"0\r\n\r\n"),
        };
        if whole {
            return;
        }
    }
}
