//! Resident memory of `epp` with 5,000 streams open that each carried a 60 KB body and wait for their first
//! token, over 100 endpoints; and the CPU of `epp` when nothing but scraping happens.
//! `cargo bench --bench memory [-- streams|idle]`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

mod load;
#[path = "fixtures/vllm_page.rs"]
mod vllm_page;

use std::time::{Duration, Instant};

use load::client::{self, Exchange};
use load::epp::Epp;
use load::pool::Pool;
use load::shapes;

const STREAMS: usize = 5_000;
const ENDPOINTS: usize = 100;
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| a == name);
    println!("| what | measured | bar |");
    println!("|---|---|---|");
    if wanted("streams") {
        streams();
    }
    if wanted("idle") {
        idle();
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

fn streams() {
    let pool = Pool::start(
        ENDPOINTS,
        "vllm:num_requests_waiting 0\nvllm:num_requests_running 1\n",
    );
    let (server, _files) = Epp {
        pool: &pool,
        core: None,
        scrape_interval: "50ms",
        flags: &[],
    }
    .start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let before = server.resident();
    let shape = shapes::waiting();
    let open = runtime.block_on(async {
        let connection = client::connect(server.address).await;
        let mut open = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            let mut exchange = Exchange::open(&connection).await;
            for step in &shape.steps {
                exchange.step(&step.frames, step.awaited).await;
            }
            open.push(exchange);
        }
        open
    });
    let after = server.resident();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "| {STREAMS} streams of 60 KB bodies waiting, {ENDPOINTS} endpoints | {:.0} MB resident ({:.0} MB before, {:.1} KB a stream) | 150 MB {} |",
        mb(after),
        mb(before),
        after.saturating_sub(before) as f64 / STREAMS as f64 / 1e3,
        verdict(mb(after) <= 150.0)
    );
    drop(open);
}

fn idle() {
    let page = vllm_page::VllmPage::default().render();
    let pool = Pool::start(ENDPOINTS, &page);
    let (server, _files) = Epp {
        pool: &pool,
        core: None,
        scrape_interval: "50ms",
        flags: &[],
    }
    .start();
    // Connections are made and the first scrapes are over.
    let warm = Instant::now() + Duration::from_secs(2);
    while Instant::now() < warm {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let (before, started) = (server.cpu(), Instant::now());
    while started.elapsed() < IDLE {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let cores = (server.cpu() - before).as_secs_f64() / started.elapsed().as_secs_f64();
    println!(
        "| idle, {ENDPOINTS} endpoints scraped every 50 ms (pages of {} KB) | {cores:.3} core | 0.25 core {} |",
        page.len() / 1000,
        verdict(cores <= 0.25)
    );
}
