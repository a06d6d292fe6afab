//! What operations cost the requests that go by. `cargo bench --bench operations [-- spans|reload]`.
//!
//! * `spans`: one place that would record, with tracing off. Bar: 20 ns.
//! * `reload`: latency at 2,000 requests a second while the configuration changes four times a second, beside the
//!   same without changes, in alternating rounds. Bar: no request lost, 5 ms more at p99.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

mod load;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use endpoint_picker::telemetry::spans::{Tracer, names};
use load::epp::Epp;
use load::pool::Pool;
use load::shapes;

const RATE: u64 = 2_000;
const CONNECTIONS: u64 = 4;
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_secs(4);
const BETWEEN_CHANGES: Duration = Duration::from_millis(250);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| a == name);
    if wanted("spans") {
        spans();
    }
    if wanted("reload") {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(reload());
    }
}

fn spans() {
    const TIMES: u32 = 20_000_000;
    let (tracer, now) = (Tracer::default(), Instant::now());
    let mut span = black_box(&tracer).exchange(now, now, |_| None);
    let began = Instant::now();
    for i in 0..TIMES {
        black_box(&mut span).set(names::PRIORITY, || i64::from(black_box(i)));
    }
    report("a span site, tracing off", began.elapsed() / TIMES);
    let began = Instant::now();
    for _ in 0..TIMES {
        black_box(black_box(&tracer).exchange(now, now, |_| None));
    }
    report(
        "beginning and ending an exchange's span, tracing off",
        began.elapsed() / TIMES,
    );
}

fn report(what: &str, each: Duration) {
    let verdict = if each <= Duration::from_nanos(20) {
        "met"
    } else {
        "MISSED"
    };
    println!("{what}: {} ns (bar 20 ns, {verdict})", each.as_nanos());
}

async fn reload() {
    let pool = Pool::start(
        100,
        "vllm:num_requests_waiting 0\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.1\n",
    );
    let epp = Epp {
        pool: &pool,
        core: None,
        scrape_interval: "50ms",
        flags: &[],
    };
    let (server, files) = epp.start();
    let config = files.path().join("config.yaml");
    let original = std::fs::read_to_string(&config).unwrap();
    drive(server.address, Duration::from_secs(1)).await;
    let mut times = [Vec::new(), Vec::new()];
    let mut changes = 0;
    for _ in 0..ROUNDS {
        times[0].extend(drive(server.address, ROUND).await);
        let changer = tokio::spawn(change(config.clone(), original.clone()));
        times[1].extend(drive(server.address, ROUND).await);
        changer.abort();
        changes += ROUND.as_millis() / BETWEEN_CHANGES.as_millis();
    }
    println!(
        "Latency of whole exchanges at {RATE} requests/s, {ROUNDS} alternating rounds of {ROUND:?}, milliseconds"
    );
    println!("| configuration | requests | p50 | p99 | p99.9 |");
    println!("|---|---|---|---|---|");
    let p99 = ["unchanged", "changed four times a second"]
        .iter()
        .zip(times)
        .map(|(name, mut t)| {
            t.sort();
            let [p50, p99, p999] =
                [0.5, 0.99, 0.999].map(|q| t[((t.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3);
            println!("| {name} | {} | {p50:.2} | {p99:.2} | {p999:.2} |", t.len());
            p99
        });
    let p99: Vec<f64> = p99.collect();
    let added = p99[1] - p99[0];
    let verdict = if added <= 5.0 { "met" } else { "MISSED" };
    println!("\nno request lost in {changes} changes; added at p99: {added:.2} ms (bar 5 ms, {verdict})");
}

/// Writes a configuration of another weight, again and again; every second time, the prefix plugin is another, so that
/// an index is made and an old one freed.
async fn change(file: PathBuf, original: String) {
    for i in 1_u32.. {
        tokio::time::sleep(BETWEEN_CHANGES).await;
        let mut text = original.replace("weight: 3", &format!("weight: {}", 3 + i % 7));
        if i % 2 == 0 {
            text = text.replace(
                "- type: prefix-cache-scorer\n",
                &format!(
                    "- type: prefix-cache-scorer\n  parameters: {{maxPrefixBlocksToMatch: {}}}\n",
                    200 + i % 50
                ),
            );
        }
        replace(&file, &text);
    }
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// Begins exchanges at the rate, whether or not earlier ones have ended; their times. One that fails panics.
async fn drive(to: std::net::SocketAddr, time: Duration) -> Vec<Duration> {
    let shape = shapes::short();
    let start = Instant::now() + Duration::from_millis(50);
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|c| {
            let shape = shape.clone();
            tokio::spawn(async move {
                let client = load::client::connect(to).await;
                let mut under_way = Vec::new();
                for i in (c..RATE * time.as_millis() as u64 / 1000).step_by(CONNECTIONS as usize) {
                    let at = start + Duration::from_micros(1_000_000 * i / RATE);
                    tokio::time::sleep_until(at.into()).await;
                    let (client, shape) = (client.clone(), shape.clone());
                    under_way.push(tokio::spawn(async move {
                        let sent = Instant::now();
                        load::client::run(&client, &shape).await;
                        sent.elapsed()
                    }));
                }
                let mut times = Vec::with_capacity(under_way.len());
                for exchange in under_way {
                    times.push(exchange.await.expect("an exchange was lost"));
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for connection in connections {
        times.extend(connection.await.unwrap());
    }
    times
}
