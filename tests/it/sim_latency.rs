//! How long answers of the simulator take over real sockets, and what its histograms say then (simulator.md §16.4). A
//! machine under load makes everything later, nothing earlier: times are looked at from below. The exact ones are
//! tested in virtual time, in `src/simulator/engine/tests/times.rs`.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::sim::Sim;

fn ask(prompt: &str, stream: bool, remote: bool) -> Value {
    json!({"model": "m", "prompt": prompt, "stream": stream,
        "kv_transfer_params": {"do_remote_prefill": remote}})
}

/// When the first byte of a body came, and when its last one.
async fn timed(sim: &Sim, body: &Value) -> (Duration, Duration) {
    let begun = Instant::now();
    let response = sim.post("/v1/completions", body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut bytes = response.bytes_stream();
    let mut first = None;
    while let Some(chunk) = bytes.next().await {
        chunk.unwrap();
        first.get_or_insert(begun.elapsed());
    }
    (first.unwrap(), begun.elapsed())
}

/// The number on the line of the page that begins like this; 0 where there is none.
fn value(page: &str, start: &str) -> f64 {
    let line = page.lines().find_map(|l| l.strip_prefix(start));
    line.map_or(0.0, |n| n.trim().parse().unwrap())
}

#[tokio::test]
async fn answers_take_at_least_what_they_are_told_to() {
    let rows = [
        ("", "0", "0", "0", "1s", "50ms", false, false, (1250, 1250)),
        ("constant", "0", "50ms", "50ms", "0", "0", true, true, (50, 250)),
        (
            "per-token",
            "50ms",
            "50ms",
            "20ms",
            "1s",
            "50ms",
            true,
            false,
            (1250, 1450),
        ),
    ];
    let run = async |row| {
        let (calculator, ttft, itl, transfer, overhead, per_token, stream, remote, expected) = row;
        let expected: (u64, u64) = expected;
        let args = [
            "--model",
            "m",
            "--mode",
            "echo",
            "--latency-calculator",
            calculator,
            "--time-to-first-token",
            ttft,
            "--inter-token-latency",
            itl,
            "--kv-cache-transfer-latency",
            transfer,
            "--prefill-overhead",
            overhead,
            "--prefill-time-per-token",
            per_token,
        ];
        let sim = Sim::start(&args).await;
        let (first, total) = timed(&sim, &ask("This is a test.", stream, remote)).await;
        let ms = Duration::from_millis;
        assert!(
            first >= ms(expected.0) && total >= ms(expected.1),
            "{row:?}: {first:?} {total:?}"
        );
    };
    futures::future::join_all(rows.map(run)).await;
}

#[tokio::test]
async fn first_and_further_tokens_are_counted_each_where_it_belongs() {
    let args = ["--model", "m", "--mode", "echo"];
    let times = ["--time-to-first-token", "200ms", "--inter-token-latency", "100ms"];
    let sim = Sim::start(&[args, times].concat()).await;
    timed(&sim, &ask("This is a test.", false, false)).await;
    let page = sim.page().await;
    let name = "{model_name=\"m\"}";
    let below = "vllm:time_to_first_token_seconds_bucket{le=\"0.1\",model_name=\"m\"}";
    assert_eq!(value(&page, below), 0.0, "{page}");
    for (metric, count) in [
        ("time_to_first_token_seconds", 1.0),
        ("time_per_output_token_seconds", 4.0),
        ("inter_token_latency_seconds", 4.0),
    ] {
        assert_eq!(
            value(&page, &format!("vllm:{metric}_count{name}")),
            count,
            "{page}"
        );
    }
}

#[tokio::test]
async fn prefill_decode_and_inference_are_measured_streamed_or_not() {
    // Milliseconds: to the first token, per prompt token, between tokens, of a transfer, of it per token; from elsewhere.
    let rows = [
        (0, 0, 100, 0, 0, false),
        (900, 0, 100, 0, 0, false),
        (1000, 0, 100, 0, 0, false),
        (0, 100, 100, 0, 0, false),
        (0, 0, 0, 1000, 0, true),
        (5000, 5000, 0, 1000, 0, true),
        (0, 0, 0, 0, 100, true),
    ];
    let run = async |row: (u64, u64, u64, u64, u64, bool)| {
        let (first, per_token, between, transfer, transfer_per, remote) = row;
        let ms = |n: u64| format!("{n}ms");
        let spans = [first, per_token, between, transfer, transfer_per].map(ms);
        let args = [
            "--model",
            "m",
            "--mode",
            "echo",
            "--time-to-first-token",
            &spans[0],
            "--prefill-time-per-token",
            &spans[1],
            "--inter-token-latency",
            &spans[2],
            "--kv-cache-transfer-latency",
            &spans[3],
            "--kv-cache-transfer-time-per-token",
            &spans[4],
        ];
        let sim = Sim::start(&args).await;
        let (whole, streamed) = (ask("a b c d e", false, remote), ask("a b c d e", true, remote));
        let both = futures::future::join(timed(&sim, &whole), timed(&sim, &streamed));
        both.await;
        let constant_or = |constant: u64, per: u64| if constant > 0 { constant } else { 5 * per };
        let prefill = if remote {
            constant_or(transfer, transfer_per)
        } else {
            constant_or(first, per_token)
        };
        let decode = 4 * between;
        let page = sim.page().await;
        for (metric, expected) in [
            ("prefill", prefill),
            // A first token that is late shortens what comes after it: there is no least time.
            ("decode", 0),
            ("inference", prefill + decode),
        ] {
            let name = format!("vllm:request_{metric}_time_seconds");
            let expected = expected as f64 / 1000.0;
            let total = |what: &str| value(&page, &format!("{name}_{what}{{model_name=\"m\"}}"));
            assert_eq!(total("count"), 2.0, "{row:?} {metric}");
            // What the times add up to may be a rounding below.
            assert!(total("sum") >= 2.0 * expected - 1e-6, "{row:?} {metric}: {page}");
            for bound in ["0.3", "0.5", "0.8"] {
                if bound.parse::<f64>().unwrap() < expected {
                    let bucket = format!("{name}_bucket{{le=\"{bound}\",model_name=\"m\"}}");
                    assert_eq!(value(&page, &bucket), 0.0, "{row:?} {metric}: {page}");
                }
            }
        }
    };
    futures::future::join_all(rows.map(run)).await;
}
