//! `epp` beside a Kubernetes API with 1,000 pods: how soon it is ready, how soon a change of a pod counts, what watching
//! 100 changes a second costs, and whether requests notice. `cargo bench --bench cluster`.
//!
//! The API server runs in this process, so its work is not in the CPU of `epp`; nothing is scraped meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use load::child::{Server, free_port};
use load::client;
use load::shapes::{self, Shape};
use support::apiserver::{ApiServer, PODS, POOLS, Reached, pod, pool, unready_pod};
use support::ext_proc::{Answer, Exchange, connect, request_body, request_headers};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PODS_WATCHED: usize = 1_000;
const CHANGES: u32 = 100;
const FLIPS: usize = 50;
const RATE: u64 = 500;
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_secs(4);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    println!("| what | measured | bar |");
    println!("|---|---|---|");
    runtime.block_on(async {
        flips().await;
        churn().await;
    });
}

fn row(what: &str, measured: &str, bar: &str, met: bool) {
    let verdict = if met { "met" } else { "MISSED" };
    println!("| {what} | {measured} | {bar}: {verdict} |");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// An `epp` beside `server`, and its health port.
fn epp(server: &ApiServer, folder: &tempfile::TempDir) -> (Server, SocketAddr) {
    let kubeconfig = folder.path().join("kubeconfig");
    server.write_kubeconfig(&kubeconfig);
    let (port, health) = (free_port(), free_port());
    let words = [
        "env".to_owned(),
        format!("KUBECONFIG={}", kubeconfig.display()),
        env!("CARGO_BIN_EXE_epp").into(),
        "--pool-name=pool".into(),
        format!("--grpc-port={port}"),
        format!("--grpc-health-port={health}"),
        format!("--metrics-port={}", free_port()),
        "--bind-address=127.0.0.1".into(),
        "--secure-serving=false".into(),
        "--metrics-endpoint-auth=false".into(),
        "--refresh-metrics-interval=1h".into(),
        "--threads=1".into(),
    ];
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    (Server::start(&words, at(port), None), at(health))
}

async fn ready(health: SocketAddr) {
    let channel = tonic::transport::Channel::from_shared(format!("http://{health}")).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    loop {
        let request = HealthCheckRequest {
            service: "readiness".into(),
        };
        let answer = client.check(request).await.unwrap().into_inner();
        if answer.status() == ServingStatus::Serving {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How soon a pod counts once the API server has written the change.
async fn flips() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    let folder = tempfile::tempdir().unwrap();
    let (epp, health) = epp(&server, &folder);
    ready(health).await;
    let client = connect(epp.address).await;
    let routed = async || {
        let mut exchange = Exchange::open(&client).await;
        exchange
            .send(request_headers(&[("x-request-id", "r")], false))
            .await;
        exchange
            .send(request_body(r#"{"model":"m","prompt":"p"}"#, true))
            .await;
        matches!(exchange.answer().await, Answer::RequestHeaders(..))
    };
    let (mut joins, mut leaves) = (Vec::new(), Vec::new());
    for _ in 0..FLIPS {
        for (present, times) in [(true, &mut joins), (false, &mut leaves)] {
            let start = Instant::now();
            if present {
                server.apply(PODS, pod("p", "127.0.0.1"));
            } else {
                server.delete(PODS, "p");
            }
            while routed().await != present {}
            times.push(start.elapsed());
        }
    }
    for (what, mut times, bar) in [
        ("pod ready until a request goes there", joins, 100.0),
        ("pod deleted until none goes there", leaves, 50.0),
    ] {
        times.sort();
        let (median, worst) = (ms(times[FLIPS / 2]), ms(times[FLIPS - 1]));
        let measured = format!("median {median:.1} ms, worst of {FLIPS} {worst:.1} ms");
        row(what, &measured, &format!("{bar} ms"), worst <= bar);
    }
}

fn address(i: usize) -> String {
    format!("127.1.{}.{}", i / 250, i % 250 + 1)
}

/// Pods that change, by the steady clock, until the time is over: those of the pool, or as many that `epp` does not
/// watch, for which the API server does the same work.
async fn change(server: &ApiServer, time: Duration, watched: bool) {
    let start = Instant::now();
    let every = Duration::from_secs(1) / CHANGES;
    for i in 0.. {
        let at = start + every * i;
        if at >= start + time {
            return;
        }
        tokio::time::sleep_until(at.into()).await;
        let n = (i as usize / 2) % PODS_WATCHED;
        let name = if watched {
            format!("p-{n}")
        } else {
            format!("other-{n}")
        };
        let mut state = if i % 2 == 0 {
            unready_pod(&name, &address(n))
        } else {
            pod(&name, &address(n))
        };
        if !watched {
            state["metadata"]["labels"]["app"] = "other".into();
        }
        server.apply(PODS, state);
    }
}

async fn churn() {
    let server = ApiServer::start();
    server.apply(POOLS, pool(&[8000]));
    server.apply_all(
        PODS,
        (0..PODS_WATCHED).map(|i| pod(&format!("p-{i}"), &address(i))),
    );
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (epp, health) = epp(&server, &folder);
    ready(health).await;
    let took = start.elapsed();
    let what = format!("start until ready, {PODS_WATCHED} pods listed");
    row(
        &what,
        &format!("{:.0} ms", ms(took)),
        "2 s",
        took <= Duration::from_secs(2),
    );

    let cpu = |before: Duration, time: Duration| (epp.cpu() - before).as_secs_f64() / time.as_secs_f64();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = epp.cpu();
    tokio::time::sleep(ROUND).await;
    let idle = cpu(before, ROUND);
    let before = epp.cpu();
    change(&server, ROUND, true).await;
    let busy = cpu(before, ROUND);
    let what = format!("watching {PODS_WATCHED} pods, {CHANGES} changes a second");
    let measured = format!("{busy:.3} core ({idle:.3} with none)");
    row(&what, &measured, "0.2 core", busy <= 0.2);

    let shape = shapes::short();
    let mut times = [Vec::new(), Vec::new()];
    drive(epp.address, &shape, Duration::from_secs(1)).await;
    for _ in 0..ROUNDS {
        for (watched, times) in [false, true].into_iter().zip(&mut times) {
            let driven = drive(epp.address, &shape, ROUND);
            let (driven, ()) = tokio::join!(driven, change(&server, ROUND, watched));
            times.extend(driven);
        }
    }
    let [quiet, changing] = times.map(|mut t| {
        t.sort();
        [0.5, 0.99].map(|q| ms(t[((t.len() - 1) as f64 * q) as usize]))
    });
    let ratio = changing[1] / quiet[1];
    let measured = format!(
        "p99 {:.2} ms with others, {:.2} ms with its own changing: {ratio:.2} × (p50 {:.2}, {:.2} ms)",
        quiet[1], changing[1], quiet[0], changing[0]
    );
    let what = format!("exchanges at {RATE}/s while pods change");
    row(&what, &measured, "1.10 ×", ratio <= 1.1);
}

/// Exchanges at the rate over one connection; times are from opening to closing.
async fn drive(to: SocketAddr, shape: &Shape, time: Duration) -> Vec<Duration> {
    let client = client::connect(to).await;
    let (start, every) = (Instant::now(), Duration::from_secs(1) / RATE as u32);
    let (mut times, mut next) = (Vec::new(), start);
    while next < start + time {
        tokio::time::sleep_until(next.into()).await;
        let sent = Instant::now();
        client::run(&client, shape).await;
        times.push(sent.elapsed());
        next += every;
    }
    times
}
