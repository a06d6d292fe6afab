//! Attacks by model servers: what they answer, and what their metrics pages say.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::frames::told;
use super::load::client::{self, Exchange};
use super::load::shapes;
use super::scene::{Scene, SetUp};
use super::support::hostile_client;
use super::support::scripted_server::{ANSWER, NESTED, NESTED_EVENT};
use super::{Attack, Outcome, Running, attack};

/// Fewest scrapes a second of a good endpoint beside a hostile one; 20 are asked for.
const SCRAPES: f64 = 15.0;
/// Most memory the index of one server may take, bytes.
const INDEX: u64 = 64 << 20;
const PROMPTS: u64 = 12_000;

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let huge = "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"4294967295\"} 1\n";
    vec![
        attack("a JSON answer of 10,000 levels, via Envoy", |s| {
            Box::pin(answers(s, NESTED))
        }),
        attack("an event of 195 kB of levels, via Envoy", |s| {
            Box::pin(answers(s, NESTED_EVENT))
        }),
        Attack {
            name: "100 Continue without end from one model server",
            set_up: SetUp {
                continues: true,
                ..SetUp::default()
            },
            run: scraped,
        },
        Attack {
            name: "num_gpu_blocks 4294967295 and 12,000 prompts of 15 kB",
            set_up: SetUp {
                page: huge,
                ..SetUp::default()
            },
            run: prompts,
        },
    ]
}

async fn answers(scene: &mut Scene, answer: &str) -> Outcome {
    for _ in 0..20 {
        let body = br#"{"model":"m","prompt":"p"}"#;
        let headers = [(ANSWER, answer)];
        let status = hostile_client::status_of(scene.traffic, "/v1/completions", body, &headers).await;
        match status.map_err(told)? {
            200 => {}
            status => return Err(format!("the answer became {status}")),
        }
    }
    Ok(String::new())
}

fn scraped(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        const LOOK: Duration = Duration::from_secs(4);
        let count = |scene: &Scene| scene.servers.iter().map(|s| s.scrapes()).collect::<Vec<_>>();
        let before = count(scene);
        tokio::time::sleep(LOOK).await;
        let rates = count(scene).into_iter().zip(before);
        let slowest = rates
            .map(|(a, b)| (a - b) as f64 / LOOK.as_secs_f64())
            .fold(f64::MAX, f64::min);
        let note = format!("good endpoints scraped {slowest:.1} times a second");
        if slowest >= SCRAPES { Ok(note) } else { Err(note) }
    })
}

fn prompts(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let before = scene.epp.resident();
        let connection = client::connect(scene.epp.grpc).await;
        let prompts = futures::stream::iter(0..PROMPTS).map(|seed| {
            let connection = connection.clone();
            async move {
                let mut frames = shapes::request_headers("/v1/chat/completions");
                frames.extend(shapes::request_body(
                    &shapes::chat_body(15_000, 0, 2 * seed + 1),
                    65_536,
                ));
                let mut exchange = Exchange::open(&connection).await;
                exchange.step(&frames.into(), shapes::Awaited::EndOfBody).await;
                exchange.close().await;
            }
        });
        prompts.buffer_unordered(16).collect::<Vec<()>>().await;
        let grown = scene.epp.resident().saturating_sub(before);
        let note = format!("grown by {} MiB", grown >> 20);
        if grown <= INDEX { Ok(note) } else { Err(note) }
    })
}

/// A model server that answers requests as it should, and those for its metrics with `100 Continue` for ever.
pub async fn continues() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever asks may leave at any time.
            tokio::spawn(async move { converse(stream).await.ok() });
        }
    });
    address
}

async fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = [0; 4096];
    while stream.read(&mut head).await? > 0 {
        if head.starts_with(b"GET /metrics") {
            let piece = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000);
            loop {
                stream.write_all(&piece).await?;
            }
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .await?;
    }
    Ok(())
}
