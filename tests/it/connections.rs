//! Connections as the process bears them: bursts and resets on a shared connection, limits, idleness, silence. A client
//! that a proxy lets in may send any of it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, full_duplex, request_body, request_headers, response_headers,
};
use crate::support::frames::{self, DATA, Frames, GOAWAY};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::tls::{Offer, channel};

async fn start(change: impl FnOnce(Options) -> Options) -> Epp {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    Epp::start(&change(Options::hermetic(&[server.address])), 1).await
}

fn head(end: bool) -> envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest {
    let method = if end { "GET" } else { "POST" };
    full_duplex(request_headers(
        &[(":path", "/v1/chat/completions"), (":method", method)],
        end,
    ))
}

/// Opens a stream that is routed and waits for its response.
async fn victim(connection: &mut Frames, stream: u32) {
    let opening = [frames::open(stream), frames::message(stream, &head(true))];
    connection.send(&opening.concat()).await;
    connection.until(DATA, stream).await;
}

/// The stream still works: its response headers are answered.
async fn goes_on(connection: &mut Frames, stream: u32) {
    let message = frames::message(stream, &response_headers(&[(":status", "200")], false));
    connection.send(&message).await;
    connection.until(DATA, stream).await;
}

async fn exchange(grpc: SocketAddr) -> Exchange {
    let mut exchange = Exchange::open(&connect(grpc).await).await;
    exchange.send(head(true)).await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    exchange
}

#[tokio::test]
async fn cancelled_requests_in_one_burst_end_only_themselves() {
    let mut epp = start(|o| o.flag("--threads=1")).await;
    let mut connection = Frames::connect(epp.grpc).await;
    victim(&mut connection, 1).await;
    let cancelled = |stream| {
        [
            frames::open(stream),
            frames::message(stream, &head(true)),
            frames::cancel(stream),
        ]
        .concat()
    };
    let burst: Vec<u8> = (0..3_000).flat_map(|i| cancelled(3 + 2 * i)).collect();
    connection.send(&burst).await;
    goes_on(&mut connection, 1).await;
    epp.eventually("inference_extension_connections{port=\"ext_proc\"} 1")
        .await;
}

#[tokio::test]
async fn a_peer_that_ends_its_streams_gets_trailers_and_no_reset() {
    let epp = start(|o| o).await;
    let mut connection = Frames::connect(epp.grpc).await;
    for stream in [1, 3, 5] {
        victim(&mut connection, stream).await;
        goes_on(&mut connection, stream).await;
        let last = crate::support::ext_proc::response_body(b"x", true);
        connection.send(&frames::message(stream, &last)).await;
        connection.until(DATA, stream).await;
        connection.send(&frames::frame(DATA, 1, stream, b"")).await;
        let ended = connection.until(frames::HEADERS, stream).await;
        assert_eq!(ended.flags & 1, 1, "trailers end the stream");
    }
    // Whatever follows the trailers comes before the answer on a later stream.
    let opening = [frames::open(7), frames::message(7, &head(true))].concat();
    connection.send(&opening).await;
    loop {
        let frame = connection.next().await.expect("the connection is open");
        assert_ne!(frame.kind, frames::RST_STREAM, "stream {}", frame.stream);
        if (frame.kind, frame.stream) == (DATA, 7) {
            break;
        }
    }
}

#[tokio::test]
async fn thousands_of_one_byte_pieces_end_nobody() {
    let epp = start(|o| o.flag("--threads=1")).await;
    let mut connection = Frames::connect(epp.grpc).await;
    victim(&mut connection, 1).await;
    let mut burst = [frames::open(3), frames::message(3, &head(false))].concat();
    let piece = frames::message(3, &request_body(b" ", false));
    burst.extend(piece.repeat(12_000));
    let last = br#"{"model":"m","prompt":"p"}"#;
    burst.extend(frames::message(3, &request_body(last, true)));
    connection.send(&burst).await;
    connection.until(DATA, 3).await;
    goes_on(&mut connection, 1).await;
}

