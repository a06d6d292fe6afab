//! The simulator's bars: heap and CPU of open streams, how late tokens are, and what a long prompt costs. First the
//! engine alone, in this process, then the real binary over TCP on the same machine.
//!
//! `cargo bench --bench simulator [-- engine|tcp]`; wants an idle machine and `ulimit -n` of 15,000.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and reports by printing"
)]

#[path = "load/thread.rs"]
mod thread;

use std::alloc::System;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use endpoint_picker::simulator::engine::{Config, Engine, Job, Ticket};
use endpoint_picker::simulator::kv_cache::hash::{Algorithm, Hasher};
use endpoint_picker::simulator::latency::Latency;
use endpoint_picker::simulator::metrics::page::Labels;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use thread::on_cpu;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const STREAMS: usize = 10_000;
/// Tokens of a stream over TCP.
const TOKENS: usize = 8;
/// Connections of the floor.
const FLOOR_STREAMS: usize = 1_000;
/// Bytes of an event on the wire, about.
const EVENT: usize = 210;
/// Time over which connections are opened: all at once, they would wait for each other, not for the simulator.
const OPENING: Duration = Duration::from_secs(2);
const PROMPT: usize = 100_000;
/// Ids of a large model's tokens.
const VOCABULARY: u32 = 1 << 17;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| a == name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if wanted("engine") {
        engine_alone(&runtime);
    }
    if wanted("tcp") {
        println!("the binary over TCP, its client on the same machine");
        let floor = runtime.block_on(bare_writes());
        println!(
            "  floor: a thread that only writes such events, 10,000/s to {FLOOR_STREAMS} connections: {floor:?} a write"
        );
        for inter_token in [2000, 1000, 500] {
            runtime.block_on(over_tcp(inter_token, floor));
        }
    }
}

fn engine_alone(runtime: &tokio::runtime::Runtime) {
    println!("engine alone, in this process");
    heap();
    long_prompt();
    for (rate, inter_token) in [(10_000, 1000), (50_000, 200), (100_000, 100)] {
        runtime.block_on(delays(rate, Duration::from_millis(inter_token)));
    }
}

fn config(latency: Latency, cache: bool) -> Config {
    Config {
        max_running: STREAMS,
        max_waiting: STREAMS,
        max_loras: 1,
        max_cpu_loras: 1,
        lora_load: Duration::ZERO,
        latency,
        batch_tokens: None,
        cache,
        sampled_ttft: false,
        max_model_len: 2 * PROMPT,
        labels: Labels {
            model: "m".to_owned(),
            max_loras: 1,
            cache: (16, 100_000),
            gpu_cache_name: false,
        },
        fake: None,
    }
}

fn job(output: usize) -> Job {
    Job {
        adapter: None,
        prompt: 100,
        output,
        finish_reason: "length",
        max_tokens: Some(output),
        remote_prefill: false,
        blocks: Vec::new(),
        ids: None,
        cache_hit_threshold: None,
        cache_threshold_forced: false,
        seed: 1,
        arrived: Instant::now(),
    }
}

/// Heap of a stream that runs and waits for its first token, and of one in the queue.
fn heap() {
    let hour = Duration::from_secs(3600);
    let latency = Latency {
        time_to_first_token: (hour, Duration::ZERO),
        ..Latency::default()
    };
    let engine = Engine::new(config(latency, false), None).unwrap();
    for kind in ["running", "queued"] {
        let mut tickets: Vec<Ticket> = Vec::with_capacity(STREAMS);
        let region = Region::new(ALLOCATOR);
        for _ in 0..STREAMS {
            tickets.push(engine.submit(job(100)).unwrap());
        }
        let change = region.change();
        let bytes = change.bytes_allocated - change.bytes_deallocated;
        println!("  heap of a {kind} stream: {} bytes (bar 4096)", bytes / STREAMS);
        // The next kind finds all slots taken.
        std::mem::forget(tickets);
    }
}

/// CPU time of all threads of a process that are alive.
fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let one = |path: std::path::PathBuf| -> Option<u64> {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(|t| one(t.ok()?.path())).sum())
}

