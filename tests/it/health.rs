//! Endpoints that cannot be reached are left alone, and used again when they are back: the real `epp` over real sockets, with
//! model servers that are killed under traffic.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::epp::{Epp, Options, get};
use crate::support::ext_proc::{
    Answer, Exchange, connect, full_duplex, request_body, request_headers, response_body, response_headers,
};
use crate::support::metrics_server::{self, MetricsServer};
use crate::support::sim::Sim;

const PAGE: &str = "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0.5\n";
/// A prompt of several blocks, so that prefix affinity sends it where it was sent before.
const PROMPT: &str = "You are a helpful assistant. Answer in one sentence, in the language of the question, and name your \
    sources. You are a helpful assistant. Answer in one sentence, in the language of the question.";
/// Rejections and picks of a client that gives up have an end.
const DEADLINE: Duration = Duration::from_secs(20);

/// Servers with a metrics page and nothing else.
async fn pages(n: usize) -> Vec<MetricsServer> {
    let mut servers = Vec::new();
    for _ in 0..n {
        servers.push(MetricsServer::start(metrics_server::Answer::Page(PAGE.into())).await);
    }
    servers
}

fn addresses(servers: &[MetricsServer]) -> Vec<SocketAddr> {
    servers.iter().map(|s| s.address).collect()
}

/// Sends a request through `epp`; the destination in the header and in metadata, and the open exchange.
async fn pick(epp: &Epp) -> (String, String, Exchange) {
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let head = request_headers(&[(":path", "/v1/completions"), (":method", "POST")], false);
    exchange.send(full_duplex(head)).await;
    let body = serde_json::json!({"model": "m", "prompt": PROMPT}).to_string();
    exchange.send(request_body(body, true)).await;
    let Answer::RequestHeaders((set, _), Some(metadata), _) = exchange.answer().await else {
        panic!("not routed");
    };
    let header = set
        .into_iter()
        .find(|(n, _)| n == "x-gateway-destination-endpoint");
    (header.unwrap().1, metadata, exchange)
}

async fn picked(epp: &Epp) -> String {
    pick(epp).await.0
}

/// The page of the endpoints, by address.
async fn endpoint(epp: &Epp, address: &str) -> Value {
    let page = get(epp.metrics, "/debug/endpoints").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let endpoints = page["endpoints"].as_array().unwrap();
    endpoints
        .iter()
        .find(|e| e["address"] == address)
        .unwrap()
        .clone()
}