#[tokio::test]
async fn many_streams_with_a_small_message_each_survive_while_a_large_body_is_read() {
    let epp = start(|o| o.flag("--threads=1")).await;
    let busy = Exchange::open(&connect(epp.grpc).await).await;
    let mut connection = Frames::connect(epp.grpc).await;
    victim(&mut connection, 1).await;
    let turn = r#"{"role":"user","content":[{"type":"text","text":"word"}]},"#;
    let turns = turn.repeat(8_000_000 / turn.len());
    let chat = format!(
        "{{\"model\":\"m\",\"messages\":[{}]}}",
        turns.trim_end_matches(',')
    );
    busy.send(head(false)).await;
    let pieces: Vec<&[u8]> = chat.as_bytes().chunks(60_000).collect();
    for (i, piece) in pieces.iter().enumerate() {
        busy.send(request_body(piece, i + 1 == pieces.len())).await;
    }
    let streams = 10_000;
    let opened = |stream| [frames::open(stream), frames::message(stream, &head(true))].concat();
    let burst: Vec<u8> = (0..streams).flat_map(|i| opened(3 + 2 * i)).collect();
    connection.send(&burst).await;
    let mut answered = 0;
    while answered < streams {
        let frame = connection.next().await.expect("the connection is open");
        assert_ne!(
            frame.kind,
            GOAWAY,
            "{:?}",
            String::from_utf8_lossy(&frame.payload)
        );
        answered += u32::from(frame.kind == DATA);
    }
    goes_on(&mut connection, 1).await;
}

#[tokio::test]
async fn a_flood_of_resets_costs_no_memory_and_holds_up_nobody() {
    let epp = start(|o| o.flag("--threads=1")).await;
    let before = resident(&epp);
    let mut flood = Frames::connect(epp.grpc).await;
    let opened = |stream| [frames::open(stream), frames::cancel(stream)].concat();
    let mut next = 1;
    for _ in 0..20 {
        let burst: Vec<u8> = (0..5_000).flat_map(|i| opened(next + 2 * i)).collect();
        next += 10_000;
        flood.send(&burst).await;
        exchange(epp.grpc).await;
    }
    let after = resident(&epp);
    assert!(after < before + 32 * 1024, "{before} kB, then {after} kB");
}

fn resident(epp: &Epp) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", epp.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_stream_that_is_not_read_leaves_the_others_their_window() {
    let epp = start(|o| o.flag("--threads=1")).await;
    let mut connection = Frames::connect(epp.grpc).await;
    // Settings that leave new streams no window: nothing of an answer can be sent on them.
    let none = [&4_u16.to_be_bytes()[..], &0_u32.to_be_bytes()[..]].concat();
    connection
        .send(&frames::frame(frames::SETTINGS, 0, 0, &none))
        .await;
    let mut unread = [frames::open(1), frames::message(1, &head(true))].concat();
    unread.extend(frames::message(
        1,
        &response_headers(&[(":status", "200")], false),
    ));
    connection.send(&unread).await;
    // As much as its own window takes.
    let piece = vec![b'x'; 100_000];
    let body = crate::support::ext_proc::response_body(&piece, false);
    connection.send(&frames::message(1, &body).repeat(2)).await;
    let all = [&4_u16.to_be_bytes()[..], &0x7fff_ffff_u32.to_be_bytes()[..]].concat();
    connection
        .send(&frames::frame(frames::SETTINGS, 0, 0, &all))
        .await;
    victim(&mut connection, 3).await;
    goes_on(&mut connection, 3).await;
}

#[tokio::test]
async fn connections_without_a_stream_are_ended_and_those_with_one_stay() {
    let mut epp = start(|o| o.flag("--connection-idle-timeout=300ms")).await;
    let mut used = Frames::connect(epp.grpc).await;
    victim(&mut used, 1).await;
    let mut idle = Frames::connect(epp.grpc).await;
    idle.closed().await;
    epp.eventually("inference_extension_connections{port=\"ext_proc\"} 1")
        .await;
    goes_on(&mut used, 1).await;
}