/// Time to hand in a job with a long prompt, its blocks hashed: the best of many rounds, which nobody interrupted.
fn long_prompt() {
    let ids: Arc<[u32]> = (0..PROMPT as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) % VOCABULARY)
        .collect();
    for (name, algorithm) in [
        ("sha256-cbor", Algorithm::Sha256Cbor),
        ("fnv64", Algorithm::Fnv64),
    ] {
        let hasher = Hasher::new(algorithm, "", "m", 16);
        let engine = Engine::new(config(Latency::default(), true), None).unwrap();
        let mut times = Vec::new();
        for round in 0..30u32 {
            let ids: Vec<u32> = ids.iter().map(|id| id ^ round).collect();
            let before = Instant::now();
            let blocks = hasher.blocks(None, &ids);
            let hashed = Instant::now();
            let ticket = engine
                .submit(Job {
                    prompt: PROMPT,
                    blocks,
                    ..job(0)
                })
                .unwrap();
            let after = Instant::now();
            times.push((after - before, hashed - before));
            drop(ticket);
        }
        times.sort();
        let (all, hashing) = times[0];
        println!("  prompt of {PROMPT} tokens, {name}: {all:?} (bar 1 ms), {hashing:?} of it for hashes");
    }
    let engine = Engine::new(config(Latency::default(), false), None).unwrap();
    let before = Instant::now();
    for _ in 0..1000 {
        drop(
            engine
                .submit(Job {
                    prompt: PROMPT,
                    ..job(0)
                })
                .unwrap(),
        );
    }
    println!("  the same without a cache: {:?}", before.elapsed() / 1000);
}

fn percentile(sorted: &[u64], p: f64) -> Duration {
    let at = ((sorted.len() as f64 * p) as usize).min(sorted.len() - 1);
    Duration::from_nanos(sorted[at])
}

/// How late the tokens of all streams are, as tasks see them that read them.
async fn delays(rate: usize, inter_token: Duration) {
    const TOKENS: usize = 40;
    let first = Duration::from_secs(1);
    let latency = Latency {
        time_to_first_token: (first, Duration::ZERO),
        inter_token: (inter_token, Duration::ZERO),
        ..Latency::default()
    };
    let engine = Engine::new(config(latency, false), None).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let tokens = TOKENS.min((Duration::from_secs(5).as_nanos() / inter_token.as_nanos()) as usize);
    let before = cpu_of(std::process::id());
    let begun = Instant::now();
    for i in 0..STREAMS {
        // Spread over one gap, so that tokens do not all come at once.
        let at = inter_token.mul_f64(i as f64 / STREAMS as f64);
        let engine = engine.clone();
        tasks.spawn(async move {
            tokio::time::sleep(at).await;
            let before = Instant::now();
            let ticket = engine.submit(job(tokens)).unwrap();
            let after = Instant::now();
            // Its start lies between the two.
            let start = before + (after - before) / 2;
            let mut late = Vec::with_capacity(tokens);
            for n in 0..tokens {
                ticket.reach(n + 1).await;
                let due = start + first + inter_token * n as u32;
                let now = Instant::now();
                late.push(now.saturating_duration_since(due).as_nanos() as u64);
            }
            late
        });
    }
    let mut all = Vec::with_capacity(STREAMS * tokens);
    while let Some(late) = tasks.join_next().await {
        all.extend(late.unwrap());
    }
    let spent = cpu_of(std::process::id()) - before;
    all.sort_unstable();
    println!(
        "  {STREAMS} streams, {rate} tokens/s: late by p50 {:?}, p99 {:?} (bar 2 ms), p99.9 {:?}; CPU per token {:?} \
         (bar 10 us), load {:.0} % of one core",
        percentile(&all, 0.5),
        percentile(&all, 0.99),
        percentile(&all, 0.999),
        spent / all.len() as u32,
        100.0 * spent.as_secs_f64() / begun.elapsed().as_secs_f64(),
    );
}

struct Server(Child, SocketAddr);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(args: &[&str]) -> Server {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let child = Command::new(env!("CARGO_BIN_EXE_inference-sim"))
        .args([
            "--model",
            "m",
            "--bind-address",
            "127.0.0.1",
            "--port",
            &port.to_string(),
        ])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the simulator does not serve");
        std::thread::yield_now();
    }
    Server(child, address)
}

