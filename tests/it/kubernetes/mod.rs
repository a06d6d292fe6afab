//! The real `epp` beside a Kubernetes API. `it` runs these rows against the fake API server, `cluster` the same rows
//! against a real kube-apiserver: they use of `crate::ApiServer` what both have.

pub mod access;
pub mod changes;
mod election;
mod faults;
pub mod leases;
mod pool;
pub mod rules;
mod start;

use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::ApiServer;
use crate::support::epp::Epp;
use crate::support::ext_proc::{Answer, Exchange, connect, request_body, request_headers};

pub const POOL: &[&str] = &["--pool-name=pool", "--metrics-endpoint-auth=false"];

/// A server with the pool of `ports`, and `epp` for it.
pub fn with_pool(ports: &[u16]) -> (ApiServer, Epp) {
    let server = ApiServer::start();
    server.apply(
        crate::support::apiserver::POOLS,
        crate::support::apiserver::pool(ports),
    );
    let epp = Epp::in_cluster(&server, POOL, &[]);
    (server, epp)
}

/// Names of the endpoints on the metrics page, sorted.
pub async fn endpoints(epp: &Epp) -> Vec<String> {
    let page = epp.page().await.unwrap_or_default();
    let lines = page
        .lines()
        .filter(|l| l.starts_with("inference_pool_per_pod_queue_size{"));
    let name = |l: &str| {
        l.split("model_server_pod=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut names: Vec<String> = lines.map(name).collect();
    names.sort();
    names
}

/// Waits until the endpoints are exactly these.
pub async fn endpoints_are(epp: &Epp, expected: &[&str]) {
    let start = Instant::now();
    loop {
        let names = endpoints(epp).await;
        if names == expected {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{names:?}, not {expected:?}\n{}",
            epp.log()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The health port's answer.
pub async fn health(epp: &Epp, service: &str) -> Option<ServingStatus> {
    let channel = Channel::from_shared(format!("http://{}", epp.health))
        .unwrap()
        .connect()
        .await
        .ok()?;
    let request = HealthCheckRequest {
        service: service.into(),
    };
    let answer = HealthClient::new(channel).check(request).await.ok()?;
    Some(answer.into_inner().status())
}

/// Waits until a service has this status.
pub async fn health_is(epp: &Epp, service: &str, status: ServingStatus) {
    health_within(epp, service, status, Duration::from_secs(30)).await;
}

/// Waits until a service has this status, at most so long; how long it took.
pub async fn health_within(epp: &Epp, service: &str, status: ServingStatus, limit: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let got = health(epp, service).await;
        if got == Some(status) {
            return start.elapsed();
        }
        assert!(start.elapsed() < limit, "{service} is {got:?}\n{}", epp.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the log has a line with `words`, then says how often it has it.
pub async fn logged(epp: &Epp, words: &str) -> usize {
    let start = Instant::now();
    while !epp.log().contains(words) {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "not logged: {words}\n{}",
            epp.log()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    epp.log().matches(words).count()
}

/// The first answer to a request for `model` with more headers, and the body as it is sent on.
pub async fn ask(epp: &Epp, model: &str, more: &[(&str, &str)]) -> (Answer, String) {
    let client = connect(epp.grpc).await;
    let mut exchange = Exchange::open(&client).await;
    let mut headers = vec![("x-request-id", "r")];
    headers.extend_from_slice(more);
    exchange.send(request_headers(&headers, false)).await;
    let body = format!(r#"{{"model":"{model}","prompt":"hello"}}"#);
    exchange.send(request_body(body, true)).await;
    let first = exchange.answer().await;
    let mut sent = String::new();
    let mut ended = !matches!(first, Answer::RequestHeaders(..));
    while !ended {
        let Answer::RequestBody(piece, last) = exchange.answer().await else {
            panic!("not a piece of the body")
        };
        sent.push_str(&piece);
        ended = last;
    }
    (first, sent)
}

/// Where a request goes; a rejection's status otherwise.
pub async fn destination(epp: &Epp) -> Result<String, i32> {
    match ask(epp, "m", &[]).await.0 {
        Answer::RequestHeaders((set, _), ..) => {
            let wanted = set
                .into_iter()
                .find(|(k, _)| k == "x-gateway-destination-endpoint");
            Ok(wanted.unwrap().1)
        }
        Answer::Immediate(status, ..) => Err(status),
        other => panic!("{other:?}"),
    }
}
