//! The first signal drains: not ready, requests are served on until none has been open for a while, open streams finish.
//! The drain has a limit, and a second signal ends it.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{Answer, Exchange, connect, request_headers, response_body, response_headers};
use crate::support::frames::Frames;
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::wait;

/// `epp` over one model server, with an exchange that is routed and waits for its response.
async fn with_open_stream(flags: &[&str]) -> (Epp, Exchange) {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut options = Options::hermetic(&[server.address]);
    options.flags.extend(flags.iter().map(|f| (*f).to_owned()));
    let epp = Epp::start(&options, 1).await;
    let exchange = open(epp.grpc).await;
    (epp, exchange)
}

/// An exchange on a connection of its own that is routed and waits for its response.
async fn open(grpc: SocketAddr) -> Exchange {
    let mut exchange = Exchange::open(&connect(grpc).await).await;
    exchange
        .send(request_headers(
            &[(":path", "/v1/models"), (":method", "GET")],
            true,
        ))
        .await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    exchange
}

#[tokio::test]
async fn the_first_signal_drains_and_nothing_in_flight_is_cut() {
    let (mut epp, exchange) = with_open_stream(&[]).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", epp.health)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let request = HealthCheckRequest {
        service: "readiness".into(),
    };
    let mut readiness = health.watch(request).await.unwrap().into_inner();
    let mut next = async || readiness.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::Serving);
    epp.signal("TERM");
    assert_eq!(next().await, ServingStatus::NotServing);
    let alive = health
        .check(HealthCheckRequest {
            service: "liveness".into(),
        })
        .await
        .unwrap();
    assert_eq!(
        alive.into_inner().status(),
        ServingStatus::Serving,
        "draining is no reason to be killed"
    );
    epp.says("Draining").await;
    // A proxy that has not heard of it yet is served, on a new connection too.
    finish(open(epp.grpc).await).await;
    finish(exchange).await;
    let status = epp.ended().await;
    assert_eq!(status.code(), Some(0), "{}", epp.log());
    assert!(epp.log().contains("Stopped, every stream finished"));
}

/// Answers the response and reads to the end.
async fn finish(mut exchange: Exchange) {
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body("last words", true)).await;
    while exchange.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_drain_ends_at_its_limit() {
    let (mut epp, _exchange) = with_open_stream(&["--drain-timeout=300ms"]).await;
    let began = Instant::now();
    epp.signal("INT");
    let status = epp.ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        began.elapsed() >= Duration::from_millis(300),
        "streams have the whole time"
    );
    assert!(
        epp.log()
            .contains("streams were still open after the drain timeout"),
        "{}",
        epp.log()
    );
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    let (mut epp, _exchange) = with_open_stream(&["--drain-timeout=1h"]).await;
    epp.signal("TERM");
    epp.says("Draining").await;
    epp.signal("TERM");
    let status = epp.ended().await;
    assert_eq!((status.code(), status.signal()), (Some(1), None));
    assert!(
        epp.log().contains("a second signal ended the drain"),
        "{}",
        epp.log()
    );
}

#[tokio::test]
async fn in_the_second_half_of_a_drain_nothing_new_is_taken_and_streams_finish() {
    let (mut epp, exchange) = with_open_stream(&["--drain-timeout=20s"]).await;
    epp.signal("TERM");
    let grpc = epp.grpc;
    wait::until("no new connection is taken", || TcpStream::connect(grpc).is_err()).await;
    finish(exchange).await;
    let status = epp.ended().await;
    assert_eq!(status.code(), Some(0), "{}", epp.log());
}

#[tokio::test]
async fn connections_without_streams_hold_up_no_end() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let options = Options::hermetic(&[server.address]).flag("--drain-timeout=1h");
    let mut epp = Epp::start(&options, 1).await;
    let _idle = connect(epp.grpc).await;
    let _silent = TcpStream::connect(epp.grpc).unwrap();
    // It greets and never reads.
    let _unread = Frames::connect(epp.grpc).await;
    epp.signal("TERM");
    assert_eq!(epp.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_waits_for_proxies_that_have_not_heard_of_it() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let options = Options::hermetic(&[server.address]).flag("--drain-quiet-period=2s");
    let mut epp = Epp::start(&options, 1).await;
    epp.signal("TERM");
    epp.says("Draining").await;
    for _ in 0..3 {
        finish(open(epp.grpc).await).await;
    }
    assert_eq!(epp.ended().await.code(), Some(0));
}