/// Waits until the endpoint at `address` has that standing.
async fn stands(epp: &Epp, address: &str, standing: &str) {
    let start = Instant::now();
    while endpoint(epp, address).await["standing"] != standing {
        assert!(start.elapsed() < DEADLINE, "{address} does not become {standing}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_server_that_dies_gets_no_more_requests_and_gets_them_again_when_it_is_back() {
    let mut sims = Vec::new();
    for _ in 0..3 {
        sims.push(Sim::start(&["--model", "m"]).await);
    }
    let pool: Vec<SocketAddr> = sims.iter().map(|s| s.address).collect();
    let mut epp = Epp::start(&Options::hermetic(&pool), 3).await;
    let favourite = picked(&epp).await;
    for _ in 0..20 {
        assert_eq!(picked(&epp).await, favourite, "prefix affinity keeps it there");
    }
    let at = pool.iter().position(|a| a.to_string() == favourite).unwrap();
    let mut dead = sims.remove(at);
    dead.signal("KILL");
    dead.ended().await;
    let died = Instant::now();
    let mut last = died;
    // Traffic goes on all the while.
    let substitute = loop {
        let now = picked(&epp).await;
        if now != favourite {
            break now;
        }
        last = Instant::now();
        assert!(died.elapsed() < DEADLINE, "the dead server is still picked");
    };
    println!("last pick of the dead server {:?} after its end", last - died);
    for _ in 0..50 {
        assert_eq!(picked(&epp).await, substitute, "affinity has moved, and stays");
    }
    stands(&epp, &favourite, "down").await;
    assert_eq!(
        endpoint(&epp, &favourite).await["standing_reason"],
        "connection refused"
    );
    let health = |standing: &str, n| {
        format!("inference_extension_endpoint_health{{name=\"test-pool\",standing=\"{standing}\"}} {n}")
    };
    epp.eventually(&health("down", 1)).await;
    epp.eventually(&health("healthy", 2)).await;
    let decisions = get(epp.metrics, "/debug/decisions?n=1").await.unwrap();
    let decisions: Value = serde_json::from_str(&decisions).unwrap();
    let left = &decisions["decisions"][0];
    assert_eq!(left["unreachable"]["count"], 1, "{left}");
    assert_eq!(left["unreachable"]["endpoints"][0], format!("pod-{at}-rank-0"));
    assert_eq!(left["profiles"][0]["candidates_left"], 2);
    epp.says("Endpoint is down").await;

    let port = pool[at].port();
    let began = Instant::now();
    let _back = Sim::launch_on(port, &["--model", "m"], &[]).serving().await;
    stands(&epp, &favourite, "healthy").await;
    println!("healthy {:?} after the start of its successor", began.elapsed());
    epp.says("Endpoint is healthy again").await;
    epp.eventually(&health("healthy", 3)).await;
}

#[tokio::test]
async fn without_health_a_dead_server_is_picked_as_before() {
    let mut servers = pages(3).await;
    let options = Options::hermetic(&addresses(&servers)).flag("--endpoint-health=off");
    let epp = Epp::start(&options, 3).await;
    let favourite = picked(&epp).await;
    servers.retain(|s| s.address.to_string() != favourite);
    let start = Instant::now();
    while endpoint(&epp, &favourite).await["fresh"] != false {
        assert!(start.elapsed() < DEADLINE, "its sample does not grow old");
        assert_eq!(picked(&epp).await, favourite);
    }
    assert_eq!(endpoint(&epp, &favourite).await["standing"], "healthy");
    assert!(!epp.page().await.unwrap().contains("endpoint_health"));
}

#[tokio::test]
async fn below_the_panic_threshold_health_is_ignored() {
    for (flag, alone) in [
        ("--endpoint-health-panic-threshold=50", false),
        ("--endpoint-health-panic-threshold=0", true),
    ] {
        let mut servers = pages(3).await;
        let options = Options::hermetic(&addresses(&servers))
            .scored_by(&[("queue-scorer", 1.0)])
            .flag(flag);
        let epp = Epp::start(&options, 3).await;
        let living = servers[2].address.to_string();
        for dead in servers.drain(..2) {
            let address = dead.address.to_string();
            drop(dead);
            stands(&epp, &address, "down").await;
        }
        let mut others = 0;
        for _ in 0..40 {
            others += usize::from(picked(&epp).await != living);
        }
        assert_eq!(others == 0, alone, "{flag}: {others} of 40 elsewhere");
    }
}

#[tokio::test]
async fn when_none_can_be_reached_all_are_used() {
    let servers = pages(2).await;
    let pool = addresses(&servers);
    let epp = Epp::start(
        &Options::hermetic(&pool).flag("--endpoint-health-panic-threshold=0"),
        2,
    )
    .await;
    drop(servers);
    for address in &pool {
        stands(&epp, &address.to_string(), "down").await;
    }
    picked(&epp).await;
}

#[tokio::test]
async fn a_page_that_says_nothing_useful_does_not_make_its_server_dead() {
    use metrics_server::Answer::{Endless, EndlessInterim, Garbage, HalfPage, HangUp, Page, Status};
    let servers = pages(2).await;
    let answers = [
        Status(404, "no".into()),
        Status(500, PAGE.into()),
        Page("<html>".into()),
        Garbage,
        HalfPage(PAGE.into()),
        Endless,
        EndlessInterim,
    ];
    let epp = Epp::start(&Options::hermetic(&addresses(&servers)), 2).await;
    for answer in answers {
        servers[0].set(answer.clone());
        let seen = servers[0].requests();
        crate::support::wait::until("some scrapes", || servers[0].requests() > seen + 4).await;
        let shown = endpoint(&epp, &servers[0].address.to_string()).await;
        assert_eq!(shown["standing"], "healthy", "{answer:?}");
    }
    // One that never spoke HTTP there, and closes every connection.
    let silent = MetricsServer::start(HangUp).await;
    let other = MetricsServer::start(Page(PAGE.into())).await;
    let epp = Epp::start(&Options::hermetic(&[silent.address, other.address]), 1).await;
    crate::support::wait::until("some scrapes", || silent.requests() > 6).await;
    assert_eq!(
        endpoint(&epp, &silent.address.to_string()).await["standing"],
        "healthy"
    );
}

/// Two endpoints whose metrics come from other ports than they serve at.
async fn with_metrics_apart() -> (Vec<MetricsServer>, Vec<MetricsServer>, Epp) {
    let (serving, metrics) = (pages(2).await, pages(2).await);
    let mut options = Options::hermetic(&[]);
    options.endpoints = String::from("endpoints:\n");
    for (i, (s, m)) in serving.iter().zip(&metrics).enumerate() {
        options.endpoints.push_str(&format!(
            "- {{name: pod-{i}-rank-0, address: 127.0.0.1, port: {}, metricsPort: {}}}\n",
            s.address.port(),
            m.address.port()
        ));
    }
    let epp = Epp::start(&options, 2).await;
    (serving, metrics, epp)
}

#[tokio::test]
async fn a_metrics_port_that_is_gone_says_nothing_of_the_port_that_serves() {
    let (mut serving, mut metrics, epp) = with_metrics_apart().await;
    let address = serving[0].address.to_string();
    drop(metrics.remove(0));
    let probed = serving[0].connections();
    crate::support::wait::until("probes of the serving port", || {
        serving[0].connections() > probed + 3
    })
    .await;
    assert_eq!(endpoint(&epp, &address).await["standing"], "healthy");
    drop(serving.remove(0));
    stands(&epp, &address, "down").await;
}

/// The proxy's own reply when it could not connect.
const NO_CONNECTION: &str = "upstream connect error or disconnect/reset before headers. reset reason: remote connection \
    failure, transport failure reason: delayed connect error: Connection refused";

/// Answers an exchange in the place of Envoy.
async fn respond(exchange: &mut Exchange, status: &str, body: &str) {
    let head = [(":status", status), ("content-type", "text/plain")];
    exchange.send(response_headers(&head, false)).await;
    exchange.send(response_body(body, true)).await;
    while let Ok(Some(_)) = exchange.next().await {}
}

#[tokio::test]
async fn a_failure_that_only_the_proxy_sees_takes_an_endpoint_out_and_a_probe_confirms_it() {
    let (mut serving, _metrics, epp) = with_metrics_apart().await;
    let (favourite, _, mut exchange) = pick(&epp).await;
    // Its metrics page goes on as if nothing had happened.
    serving.retain(|s| s.address.to_string() != favourite);
    respond(&mut exchange, "503", NO_CONNECTION).await;
    for _ in 0..20 {
        assert_ne!(picked(&epp).await, favourite);
    }
    stands(&epp, &favourite, "down").await;
}

#[tokio::test]
async fn server_errors_in_a_row_take_an_endpoint_out_where_asked_for() {
    for (flag, out) in [
        ("--endpoint-health-max-server-errors=0", false),
        ("--endpoint-health-max-server-errors=3", true),
    ] {
        let servers = pages(2).await;
        let epp = Epp::start(&Options::hermetic(&addresses(&servers)).flag(flag), 2).await;
        let favourite = picked(&epp).await;
        for status in ["500", "500", "200", "500", "502", "500"] {
            let (to, _, mut exchange) = pick(&epp).await;
            assert_eq!(to, favourite);
            respond(&mut exchange, status, "no").await;
        }
        assert_eq!(picked(&epp).await != favourite, out, "{flag}");
    }
}

#[tokio::test]
async fn fallbacks_are_named_in_metadata_by_descending_score() {
    let mut servers = Vec::new();
    for waiting in [30, 10, 20, 40] {
        let page = PAGE.replace("waiting 0", &format!("waiting {waiting}"));
        servers.push(MetricsServer::start(metrics_server::Answer::Page(page)).await);
    }
    let pool = addresses(&servers);
    let list = |order: &[usize]| {
        let named: Vec<String> = order.iter().map(|i| pool[*i].to_string()).collect();
        named.join(",")
    };
    for (flag, order) in [
        ("--fallback-endpoints=0", &[1][..]),
        ("--fallback-endpoints=2", &[1, 2, 0]),
    ] {
        let options = Options::hermetic(&pool)
            .scored_by(&[("queue-scorer", 1.0)])
            .flag(flag);
        let epp = Epp::start(&options, 4).await;
        let (header, metadata, _) = pick(&epp).await;
        assert_eq!((header, metadata), (pool[1].to_string(), list(order)), "{flag}");
    }
}
