//! Attacks with connections that say little: on the ext_proc port, the health port, and at the end of the process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::told;
use super::scene::{Scene, SetUp};
use super::support::raw_h2::{self, Connection};
use super::support::{epp, tls};
use super::{Attack, Outcome, Running, attack};

/// Longest time a newcomer may wait.
const WAIT: Duration = Duration::from_secs(1);
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let few = || SetUp {
        descriptors: Some(512),
        ..SetUp::default()
    };
    vec![
        Attack {
            name: "2,000 silent TCP connections on the TLS port",
            set_up: SetUp {
                tls: true,
                ..SetUp::default()
            },
            run: silent,
        },
        Attack {
            name: "600 idle connections on the health port, 512 descriptors",
            set_up: few(),
            run: |s| Box::pin(idle(s, s.epp.health)),
        },
        Attack {
            name: "600 idle connections on the ext_proc port, 512 descriptors",
            set_up: few(),
            run: |s| Box::pin(idle(s, s.epp.grpc)),
        },
        attack("500 connections of 64 Watch each on the health port", watches),
        attack("a websocket upgrade via Envoy", upgrade),
        Attack {
            name: "SIGTERM with one silent connection",
            set_up: SetUp {
                polite: false,
                ..SetUp::default()
            },
            run: |s| Box::pin(terminated(s, false)),
        },
        Attack {
            name: "SIGTERM with one HTTP/2 connection without streams",
            set_up: SetUp {
                polite: false,
                ..SetUp::default()
            },
            run: |s| Box::pin(terminated(s, true)),
        },
    ]
}

/// As many connections as the server takes: those it refuses are refused.
async fn open(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let connecting = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(to));
        if let Ok(Ok(stream)) = connecting.await {
            open.push(stream);
        }
    }
    open
}

fn silent(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let held = open(scene.epp.grpc, 2_000).await;
        let began = Instant::now();
        let shown = tokio::time::timeout(Duration::from_secs(30), tls::shown(scene.epp.grpc)).await;
        let note = format!(
            "{} silent, a newcomer waited {:.2} s",
            held.len(),
            began.elapsed().as_secs_f64()
        );
        if shown.is_ok() && began.elapsed() <= WAIT {
            Ok(note)
        } else {
            Err(note)
        }
    })
}

/// With all of them open, every port still serves newcomers.
async fn idle(scene: &Scene, to: SocketAddr) -> Outcome {
    let held = open(to, 600).await;
    let mut unserved = Vec::new();
    let began = Instant::now();
    if !serves(scene.epp.grpc, raw_h2::PROCESS).await {
        unserved.push("ext_proc");
    }
    if !serves(scene.epp.health, CHECK).await {
        unserved.push("health");
    }
    if epp::get(scene.epp.metrics, "/metrics").await.is_none() {
        unserved.push("metrics");
    }
    let note = format!(
        "{} open, newcomers waited {:.2} s",
        held.len(),
        began.elapsed().as_secs_f64()
    );
    if unserved.is_empty() {
        Ok(note)
    } else {
        Err(format!("{note}, not served: {}", unserved.join(", ")))
    }
}

/// Does a newcomer get an answer to a call?
async fn serves(to: SocketAddr, path: &str) -> bool {
    let Ok(mut connection) = Connection::open(to).await else {
        return false;
    };
    let stream = connection.stream();
    let mut bytes = raw_h2::call(stream, path);
    bytes.extend(raw_h2::data(stream, &raw_h2::grpc(b""), true));
    let written = connection.write(&bytes).await.is_ok();
    written
        && connection
            .until(Duration::from_secs(3), |s| {
                s.replies.values().any(|r| r.status.is_some())
            })
            .await
}

fn watches(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut open = Vec::new();
        for _ in 0..500 {
            let Ok(mut connection) = Connection::open(scene.epp.health).await else {
                continue;
            };
            let mut bytes = Vec::new();
            for _ in 0..64 {
                let stream = connection.stream();
                bytes.extend(raw_h2::call(stream, WATCH));
                bytes.extend(raw_h2::data(stream, &raw_h2::grpc(b""), true));
            }
            if connection.write(&bytes).await.is_ok() {
                open.push(connection);
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let watched: usize = open
            .iter()
            .map(|c| {
                c.seen(|s| {
                    s.replies
                        .values()
                        .filter(|r| !r.data.is_empty() && !r.over())
                        .count()
                })
            })
            .sum();
        Ok(format!("{watched} of 32,000 watch"))
    })
}

fn upgrade(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut stream = TcpStream::connect(scene.traffic).await.map_err(told)?;
        let request = "GET /v1/realtime HTTP/1.1\r\nhost: gateway\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.map_err(told)?;
        let mut line = [0; 12];
        let answer = tokio::time::timeout(Duration::from_secs(3), stream.read_exact(&mut line)).await;
        match answer {
            Ok(Ok(_)) => Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => Err("no answer in 3 s".to_owned()),
        }
    })
}

/// SIGTERM: `epp` must end with 0 at once.
async fn terminated(scene: &mut Scene, preface: bool) -> Outcome {
    let silent = TcpStream::connect(scene.epp.grpc).await.map_err(told)?;
    let http2 = if preface {
        Some(Connection::open(scene.epp.grpc).await.map_err(told)?)
    } else {
        None
    };
    if let Some(http2) = &http2 {
        http2.ready(Duration::from_secs(5)).await;
    }
    let began = Instant::now();
    scene.epp.signal("TERM");
    let status = tokio::time::timeout(Duration::from_secs(35), scene.epp.ended()).await;
    drop(silent);
    let status = status.map_err(|_| "still there after 35 s".to_owned())?;
    let note = format!("{status} after {:.2} s", began.elapsed().as_secs_f64());
    if status.success() && began.elapsed() < Duration::from_secs(5) {
        Ok(note)
    } else {
        Err(note)
    }
}
