//! KV events that are asked for again, by libzmq and msgpack of Python: frames, the window, ranks, bad peers.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::epp::in_package;
use crate::support::ports;
use crate::support::sim::{Sim, ports_in_a_row};

/// The number of the message that ends an answer.
const END: u64 = u64::MAX;

/// A simulator whose events go to nobody but who asks.
async fn sim(replay: u16, more: &[&str]) -> Sim {
    let endpoint = format!("tcp://127.0.0.1:{replay}");
    let mut args = vec![
        "--model",
        "m",
        "--mode",
        "echo",
        "--enable-kvcache",
        "--cache-generated-tokens",
        "--cache-generated-tokens",
    ];
    args.extend(["--block-size", "8", "--event-batch-size", "2"]);
    args.extend(["--kv-events-replay-endpoint", &endpoint]);
    args.extend_from_slice(more);
    if !more.contains(&"--zmq-endpoint") {
        args.extend(["--zmq-endpoint", ""]);
    }
    Sim::start_with(&args, &[("POD_IP", "10.1.2.3")]).await
}

/// What the answer holds, the end included.
async fn asked(port: u16, first: u64, more: &[&str]) -> Vec<Value> {
    let python = in_package(".venv/bin/python");
    assert!(
        python.exists(),
        "no Python at {}: run `make venv`",
        python.display()
    );
    let mut command = Command::new(python);
    command
        .arg(in_package("tests/sim/kv_replay.py"))
        .args([port.to_string(), first.to_string()])
        .args(more);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Asks until the newest message has this number.
async fn asked_until(port: u16, first: u64, newest: u64) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = asked(port, first, &[]).await;
        let at = answer.len().checked_sub(2).map(|at| &answer[at]["sequence"]);
        if at == Some(&json!(newest)) {
            return answer;
        }
        assert!(Instant::now() < deadline, "no message {newest} in {answer:?}");
    }
}

/// A request that fills `blocks` blocks (prompt and echo), none of which is in one with another name.
async fn fill(sim: &Sim, name: &str, blocks: usize) {
    let words: Vec<String> = (0..blocks * 4).map(|i| format!("{name}{i} ")).collect();
    let body = json!({"model": "m", "prompt": words.concat()});
    assert_eq!(sim.answered("/v1/completions", &body).await.0, 200);
}

fn sequences(answer: &[Value]) -> Vec<u64> {
    answer.iter().map(|m| m["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn messages_come_again_from_any_number_as_far_as_they_are_kept() {
    let port = ports::free();
    let sim = sim(port, &["--kv-events-replay-queue-size", "3"]).await;
    // Two events a message: five messages, of which three are kept.
    for name in ["a", "b", "c", "d", "e"] {
        fill(&sim, name, 2).await;
    }
    let all = asked_until(port, 0, 5).await;
    for (first, expected) in [
        (0, &[3, 4, 5, END][..]),
        (1, &[3, 4, 5, END]),
        (4, &[4, 5, END]),
        (5, &[5, END]),
        (6, &[END]),
        (END, &[END]),
    ] {
        assert_eq!(
            sequences(&asked(port, first, &[]).await),
            expected,
            "from {first}"
        );
    }
    for message in &all[..3] {
        assert_eq!(message["topic"], json!(["kv@10.1.2.3@m"]));
        assert_eq!(
            (&message["sequence_bytes"], &message["rank"]),
            (&json!(8), &json!(0))
        );
        let events = message["events"].as_array().unwrap();
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|e| e[0] == "BlockStored"), "{message}");
    }
    // The end has an empty topic and no events.
    let end = json!({"topic": [""], "sequence": END, "sequence_bytes": 8});
    assert_eq!(all[3], end);
    // A REQ gets what a DEALER gets, as far as it can read.
    assert_eq!(asked(port, 4, &["req"]).await, [all[1].clone()]);
}

#[tokio::test]
async fn the_frames_can_be_those_of_vllm_and_blocks_name_their_parent() {
    let port = ports::free();
    let more = [
        "--kv-events-replay-frames",
        "vllm",
        "--kv-event-format",
        "request",
    ];
    let sim = sim(port, &more).await;
    fill(&sim, "a", 2).await;
    let answer = asked_until(port, 1, 1).await;
    assert_eq!(sequences(&answer), [1, END]);
    assert!(answer.iter().all(|m| m["topic"] == json!([])), "{answer:?}");
    let events = answer[0]["events"].as_array().unwrap();
    // The prompt's block, then the answer's.
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!((&events[0][2], &events[1][2]), (&json!(0), &events[0][1][0]));
    for event in events {
        assert_eq!(event[3].as_array().unwrap().len(), 8, "{event}");
    }
}