/// Private memory of a process, bytes.
fn memory(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// A request for events over HTTP/1.1.
fn request() -> String {
    let body =
        format!(r#"{{"model":"m","prompt":"hello","max_tokens":{TOKENS},"ignore_eos":true,"stream":true}}"#);
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the kernel takes to send an event over loopback, the receiver's side of TCP included.
async fn bare_writes() -> Duration {
    const ROUNDS: usize = 20;
    const BURST: usize = 10;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let writer = std::thread::spawn(move || {
        let mut open: Vec<std::net::TcpStream> =
            (0..FLOOR_STREAMS).map(|_| listener.accept().unwrap().0).collect();
        open.iter().for_each(|io| io.set_nodelay(true).unwrap());
        let before = on_cpu();
        for _ in 0..ROUNDS {
            for burst in open.chunks_mut(BURST) {
                for io in burst {
                    std::io::Write::write_all(io, &[b'x'; EVENT]).unwrap();
                }
                // The pace counts: caches are cold and readers asleep at each burst, as they are for a simulator.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        (on_cpu() - before) / (ROUNDS * FLOOR_STREAMS) as u32
    });
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..FLOOR_STREAMS {
        let mut io = TcpStream::connect(address).await.unwrap();
        readers.spawn(async move { io.read_to_end(&mut Vec::new()).await.unwrap() });
    }
    readers.join_all().await;
    writer.join().unwrap()
}

/// Streams over TCP: memory while they wait for the first token, CPU per token, and how late events arrive.
async fn over_tcp(inter_token: u64, floor: Duration) {
    let gap = format!("{inter_token}ms");
    let server = serve(&[
        "--max-num-seqs",
        "20000",
        "--time-to-first-token",
        "8s",
        "--inter-token-latency",
        &gap,
    ]);
    let request = request();
    let pid = server.0.id();
    let (idle, cpu_before) = (memory(pid), cpu_of(pid));
    let events = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..STREAMS {
        let (request, address, events) = (request.clone(), server.1, events.clone());
        tasks.spawn(async move {
            tokio::time::sleep(OPENING.mul_f64(i as f64 / STREAMS as f64)).await;
            let mut io = TcpStream::connect(address).await.unwrap();
            io.set_nodelay(true).unwrap();
            let sent = Instant::now();
            io.write_all(request.as_bytes()).await.unwrap();
            let mut buffer = vec![0; 4096];
            let mut late = Vec::new();
            loop {
                let n = io.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..n]);
                let arrived = text.matches("data: {").count();
                let now = Instant::now();
                for _ in 0..arrived {
                    let due = sent + Duration::from_millis(8000 + inter_token * late.len() as u64);
                    late.push(now.saturating_duration_since(due).as_nanos() as u64);
                }
                events.fetch_add(arrived as u64, Ordering::Relaxed);
                if text.contains("[DONE]") || n == 0 {
                    return late;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let open = memory(pid).saturating_sub(idle) / STREAMS;
    let opened = cpu_of(pid);
    let begun = Instant::now();
    let mut all = Vec::new();
    while let Some(late) = tasks.join_next().await {
        all.extend(late.unwrap());
    }
    let spent = cpu_of(pid) - opened;
    assert!(all.len() >= STREAMS * TOKENS, "{} events", all.len());
    all.sort_unstable();
    println!(
        "  {STREAMS} connections, {} tokens/s: {open} bytes of resident memory each while waiting (bar 4096 of heap); CPU to \
         open one {:?}; CPU per token {:?} (bar 10 us), {:.2} of the floor; load {:.0} % of one core; events late by p50 {:?}, p99 {:?}",
        STREAMS as u64 * 1000 / inter_token,
        (opened - cpu_before) / STREAMS as u32,
        spent / all.len() as u32,
        (spent / all.len() as u32).as_secs_f64() / floor.as_secs_f64(),
        100.0 * spent.as_secs_f64() / begun.elapsed().as_secs_f64(),
        percentile(&all, 0.5),
        percentile(&all, 0.99),
    );
}
