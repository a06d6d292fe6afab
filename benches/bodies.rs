//! Cost of the worst request bodies of 32 MiB: CPU time of one thread to join the pieces, read the body and hash the
//! prompt, in one piece, and the bytes allocated meanwhile beside the body itself. Bars: 100 ms; 2 bodies (the joined
//! copy and as much again). `cargo bench --bench bodies [-- SHAPE…]`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

#[path = "load/thread.rs"]
mod thread;

use std::alloc::System;
use std::time::Duration;

use bytes::Bytes;
use endpoint_picker::model::body::Body;
use endpoint_picker::model::request::Api;
use endpoint_picker::prefix::BlockHasher;
use endpoint_picker::wire::openai;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use thread::on_cpu;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The default of `--max-request-body-size`.
const BODY: usize = 32 << 20;
/// Data messages of a proxy are about this long.
const PIECE: usize = 64 << 10;
const BAR: Duration = Duration::from_millis(100);

/// Name, API, what stands before, what is repeated with commas, how often at most, what stands behind.
type Shape = (&'static str, Api, &'static str, String, usize, &'static str);

fn shapes() -> Vec<Shape> {
    use Api::{ChatCompletions as Chat, Completions as Text, Conversations as Items};
    const MANY: usize = usize::MAX;
    let values = endpoint_picker::wire::json::MAX_VALUES as usize - 10;
    let list = |name, api, before, unit: &str, each: usize, behind| {
        (name, api, before, unit.to_owned(), values / each, behind)
    };
    let text = |name, unit: &str| {
        (
            name,
            Text,
            r#"{"model":"m","prompt":""#,
            unit.repeat(1 << 20),
            MANY,
            "\"}",
        )
    };
    let content = r#"{"model":"m","messages":[{"content":["#;
    let messages = r#"{"model":"m","messages":["#;
    let other = r#"{"model":"m","prompt":"p","x":["#;
    vec![
        list("blocks {\"\":0}", Chat, content, r#"{"":0}"#, 2, "]}]}"),
        list("blocks {}", Chat, content, "{}", 2, "]}]}"),
        list(
            "blocks {\"\\u0074ype\":\"\"}",
            Chat,
            content,
            r#"{"\u0074ype":""}"#,
            2,
            "]}]}",
        ),
        list("messages {}", Chat, messages, "{}", 2, "]}"),
        list(
            "messages {\"role\":\"\"}",
            Chat,
            messages,
            r#"{"role":""}"#,
            2,
            "]}",
        ),
        list("items {}", Items, r#"{"model":"m","items":["#, "{}", 2, "]}"),
        list("prompt \"\"", Text, r#"{"model":"m","prompt":["#, "\"\"", 1, "]}"),
        list("prompt 1", Text, r#"{"model":"m","prompt":["#, "1", 1, "]}"),
        list(
            "prompt 12345",
            Text,
            r#"{"model":"m","prompt":["#,
            "12345",
            1,
            "]}",
        ),
        list("other []", Text, other, "[]", 2, "]}"),
        list("other 1", Text, other, "1", 1, "]}"),
        list(
            "keys \"\":0",
            Chat,
            r#"{"model":"m","messages":[{}],"#,
            "\"\":0",
            1,
            "}",
        ),
        list(
            "keys \"\\u0061\":0",
            Chat,
            r#"{"model":"m","messages":[{}],"#,
            r#""\u0061":0"#,
            1,
            "}",
        ),
        text("text x", "x"),
        text("text \\n", r"\n"),
        text("text \\u00e9", r"\u00e9"),
        text("text é", "é"),
    ]
}

/// A body of the shape; what the limit on values leaves over is white space.
fn body((_, _, before, unit, times, behind): &Shape) -> String {
    let comma = if before.ends_with('"') { "" } else { "," };
    let each = unit.len() + comma.len();
    let times = ((BODY - before.len() - behind.len()) / each).min(*times);
    let list = vec![unit.as_str(); times].join(comma);
    let text = format!("{before}{list}{behind}");
    format!("{text}{}", " ".repeat(BODY - text.len()))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("| body of 32 MiB | CPU, ms | bytes allocated / body | outcome | bar |");
    println!("|---|---|---|---|---|");
    for shape in shapes() {
        if !args.is_empty() && !args.iter().any(|a| shape.0.contains(a)) {
            continue;
        }
        let whole = Bytes::from(body(&shape));
        let mut best = (Duration::MAX, 0, String::new());
        for _ in 0..5 {
            let mut body = Body::default();
            (0..whole.len())
                .step_by(PIECE)
                .for_each(|at| body.push(whole.slice(at..whole.len().min(at + PIECE))));
            let allocated = Region::new(ALLOCATOR);
            let began = on_cpu();
            let outcome = read(&mut body, shape.1);
            let took = on_cpu() - began;
            if took < best.0 {
                best = (took, allocated.change().bytes_allocated, outcome);
            }
        }
        let (took, allocated, outcome) = best;
        let ratio = allocated as f64 / whole.len() as f64;
        let bar = if took <= BAR && ratio <= 2.0 {
            "met"
        } else {
            "MISSED"
        };
        println!(
            "| `{}` | {:.1} | {ratio:.2} | {outcome} | {bar} |",
            shape.0,
            took.as_secs_f64() * 1e3
        );
    }
}

fn read(body: &mut Body, api: Api) -> String {
    match openai::parse(&body.contiguous(), api) {
        Err(error) => error.to_string(),
        Ok(parsed) => match parsed.prompt {
            Err(error) => error.to_owned(),
            Ok(prompt) => {
                let mut hashes = Vec::new();
                BlockHasher::new(1).blocks("m", &prompt, 64, 256, &mut hashes);
                format!("routed, {} blocks", hashes.len())
            }
        },
    }
}
