//! What the real `epp` writes to stderr: verbosity, encodings, times, stacks, the id of the request, and no payload.

use serde_json::Value;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, full_duplex, request_body, request_headers, response_body, response_headers,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

async fn start(flags: &[&str]) -> Epp {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut options = Options::hermetic(&[server.address]);
    options.flags.extend(flags.iter().map(|f| (*f).to_owned()));
    Epp::start(&options, 1).await
}

const SECRET: &str = "the-prompt-of-the-client";
const ANSWER: &str = "the-answer-of-the-model";

async fn exchange(epp: &Epp, id: &str) {
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let headers = [
        (":path", "/v1/completions"),
        ("x-request-id", id),
        ("authorization", "Bearer token-of-the-client"),
    ];
    exchange.send(full_duplex(request_headers(&headers, false))).await;
    let body = serde_json::json!({"model": "m", "prompt": SECRET}).to_string();
    exchange.send(request_body(body, true)).await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    assert!(matches!(exchange.answer().await, Answer::RequestBody(..)));
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body(ANSWER, true)).await;
    while exchange.next().await.unwrap().is_some() {}
}

async fn rejected(epp: &Epp, id: &str) {
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let headers = [(":path", "/v1/completions"), ("x-request-id", id)];
    exchange.send(full_duplex(request_headers(&headers, false))).await;
    exchange
        .send(request_body(format!("{{\"prompt\": \"{SECRET}"), true))
        .await;
    assert!(matches!(exchange.answer().await, Answer::Immediate(400, ..)));
}

fn lines(epp: &Epp) -> Vec<Value> {
    epp.log()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect()
}

/// The part of a console line at `at`: time, level, logger, caller, message, fields.
fn part(line: &str, at: usize) -> &str {
    line.split('\t').nth(at).unwrap()
}

#[tokio::test]
async fn the_start_says_version_mode_and_configuration() {
    let epp = start(&["--zap-encoder=json"]).await;
    let starting = lines(&epp).into_iter().find(|l| l["msg"] == "Starting").unwrap();
    assert_eq!(starting["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(starting["mode"], "file-discovery");
    assert_eq!(starting["level"], "info");
    let hash = format!(
        "inference_extension_config_info{{hash=\"{}\"}} 1",
        starting["config_hash"].as_str().unwrap()
    );
    assert!(epp.page().await.unwrap().lines().any(|l| l == hash));
}

#[tokio::test]
async fn lines_of_a_request_carry_its_id_and_never_a_payload() {
    let epp = start(&["--zap-encoder=json", "-v=5"]).await;
    exchange(&epp, "id-good").await;
    rejected(&epp, "id-bad").await;
    epp.says("Request rejected").await;
    epp.says("Request ended").await;
    let log = epp.log();
    for payload in [SECRET, ANSWER, "token-of-the-client"] {
        assert!(!log.contains(payload), "{payload} in\n{log}");
    }
    let of = |id: &str| -> Vec<String> {
        let mine = lines(&epp).into_iter().filter(|l| l["x-request-id"] == id);
        mine.map(|l| l["msg"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("id-good"), ["Request picked", "Request ended"]);
    assert_eq!(of("id-bad"), ["Request rejected", "Request ended"]);
}

#[tokio::test]
async fn the_verbosity_decides_what_is_written() {
    for (flags, rejections, picks) in [
        (&[][..], false, false),
        (&["-v=1"], false, false),
        (&["-v=2"], true, false),
        (&["-v=3"], true, true),
        (&["--zap-log-level=3"], true, true),
        (&["-v=5", "--zap-log-level=info"], false, false),
        (&["-v=5", "--zap-log-level=error"], false, false),
    ] {
        let mut epp = start(flags).await;
        exchange(&epp, "a").await;
        rejected(&epp, "b").await;
        epp.signal("TERM");
        epp.ended().await;
        let log = epp.log();
        assert_eq!(log.contains("Request rejected"), rejections, "{flags:?}\n{log}");
        assert_eq!(log.contains("Request picked"), picks, "{flags:?}\n{log}");
        assert_eq!(
            log.contains("Starting"),
            !flags.contains(&"--zap-log-level=error"),
            "{flags:?}"
        );
    }
}

#[tokio::test]
async fn the_encoder_is_console_in_development_and_json_otherwise() {
    for (flags, json) in [
        (&[][..], false),
        (&["--zap-devel=false"], true),
        (&["--zap-devel=false", "--zap-encoder=console"], false),
        (&["--zap-encoder=json"], true),
    ] {
        let epp = start(flags).await;
        let line = epp.says("Starting").await;
        assert_eq!(
            serde_json::from_str::<Value>(&line).is_ok(),
            json,
            "{flags:?} {line}"
        );
        if !json {
            assert_eq!((part(&line, 1), part(&line, 4)), ("INFO", "Starting"), "{line}");
        }
    }
}

#[tokio::test]
async fn times_are_written_as_asked_for() {
    for (encoding, shape) in [
        ("", "0000-00-00T00:00:00Z"),
        ("epoch", "0000000000.0"),
        ("millis", "0000000000000.0"),
        ("nanos", "0000000000000000000"),
        ("iso8601", "0000-00-00T00:00:00.000Z"),
        ("rfc3339nano", "0000-00-00T00:00:00.0Z"),
    ] {
        let flag = format!("--zap-time-encoding={encoding}");
        let flags: &[&str] = if encoding.is_empty() { &[] } else { &[&flag] };
        let line = start(flags).await.says("Starting").await;
        let time = part(&line, 0);
        let digits: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        // Of fractions whose length depends on the moment, the beginning is compared.
        let same = match shape.split_once(".0") {
            Some((whole, rest)) if !rest.starts_with('0') => digits.starts_with(whole),
            _ => digits == shape,
        };
        assert!(same, "{encoding}: {time}");
    }
}

#[tokio::test]
async fn stacks_are_written_from_the_level_of_the_flag_on() {
    let wrong = "apiVersion: nonsense\n";
    for (flags, stacked) in [
        (&["--zap-encoder=json"][..], false),
        (&["--zap-encoder=json", "--zap-stacktrace-level=error"], true),
        (&["--zap-encoder=json", "--zap-stacktrace-level=panic"], false),
    ] {
        let epp = start(flags).await;
        epp.configure(wrong);
        let line: Value = serde_json::from_str(&epp.says("Configuration refused").await).unwrap();
        let stack = line["stacktrace"].as_str().unwrap_or_default();
        assert_eq!(stack.contains("reload"), stacked, "{flags:?} {line}");
    }
    let epp = start(&["--zap-encoder=json", "--zap-stacktrace-level=info"]).await;
    let line: Value = serde_json::from_str(&epp.says("Starting").await).unwrap();
    assert!(line["stacktrace"].as_str().unwrap().contains("epp"), "{line}");
}

#[tokio::test]
async fn a_hundred_streams_that_fail_alike_are_not_a_hundred_lines() {
    let epp = start(&["--zap-encoder=json"]).await;
    let client = connect(epp.grpc).await;
    for _ in 0..100 {
        let mut exchange = Exchange::open(&client).await;
        exchange.send(request_headers(&[(":path", "/")], false)).await;
        exchange.send(request_body(vec![b'x'; 5 << 20], true)).await;
        while let Ok(Some(_)) = exchange.next().await {}
    }
    let failed = lines(&epp).iter().filter(|l| l["msg"] == "Stream failed").count();
    // Ten for each window of ten seconds the test takes.
    assert!((10..=60).contains(&failed), "{failed}\n{}", epp.log());
}
