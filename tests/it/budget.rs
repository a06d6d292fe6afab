//! The bounds that all streams share: bytes under way, time for a request body, silence.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use tonic::transport::Channel;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, request_body, request_headers, response_body, response_headers,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

const PATH: &[(&str, &str)] = &[(":path", "/v1/completions")];
const BODY: &str = r#"{"model":"m","prompt":"hello"}"#;
const MB: usize = 1_000_000;
const BUFFERED: &str = "inference_extension_buffered_bytes";

async fn start(flags: &[&str]) -> Epp {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let options = flags
        .iter()
        .fold(Options::hermetic(&[server.address]), |o, f| o.flag(f));
    Epp::start(&options, 1).await
}

/// Most memory the process has had resident, bytes.
fn peak(epp: &Epp) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", epp.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let kib: usize = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    kib * 1024
}

/// Waits until the gauge of bytes under way is as `expected` says.
async fn buffered(epp: &Epp, expected: impl Fn(usize) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let page = epp.page().await.unwrap_or_default();
        let line = page
            .lines()
            .find_map(|l| l.strip_prefix(BUFFERED)?.strip_prefix(' '));
        if line.is_some_and(|n| expected(n.parse().unwrap())) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{BUFFERED} is {line:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends `megabytes` of a request that does not end.
async fn upload(client: &ExternalProcessorClient<Channel>, megabytes: usize) -> Exchange {
    let exchange = Exchange::open(client).await;
    exchange.send(request_headers(PATH, false)).await;
    exchange
        .send(request_body(r#"{"model":"m","prompt":""#, false))
        .await;
    for _ in 0..megabytes {
        exchange.send(request_body("x".repeat(MB), false)).await;
    }
    exchange
}

/// Sends a whole short request, which must be routed.
async fn short(to: SocketAddr) {
    let mut exchange = Exchange::open(&connect(to).await).await;
    exchange.send(request_headers(PATH, false)).await;
    exchange.send(request_body(BODY, true)).await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    assert_eq!(exchange.answer().await, Answer::RequestBody(BODY.into(), true));
}

fn dropped(answer: &Answer, status: i32, reason: &str) {
    let Answer::Immediate(code, text, (set, _)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(*code, status, "{text}");
    assert_eq!(
        set[..],
        [("x-llm-d-request-dropped-reason".into(), reason.into())],
        "{text}"
    );
}

#[tokio::test]
async fn unfinished_uploads_stay_within_the_budget_and_the_oldest_gives_way() {
    let mut epp = start(&["--max-buffered-bytes=8388608"]).await;
    short(epp.grpc).await;
    let before = peak(&epp);
    // Connections are dealt to two workers in turn, so that the next upload meets the one before on another thread.
    let mut last: Option<Exchange> = None;
    for _ in 0..30 {
        let next = upload(&connect(epp.grpc).await, 5).await;
        if let Some(mut oldest) = last.replace(next) {
            dropped(&oldest.answer().await, 503, "rejected-buffers-full");
            assert_eq!(oldest.next().await.unwrap(), None);
        }
        short(epp.grpc).await;
    }
    let grown = peak(&epp).saturating_sub(before);
    assert!(
        grown < 60 * MB,
        "150 MB were sent, {grown} bytes more were resident"
    );
    // The last one is whole, and goes on.
    let mut last = last.unwrap();
    last.send(request_body(r#""}"#, true)).await;
    assert!(matches!(last.answer().await, Answer::RequestHeaders(..)));
    let mut got = 0;
    loop {
        let Answer::RequestBody(piece, end) = last.answer().await else {
            panic!("no body")
        };
        got += piece.len();
        if end {
            break;
        }
    }
    assert!(got > 5 * MB);
    epp.eventually("inference_extension_streams_ended_early_total{reason=\"buffers_full\"} 29")
        .await;
    epp.eventually(&format!("{BUFFERED} 0")).await;
}

#[tokio::test]
async fn a_request_larger_than_the_whole_budget_is_413() {
    let mut epp = start(&["--max-buffered-bytes=1048576"]).await;
    epp.eventually("inference_extension_buffered_bytes_limit 1048576")
        .await;
    let mut exchange = upload(&connect(epp.grpc).await, 2).await;
    let Answer::Immediate(413, text, _) = exchange.answer().await else {
        panic!("not refused")
    };
    assert!(text.contains("1048576 bytes (--max-buffered-bytes)"), "{text}");
    epp.eventually(&format!("{BUFFERED} 0")).await;
}

#[tokio::test]
async fn a_request_body_that_does_not_come_in_time_is_408() {
    let mut epp = start(&["--request-body-timeout=300ms"]).await;
    let client = connect(epp.grpc).await;
    let mut routed = Exchange::open(&client).await;
    routed.send(request_headers(PATH, false)).await;
    routed.send(request_body(BODY, true)).await;
    assert!(matches!(routed.answer().await, Answer::RequestHeaders(..)));
    assert!(matches!(routed.answer().await, Answer::RequestBody(..)));
    let mut silent = Exchange::open(&client).await;
    let mut begun = upload(&client, 0).await;
    dropped(&begun.answer().await, 408, "rejected-body-timeout");
    assert_eq!(begun.next().await.unwrap(), None);
    let status = silent.next().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    epp.eventually("inference_extension_streams_ended_early_total{reason=\"body_timeout\"} 2")
        .await;
    // A request that is complete may wait for its response.
    routed.send(response_headers(&[(":status", "200")], true)).await;
    assert!(matches!(routed.answer().await, Answer::ResponseHeaders(_)));
    assert_eq!(routed.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_silent_stream_is_ended_and_a_busy_one_goes_on() {
    let mut epp = start(&["--stream-idle-timeout=500ms"]).await;
    let client = connect(epp.grpc).await;
    let mut exchanges = Vec::new();
    for _ in 0..2 {
        let mut exchange = Exchange::open(&client).await;
        exchange.send(request_headers(PATH, false)).await;
        exchange.send(request_body(BODY, true)).await;
        assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
        assert!(matches!(exchange.answer().await, Answer::RequestBody(..)));
        exchange
            .send(response_headers(&[(":status", "200")], false))
            .await;
        assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
        exchanges.push(exchange);
    }
    let (mut busy, mut silent) = (exchanges.remove(0), exchanges.remove(0));
    let talk = async {
        loop {
            busy.send(response_body("x", false)).await;
            assert_eq!(busy.answer().await, Answer::ResponseBody("x".into(), false));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let status = tokio::select! {
        () = talk => unreachable!(),
        ended = silent.next() => ended.unwrap_err(),
    };
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    epp.eventually("inference_extension_streams_ended_early_total{reason=\"idle\"} 1")
        .await;
    busy.send(response_body("", true)).await;
    assert_eq!(busy.answer().await, Answer::ResponseBody(String::new(), true));
}

#[tokio::test]
async fn a_routed_body_that_is_not_read_counts_until_it_is() {
    let mut epp = start(&[]).await;
    let channel = Channel::from_shared(format!("http://{}", epp.grpc))
        .unwrap()
        .initial_stream_window_size(70_000)
        .connect()
        .await
        .unwrap();
    let client = ExternalProcessorClient::new(channel);
    let mut unread = upload(&client, 5).await;
    unread.send(request_body(r#""}"#, true)).await;
    buffered(&epp, |n| n >= 5 * MB).await;
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 1")
        .await;
    buffered(&epp, |n| n >= 4 * MB).await;
    loop {
        if matches!(unread.answer().await, Answer::RequestBody(_, true)) {
            break;
        }
    }
    epp.eventually(&format!("{BUFFERED} 0")).await;
}
