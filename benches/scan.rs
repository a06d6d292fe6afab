//! Cost of a metrics page: the scan alone, and one scrape over loopback with the kernel's share. Bar: a page
//! of 50 KB is scanned in at most 30 microseconds.

#[path = "fixtures/vllm_page.rs"]
mod vllm_page;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use endpoint_picker::wire::prometheus::{Compiled, MetricSpec, Query, Readings, Winner, scan};
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
criterion_main!(benches);