#[tokio::test]
async fn a_receiver_that_comes_late_asks_for_what_it_has_missed() {
    let (port, nobody) = (ports::free(), ports::free());
    let endpoint = format!("tcp://127.0.0.1:{nobody}");
    let sim = sim(port, &["--zmq-endpoint", &endpoint]).await;
    fill(&sim, "a", 4).await;
    let answer = asked_until(port, 0, 2).await;
    assert_eq!(sequences(&answer), [1, 2, END]);
}

#[tokio::test]
async fn every_rank_answers_on_its_own_port_for_itself() {
    let port = ports_in_a_row(3);
    let http = ports_in_a_row(3);
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let args = [
        "--model",
        "m",
        "--mode",
        "echo",
        "--enable-kvcache",
        "--cache-generated-tokens",
        "--block-size",
        "8",
        "--event-batch-size",
        "2",
        "--zmq-endpoint",
        "",
        "--kv-events-replay-endpoint",
        &endpoint,
        "--kv-event-topic",
        "ip-port",
        "--data-parallel-size",
        "3",
    ];
    let env = [("POD_IP", "10.1.2.3")];
    let mut sim = Sim::launch_on(http, &args, &env).serving().await;
    for rank in 0..3 {
        sim.address.set_port(http + rank);
        // As many messages as the rank's number says, and one more.
        for i in 0..=rank {
            fill(&sim, &format!("r{rank}x{i}x"), 2).await;
        }
    }
    for rank in 0..3 {
        let answer = asked_until(port + rank, 0, u64::from(rank) + 1).await;
        let (end, messages) = answer.split_last().unwrap();
        assert_eq!(end["sequence"], json!(END));
        assert_eq!(messages.len(), usize::from(rank) + 1);
        for message in messages {
            assert_eq!(message["rank"], json!(rank));
            let topic = format!("kv@10.1.2.3:{}@m", http + rank);
            assert_eq!(message["topic"], json!([topic]));
        }
    }
}

#[tokio::test]
async fn peers_that_talk_nonsense_are_closed_and_hold_up_nobody() {
    let port = ports::free();
    let sim = sim(port, &[]).await;
    fill(&sim, "a", 2).await;
    let greeting = endpoint_picker::wire::zmtp::greeting();
    let after = |bytes: &[u8]| [&greeting[..], bytes].concat();
    let ready = endpoint_picker::wire::zmtp::ready;
    let huge = [&[2][..], &u64::MAX.to_be_bytes()].concat();
    let many_parts = [1, 0].repeat(100);
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: a-long-enough-name-for-a-greeting.example.com\r\n\r\n".to_vec(),
        after(&huge),
        after(&ready("PUB")),
        after(b"\0\x01x"),
        after(&[&ready("DEALER")[..], &huge].concat()),
        after(&[&ready("DEALER")[..], &many_parts].concat()),
    ] {
        let mut peer = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        peer.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let closed = timeout(Duration::from_secs(20), peer.read_to_end(&mut answer)).await;
        // A reset closes, too.
        closed.expect("it is not closed").unwrap_or_default();
        assert!(answer.starts_with(&greeting), "{answer:?}");
    }
    // Requests that are none are passed over; one that is half there waits for its rest.
    let mut peer = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut bytes = after(&ready("DEALER"));
    bytes.extend(b"\0\x01x");
    bytes.extend(b"\x01\0\0\x03abc");
    bytes.extend(b"\x01\0\0\x08\0\0");
    peer.write_all(&bytes).await.unwrap();
    assert_eq!(sequences(&asked_until(port, 0, 1).await), [1, END]);
    peer.write_all(&[0, 0, 0, 0, 0, 9]).await.unwrap();
    let mut answer = vec![0; 64 + ready("ROUTER").len() + 16];
    peer.read_exact(&mut answer).await.unwrap();
    let end = [&b"\x01\0\x01\0\x01\x08"[..], &END.to_be_bytes(), &[0, 0]].concat();
    assert!(answer.ends_with(&end), "{answer:?}");
}