#[tokio::test]
async fn a_full_port_takes_newcomers_for_idle_connections_and_keeps_those_at_work() {
    let mut epp = start(|o| o.flag("--max-connections=4")).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(epp.grpc).await.unwrap());
        silent.push(Frames::connect(epp.grpc).await.into_inner());
    }
    let mut at_work = Vec::new();
    for _ in 0..4 {
        let mut connection = Frames::connect(epp.grpc).await;
        victim(&mut connection, 1).await;
        at_work.push(connection);
    }
    let mut refused = TcpStream::connect(epp.grpc).await.unwrap();
    let mut rest = Vec::new();
    let _ = refused.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    for connection in &mut at_work {
        goes_on(connection, 1).await;
    }
    epp.eventually("inference_extension_connection_failures_total{port=\"ext_proc\",reason=\"refused\"} 1")
        .await;
    epp.says("Connection closed for a newer one").await;
}

#[tokio::test]
async fn idle_connections_on_one_port_leave_the_others_their_descriptors() {
    let epp = start(|mut o| {
        o.descriptors = Some(512);
        o
    })
    .await;
    let mut idle = Vec::new();
    for port in [epp.grpc, epp.health, epp.metrics] {
        for _ in 0..600 {
            idle.push(TcpStream::connect(port).await.unwrap());
        }
        assert!(epp.page().await.is_some(), "metrics");
        alive(&epp).await;
        exchange(epp.grpc).await;
    }
}

/// Liveness is answered.
async fn alive(epp: &Epp) {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", epp.health)).unwrap();
    let check = async {
        let mut health = HealthClient::new(channel.connect().await.unwrap());
        let service = "liveness".into();
        health.check(HealthCheckRequest { service }).await.unwrap()
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), check);
    assert_eq!(answer.await.expect("liveness in time").into_inner().status, 1);
}

#[tokio::test]
async fn watches_are_limited_and_checks_are_not() {
    let epp = start(|o| o).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", epp.health)).unwrap();
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        let mut health = HealthClient::new(endpoint.connect().await.unwrap());
        for _ in 0..32 {
            match health.watch(HealthCheckRequest::default()).await {
                Ok(watch) => open.push(watch.into_inner()),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                    refused += 1;
                }
            }
        }
        alive(&epp).await;
    }
    assert_eq!((open.len(), refused), (512, 128));
}

#[tokio::test]
async fn silent_connections_hold_up_no_handshake() {
    let epp = start(|o| o.flag("--secure-serving=true")).await;
    let mut silent = Vec::new();
    for _ in 0..2_000 {
        silent.push(TcpStream::connect(epp.grpc).await.unwrap());
    }
    let offer = Offer::default();
    let connected = channel(epp.grpc, &offer);
    let connected = tokio::time::timeout(Duration::from_secs(8), connected).await;
    connected.expect("before the silent ones are given up").unwrap();
}

#[tokio::test]
async fn half_sent_heads_hold_up_no_scrape() {
    let epp = start(|o| o).await;
    let mut half = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(epp.metrics).await.unwrap();
        tcp.write_all(b"GET /metr").await.unwrap();
        half.push(tcp);
    }
    assert!(epp.page().await.is_some());
}

#[tokio::test]
async fn a_connection_that_ends_in_an_error_is_counted_and_said() {
    let mut epp = start(|o| o).await;
    let mut connection = Frames::connect(epp.grpc).await;
    victim(&mut connection, 1).await;
    // A window update on a stream that was never opened.
    let bad = frames::frame(frames::WINDOW_UPDATE, 0, 9, &1_u32.to_be_bytes());
    connection.send(&bad).await;
    connection.closed().await;
    epp.eventually("inference_extension_connection_failures_total{port=\"ext_proc\",reason=\"protocol\"} 1")
        .await;
    epp.says("Connection ended by an HTTP/2 error").await;
}

#[tokio::test]
async fn a_peer_that_never_reads_costs_bounded_memory() {
    let epp = start(|o| o.flag("--threads=1")).await;
    let before = resident(&epp);
    let mut deaf = Frames::connect(epp.grpc).await;
    // Each PING asks for an answer.
    let pings = frames::frame(6, 0, 0, &[7; 8]).repeat(10_000);
    let flood = async {
        for _ in 0..500 {
            deaf.send(&pings).await;
        }
    };
    tokio::select! {
        () = flood => {}
        // It stops when the server reads no more.
        () = async { for _ in 0..20 { exchange(epp.grpc).await; tokio::time::sleep(Duration::from_millis(20)).await; } } => {}
    }
    let after = resident(&epp);
    assert!(after < before + 32 * 1024, "{before} kB, then {after} kB");
}
