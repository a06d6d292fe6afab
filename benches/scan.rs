//! Cost of a metrics page: the scan alone, and one scrape over loopback with the kernel's share. Bar: a page
//! of 50 KB is scanned in at most 30 microseconds.

#![allow(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark fails by panicking"
)]

#[path = "load/thread.rs"]
mod thread;
#[path = "fixtures/vllm_page.rs"]
mod vllm_page;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use endpoint_picker::base::clock::Clock;
use endpoint_picker::datalayer::{Poller, PollerSettings};
use endpoint_picker::datastore::Datastore;
use endpoint_picker::model::endpoint::EndpointSpec;
use endpoint_picker::wire::prometheus::{Compiled, MetricSpec, Query, Readings, Winner, scan};
use thread::on_cpu;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use vllm_page::VllmPage;

fn wanted() -> Compiled {
    let query = |name: &str, winner| Query {
        spec: MetricSpec {
            name: name.into(),
            labels: Vec::new(),
        },
        winner,
        keep_labels: name.ends_with("_info"),
    };
    Compiled::new(vec![
        query("vllm:num_requests_waiting", Winner::Latest),
        query("vllm:num_requests_running", Winner::Latest),
        query("vllm:kv_cache_usage_perc", Winner::Latest),
        query("vllm:lora_requests_info", Winner::LargestValue),
        query("vllm:cache_config_info", Winner::Latest),
    ])
}

fn scan_page(c: &mut Criterion) {
    let page = VllmPage::default().render();
    let wanted = wanted();
    let mut readings = Readings::default();
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Bytes(page.len() as u64));
    group.bench_function("vllm page", |b| {
        b.iter(|| {
            scan(page.as_bytes(), &wanted, &mut readings);
            readings.get(0).map(|hit| hit.value)
        });
    });
    group.finish();
}

criterion_group!(benches, scan_page);

const ENDPOINTS: u16 = 100;

/// Serves `page` on all of loopback, from a thread of its own, and counts the answers.
fn serve(page: &str) -> (u16, Arc<AtomicU64>) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    );
    let answer: Arc<[u8]> = answer.into_bytes().into();
    let served = Arc::new(AtomicU64::new(0));
    let count = served.clone();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer_all(stream, answer.clone(), count.clone()));
            }
        });
    });
    (port, served)
}

async fn answer_all(mut stream: TcpStream, answer: Arc<[u8]>, served: Arc<AtomicU64>) {
    let mut request = [0; 2048];
    while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        served.fetch_add(1, Ordering::Relaxed);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs the real poller on this thread over loopback and prints what one scrape costs it.
fn scrape_over_loopback() {
    let (port, served) = serve(&VllmPage::default().render());
    let datastore = Arc::new(Datastore::new("bench"));
    let spec = |i: u16| EndpointSpec {
        namespace: "default".into(),
        name: format!("endpoint-{i}"),
        address: ([127, 0, 1, u8::try_from(i).unwrap()], port).into(),
        metrics_address: None,
        metrics_path: None,
        labels: BTreeMap::new(),
    };
    datastore.set_endpoints((0..ENDPOINTS).map(spec).collect());
    let poller = Poller::new(PollerSettings::default(), datastore.clone(), Clock::System).unwrap();
    runtime().block_on(async {
        let token = CancellationToken::new();
        let task = tokio::spawn(poller.run(token.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, scraped, start) = (on_cpu(), served.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (cpu, took) = (on_cpu() - before, start.elapsed());
        let scrapes = served.load(Ordering::Relaxed) - scraped;
        token.cancel();
        task.await.unwrap();
        let each = cpu / u32::try_from(scrapes).unwrap().max(1);
        let cores = cpu.as_secs_f64() / took.as_secs_f64();
        println!("poller, {ENDPOINTS} endpoints, every 50 ms, over loopback:");
        println!("  {scrapes} scrapes in {took:.1?}: {each:.1?} of CPU each, {cores:.3} cores in all");
    });
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    scrape_over_loopback();
}
