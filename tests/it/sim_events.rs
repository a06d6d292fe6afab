//! The simulator's KV events, read by libzmq and msgpack of Python: frames, numbers, topics, layouts.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::epp::in_package;
use crate::support::ports;
use crate::support::sim::Sim;

/// A Python process that prints what it gets.
struct Reader {
    child: Child,
    _stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    port: u16,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reader {
    fn start(port: Option<u16>) -> Self {
        let python = in_package(".venv/bin/python");
        assert!(
            python.exists(),
            "no Python at {}: run `make venv`",
            python.display()
        );
        let mut child = Command::new(python)
            .arg(in_package("tests/sim/kv_events.py"))
            .args(port.map(|p| p.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let first = lines
            .recv_timeout(Duration::from_secs(30))
            .expect("the reader does not start: run `make venv`");
        Reader {
            _stdin: child.stdin.take(),
            child,
            lines,
            port: first.parse().unwrap(),
        }
    }

    fn endpoint(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// The next message.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(30)).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Events until there are so many.
    fn events(&self, n: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < n {
            events.extend(self.next()["events"].as_array().unwrap().clone());
        }
        events
    }
}

async fn sim(reader: &Reader, more: &[&str]) -> Sim {
    let endpoint = reader.endpoint();
    let mut args = vec![
        "--model",
        "m",
        "--mode",
        "echo",
        "--enable-kvcache",
        "--cache-generated-tokens",
        "--block-size",
        "8",
        "--kv-cache-size",
        "4",
        "--event-batch-size",
        "3",
        "--zmq-endpoint",
        &endpoint,
    ];
    args.extend_from_slice(more);
    Sim::start_with(&args, &[("POD_IP", "10.1.2.3")]).await
}

/// A prompt of `n` tokens, none of which is in one with another name. The echo makes it twice as long.
fn prompt(name: &str, n: usize) -> Value {
    let words: Vec<String> = (0..n).map(|i| format!("{name}{i} ")).collect();
    json!({"model": "m", "prompt": words.concat()})
}

#[tokio::test]
async fn messages_have_topic_number_and_events_of_every_block() {
    let reader = Reader::start(None);
    let sim = sim(&reader, &[]).await;
    // Two blocks of prompt and answer each; the third request makes room for itself.
    for name in ["a", "b", "c"] {
        assert_eq!(sim.answered("/v1/completions", &prompt(name, 8)).await.0, 200);
    }
    let mut events = Vec::new();
    let mut number = 1;
    while events.len() < 8 {
        let message = reader.next();
        assert_eq!(message["topic"], "kv@10.1.2.3@m");
        assert_eq!(
            (&message["sequence"], &message["sequence_bytes"]),
            (&json!(number), &json!(8))
        );
        assert_eq!(
            (&message["time_is_float"], &message["rank"]),
            (&json!(true), &json!(0))
        );
        let batch = message["events"].as_array().unwrap();
        assert!(batch.len() <= 3, "{batch:?}");
        events.extend(batch.clone());
        number += 1;
    }
    let kinds: Vec<&str> = events.iter().map(|e| e[0].as_str().unwrap()).collect();
    let (s, r) = ("BlockStored", "BlockRemoved");
    assert_eq!(kinds, [s, s, s, s, r, s, r, s]);
    for event in &events {
        assert!(event[1][0].is_u64(), "{event}");
        let rest = if event[0] == s {
            json!([null, null, 0, null, null])
        } else {
            json!([null])
        };
        assert_eq!(
            event.as_array().unwrap()[2..],
            *rest.as_array().unwrap(),
            "{event}"
        );
    }
    // The last block of the oldest request goes first.
    assert_eq!((&events[4][1], &events[6][1]), (&events[1][1], &events[0][1]));
}

#[tokio::test]
async fn other_layouts_carry_tokens_and_the_port_can_be_in_the_topic() {
    for (format, named) in [("request", false), ("map", true)] {
        let reader = Reader::start(None);
        let sim = sim(
            &reader,
            &["--kv-event-format", format, "--kv-event-topic", "ip-port"],
        )
        .await;
        assert_eq!(sim.answered("/v1/completions", &prompt("a", 16)).await.0, 200);
        let message = reader.next();
        assert_eq!(message["topic"], format!("kv@10.1.2.3:{}@m", sim.address.port()));
        let event = &message["events"][0];
        let (kind, hashes, tokens, size) = if named {
            (
                &event["type"],
                &event["block_hashes"],
                &event["token_ids"],
                &event["block_size"],
            )
        } else {
            (&event[0], &event[1], &event[3], &event[4])
        };
        assert_eq!((kind, size), (&json!("BlockStored"), &json!(8)));
        assert_eq!(hashes.as_array().unwrap().len(), 2);
        assert_eq!(tokens.as_array().unwrap().len(), 16);
    }
}

#[tokio::test]
async fn a_receiver_that_comes_late_or_back_gets_events() {
    let port = ports::free();
    let late = format!("tcp://127.0.0.1:{port}");
    let args = [
        "--model",
        "m",
        "--mode",
        "echo",
        "--enable-kvcache",
        "--cache-generated-tokens",
        "--block-size",
        "8",
        "--zmq-endpoint",
        &late,
    ];
    let sim = Sim::start_with(&args, &[("POD_IP", "10.1.2.3")]).await;
    assert_eq!(sim.answered("/v1/completions", &prompt("early", 8)).await.0, 200);
    let first = Reader::start(Some(port));
    assert_eq!(first.events(2).len(), 2, "what was waiting is sent");
    drop(first);
    let second = Reader::start(Some(port));
    // What is sent into a connection that is just breaking is lost: events go on until some arrive.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    for i in 0.. {
        assert_eq!(
            sim.answered("/v1/completions", &prompt(&format!("x{i}x"), 8))
                .await
                .0,
            200
        );
        if second.lines.recv_timeout(Duration::from_millis(200)).is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing arrives");
    }
}

#[tokio::test]
async fn a_sleeper_empties_its_cache_once_and_is_silent_until_its_cache_wakes() {
    let reader = Reader::start(None);
    let endpoint = reader.endpoint();
    let args = [
        "--model",
        "m",
        "--mode",
        "echo",
        "--enable-kvcache",
        "--cache-generated-tokens",
        "--enable-sleep-mode",
        "--block-size",
        "8",
        "--event-batch-size",
        "1",
        "--zmq-endpoint",
        &endpoint,
    ];
    let env = [("POD_IP", "10.1.2.3"), ("VLLM_SERVER_DEV_MODE", "1")];
    let sim = Sim::start_with(&args, &env).await;
    let post = async |path: &str| assert_eq!(sim.answered(path, &Value::Null).await.0, 200);
    let complete = async |name: &str| {
        let answered = sim.answered("/v1/completions", &prompt(name, 8)).await;
        assert_eq!(answered.0, 200);
    };
    let kinds = |events: &[Value]| -> Vec<String> {
        let kind = |e: &Value| e[0].as_str().unwrap().to_owned();
        events.iter().map(kind).collect()
    };
    complete("before").await;
    assert_eq!(kinds(&reader.events(2)), ["BlockStored"; 2]);
    post("/sleep").await;
    complete("asleep").await;
    // Awake, but for its cache.
    post("/wake_up?tags=weights").await;
    complete("half").await;
    post("/wake_up?tags=kv_cache").await;
    complete("after").await;
    // Events keep their order: anything said in between would be here.
    assert_eq!(
        kinds(&reader.events(3)),
        ["AllBlocksCleared", "BlockStored", "BlockStored"]
    );
}
