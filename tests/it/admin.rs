//! The metrics page and the health service over real sockets, and the metrics guide against the registry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use endpoint_picker::admin::health::{
    self, EXT_PROC, HealthListRequest, HealthListResponse, HealthService, HealthState,
};
use endpoint_picker::admin::metrics_page::{self, Limits, MetricsPage, Reviewer, Verdict};
use endpoint_picker::datastore::Datastore;
use endpoint_picker::net::listen::{self, Reach};
use endpoint_picker::net::places::Places;
use endpoint_picker::telemetry::metrics::connections::{Failure, Port};
use endpoint_picker::telemetry::metrics::{Metrics, catalogue};
use futures::future::BoxFuture;
use prometheus_parse::{Scrape, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving};
use tonic_health::pb::health_client::HealthClient;

use crate::support::http::client;

const DEADLINE: Duration = Duration::from_secs(10);

/// Fails a test that would otherwise hang.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

fn bind() -> (TcpListener, SocketAddr) {
    let listener = listen::bind(Reach::Loopback, 0, "test-port").unwrap();
    let address = listener.local_addr().unwrap();
    (TcpListener::from_std(listener).unwrap(), address)
}

// --- health

async fn health_client(service: HealthService) -> (HealthClient<Channel>, Channel, DropGuard) {
    let (listener, address) = bind();
    let stop = CancellationToken::new();
    let places = Places::new(Port::Health, health::limits(64), Arc::default());
    tokio::spawn(health::serve(listener, service, places, stop.clone()));
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = soon(endpoint.connect()).await.unwrap();
    (HealthClient::new(channel.clone()), channel, stop.drop_guard())
}

async fn check(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    soon(client.check(request)).await.unwrap().into_inner().status()
}

async fn list(channel: &Channel) -> BTreeMap<String, ServingStatus> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    soon(grpc.ready()).await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/List");
    let codec = tonic_prost::ProstCodec::<HealthListRequest, HealthListResponse>::default();
    let request = tonic::Request::new(HealthListRequest {});
    let answer = soon(grpc.unary(request, path, codec)).await.unwrap();
    let statuses: HashMap<_, _> = answer.into_inner().statuses;
    statuses.into_iter().map(|(k, v)| (k, v.status())).collect()
}

#[tokio::test]
async fn health_answers_follow_the_table() {
    // election, synced, leader, draining -> liveness, ready names, an unknown name
    let table = [
        (false, false, false, false, NotServing, NotServing),
        (false, true, false, false, Serving, Serving),
        (false, true, false, true, NotServing, NotServing),
        (false, false, true, false, NotServing, NotServing),
        (true, false, false, false, NotServing, ServiceUnknown),
        (true, true, false, false, NotServing, ServiceUnknown),
        (true, false, true, false, NotServing, ServiceUnknown),
        (true, true, true, false, Serving, ServiceUnknown),
        (true, true, true, true, NotServing, ServiceUnknown),
    ];
    for (election, synced, leader, draining, ready, unknown) in table {
        let case = format!("election {election}, synced {synced}, leader {leader}, draining {draining}");
        let state = HealthState::new(election);
        let (mut client, channel, _stop) = health_client(HealthService::new(&state)).await;
        state.set_synced(synced);
        state.set_leader(leader);
        if draining {
            state.set_draining();
        }
        assert_eq!(check(&mut client, "liveness").await, Serving, "{case}");
        for name in ["", "readiness", EXT_PROC] {
            assert_eq!(check(&mut client, name).await, ready, "{case}: {name:?}");
        }
        for name in ["inference-extension", "something"] {
            assert_eq!(check(&mut client, name).await, unknown, "{case}: {name:?}");
        }
        assert_eq!(state.ready(), ready == Serving, "{case}");
        let mut listed = BTreeMap::from([(EXT_PROC.to_string(), ready)]);
        if election {
            listed.insert("liveness".into(), Serving);
            listed.insert("readiness".into(), ready);
        }
        assert_eq!(list(&channel).await, listed, "{case}");
    }
}

#[tokio::test]
async fn a_watch_tells_each_change_once_and_ends_with_the_state() {
    let state = HealthState::new(false);
    let (mut client, _, _stop) = health_client(HealthService::new(&state)).await;
    let request = HealthCheckRequest {
        service: "readiness".into(),
    };
    let mut watch = soon(client.watch(request)).await.unwrap().into_inner();
    let mut next = async || soon(watch.message()).await.unwrap().map(|m| m.status());
    assert_eq!(next().await, Some(NotServing));
    state.set_leader(true);
    state.set_synced(true);
    assert_eq!(next().await, Some(Serving), "leadership changed nothing here");
    state.set_draining();
    assert_eq!(next().await, Some(NotServing));
    drop(state);
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn readiness_follows_the_datastore() {
    let state = Arc::new(HealthState::new(false));
    let store = Arc::new(Datastore::new("p"));
    let following = (state.clone(), store.clone());
    tokio::spawn(async move { following.0.follow(&following.1).await });
    let (mut client, _, _stop) = health_client(HealthService::new(&state)).await;
    assert_eq!(check(&mut client, "").await, NotServing);
    let request = HealthCheckRequest { service: "".into() };
    let mut watch = soon(client.watch(request)).await.unwrap().into_inner();
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), NotServing);
    store.set_endpoints(vec![]);
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), Serving);
    assert_eq!(check(&mut client, "").await, Serving);
}

#[tokio::test]
async fn the_ext_proc_port_serves_two_names_always_and_knows_no_other() {
    let (mut client, channel, _stop) = health_client(HealthService::for_ext_proc_port()).await;
    for name in ["", EXT_PROC] {
        assert_eq!(check(&mut client, name).await, Serving);
    }
    let other = HealthCheckRequest {
        service: "readiness".into(),
    };
    let refused = soon(client.check(other.clone())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    let mut watch = soon(client.watch(other)).await.unwrap().into_inner();
    assert_eq!(
        soon(watch.message()).await.unwrap().unwrap().status(),
        ServiceUnknown
    );
    assert_eq!(
        list(&channel).await.into_keys().collect::<Vec<_>>(),
        ["", EXT_PROC]
    );
}

#[tokio::test]
async fn the_health_port_knows_no_other_service() {
    let state = HealthState::new(false);
    let (_, channel, _stop) = health_client(HealthService::new(&state)).await;
    let mut grpc = tonic::client::Grpc::new(channel);
    soon(grpc.ready()).await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.ext_proc.v3.ExternalProcessor/Process");
    let codec = tonic_prost::ProstCodec::<HealthListRequest, HealthListResponse>::default();
    let request = tonic::Request::new(HealthListRequest {});
    let refused = soon(grpc.unary(request, path, codec)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}

// --- metrics page

fn serve(page: MetricsPage, limits: Limits) -> (SocketAddr, DropGuard) {
    let (listener, address) = bind();
    let stop = CancellationToken::new();
    tokio::spawn(metrics_page::serve(listener, page, limits, stop.clone()));
    (address, stop.drop_guard())
}

/// Sends `request` and reads until the server closes: head and body.
async fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut tcp = soon(TcpStream::connect(address)).await.unwrap();
    // A server that refuses early may close before all is written; what it answered is what counts.
    let _ = tcp.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon(tcp.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head.to_ascii_lowercase(), body.to_string())
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
}

/// Metrics in which every family has a series.
fn everything() -> Arc<Metrics> {
    let metrics = Metrics::default();
    for (model, target) in [("m", "t"), ("org/model-2", "adapter"), ("", "")] {
        let model = metrics.model(model, target);
        model.accepted(2000);
        model.running(1);
        model.error("BadRequest");
        for n in [1, 30, 900] {
            model.completed(Duration::from_millis(n), n);
            model.tokens(n, n / 2, 0, Duration::from_millis(n));
        }
    }
    metrics.scheduled(Duration::from_micros(3), true);
    metrics
        .plugin_timer("Scorer", "queue-scorer", "q")
        .observe(Duration::from_micros(1));
    metrics.rewritten("r", "m", "t");
    metrics.prefix_match(3, 4, 192);
    metrics.pool("p", 2, Some(0.5), Some(1.5));
    metrics.endpoint_queues("p", || vec![("a-rank-0".into(), 4), ("b-rank-0".into(), 0)]);
    metrics.endpoint_health("p", || endpoint_picker::telemetry::metrics::EndpointHealth {
        standings: [("healthy", 3), ("suspect", 1), ("down", 0)],
        changes: 7,
    });
    metrics.build_info("c0ffee", "main");
    metrics.connections().failed(Port::ExtProc, Failure::Protocol);
    metrics.buffered_bytes(9 << 20, || 16384);
    metrics.config_applied("0123456789abcdef", std::time::SystemTime::now());
    metrics.api_server(|| Duration::from_millis(1500));
    Arc::new(metrics)
}

#[tokio::test]
async fn the_page_is_read_by_another_parser() {
    let (address, _stop) = serve(MetricsPage::open(everything()), Limits::default());
    let (head, page) = ask(address, &request("GET", "/metrics", "")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    let scrape = Scrape::parse(page.lines().map(|l| Ok(l.to_string()))).unwrap();
    for spec in catalogue::ALL {
        assert!(scrape.docs.contains_key(spec.name), "no help for {}", spec.name);
        let samples: Vec<_> = scrape.samples.iter().filter(|s| s.metric == spec.name).collect();
        assert!(!samples.is_empty(), "no sample of {}\n{page}", spec.name);
        for sample in samples {
            let kind = match sample.value {
                Value::Counter(_) => "counter",
                Value::Gauge(_) => "gauge",
                Value::Histogram(_) => "histogram",
                _ => "other",
            };
            assert_eq!(kind, spec.kind.as_str(), "{}", spec.name);
            for label in spec.labels {
                assert!(sample.labels.get(label).is_some(), "{} {label}", spec.name);
            }
        }
    }
    let queue = scrape.samples.iter().find(|s| {
        s.metric == "inference_pool_per_pod_queue_size"
            && s.labels.get("model_server_pod") == Some("a-rank-0")
    });
    assert!(matches!(queue.unwrap().value, Value::Gauge(n) if n == 4.0));
}

#[tokio::test]
async fn the_page_is_well_formed() {
    let (address, _stop) = serve(MetricsPage::open(everything()), Limits::default());
    let (_, page) = ask(address, &request("GET", "/metrics", "")).await;
    let declared = |what: &str| -> Vec<String> {
        let lines = page.lines().filter_map(|l| l.strip_prefix(what));
        lines.map(|l| l.split(' ').next().unwrap().to_string()).collect()
    };
    for what in ["# TYPE ", "# HELP "] {
        let names = declared(what);
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len(), "{what}each family once");
        assert_eq!(names.len(), catalogue::ALL.len(), "{what}");
    }
    assert_eq!(
        page.lines().filter(|l| l.starts_with('#')).count(),
        2 * catalogue::ALL.len()
    );
    assert!(
        page.lines()
            .filter(|l| l.starts_with("# HELP "))
            .all(|l| l.ends_with('.') && !l.ends_with(".."))
    );
    let reference = "# HELP inference_objective_request_total [ALPHA] Counter of inference objective requests broken out for each model and target model.";
    assert!(page.lines().any(|l| l == reference), "{page}");
    // Buckets of one series, in order: they never fall, and the last is `+Inf` and equals the count.
    let mut buckets: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for line in page.lines().filter(|l| l.contains("_bucket{le=")) {
        let (name, rest) = line.split_once("_bucket{le=\"").unwrap();
        let (le, rest) = rest.split_once('"').unwrap();
        let (labels, count) = rest.rsplit_once(' ').unwrap();
        let series = format!("{name}{}", labels.trim_start_matches(',').trim_end_matches('}'));
        buckets
            .entry(series)
            .or_default()
            .push((le.into(), count.parse().unwrap()));
    }
    assert!(buckets.len() > 20, "{}", buckets.len());
    for (series, bounds) in &buckets {
        assert!(
            bounds.windows(2).all(|w| w[0].1 <= w[1].1),
            "{series}: {bounds:?}"
        );
        let (le, count) = bounds.last().unwrap();
        assert_eq!(le, "+Inf", "{series}");
        let counted = page.lines().any(|l| {
            l.replace("_count{", "").replace("_count ", " ").replace('}', "") == format!("{series} {count}")
        });
        assert!(counted, "{series}_count is not {count}");
    }
    assert!(page.contains(r#"_sizes_bucket{le="1.073741824e+09","#), "{page}");
}

#[tokio::test]
async fn the_format_is_the_one_asked_for() {
    let (address, _stop) = serve(MetricsPage::open(everything()), Limits::default());
    let open = "accept: application/openmetrics-text;version=1.0.0;q=0.6\r\naccept: text/plain;q=0.3\r\n";
    let (head, page) = ask(address, &request("GET", "/metrics", open)).await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(page.ends_with("# EOF\n"));
    assert!(page.contains("# TYPE inference_objective_request counter\n"));
}

#[tokio::test]
async fn the_page_is_compressed_for_whoever_takes_gzip() {
    let (address, _stop) = serve(MetricsPage::open(everything()), Limits::default());
    let ask = async |accepted: &'static str| {
        let request = client().get(format!("http://{address}/metrics"));
        let answer = request.header("accept-encoding", accepted).send().await.unwrap();
        let headers = answer.headers().clone();
        (headers, answer.bytes().await.unwrap())
    };
    let (plain_headers, plain) = ask("identity").await;
    let (headers, packed) = ask("deflate, gzip").await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(plain_headers.get("content-encoding").is_none());
    for headers in [&plain_headers, &headers] {
        assert_eq!(headers["vary"], "Accept, Accept-Encoding");
        assert_eq!(
            headers["content-type"],
            "text/plain; version=0.0.4; charset=utf-8"
        );
    }
    assert!(
        packed.len() * 4 < plain.len(),
        "{} of {}",
        packed.len(),
        plain.len()
    );
    let mut page = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut page).unwrap();
    let lines = |page: &str| {
        page.lines()
            .filter(|l| !l.starts_with("process_"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&page), lines(std::str::from_utf8(&plain).unwrap()));
}

#[tokio::test]
async fn what_is_not_the_page_is_answered_properly() {
    let (address, _stop) = serve(MetricsPage::open(everything()), Limits::default());
    let (head, body) = ask(address, &request("HEAD", "/metrics", "")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-length: "), "{head}");
    assert_eq!(body, "");
    let (head, body) = ask(address, &request("GET", "/metrics?x=1", "")).await;
    assert!(head.starts_with("http/1.1 200") && !body.is_empty(), "{head}");
    let (head, body) = ask(address, &request("GET", "/", "")).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert!(body.contains("/metrics"), "{body}");
    for method in ["POST", "DELETE", "OPTIONS"] {
        let (head, _) = ask(address, &request(method, "/metrics", "")).await;
        assert!(head.starts_with("http/1.1 405"), "{head}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let (address, _stop) = serve(MetricsPage::open(everything()), Limits::default());
    let large = format!("x-large: {}\r\n", "x".repeat(64 * 1024));
    let mut tcp = soon(TcpStream::connect(address)).await.unwrap();
    let _ = tcp.write_all(request("GET", "/metrics", &large).as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon(tcp.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let (head, _) = ask(address, &request("GET", "/metrics", "")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_and_holds_up_nobody() {
    let limits = Limits {
        head: Duration::from_millis(300),
        connections: 1,
        ..Limits::default()
    };
    let (address, _stop) = serve(MetricsPage::open(everything()), limits);
    let mut silent = soon(TcpStream::connect(address)).await.unwrap();
    silent.write_all(b"GET /metr").await.unwrap();
    // The only place is taken until the silent one is closed.
    let (head, _) = ask(address, &request("GET", "/metrics", "")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let mut rest = Vec::new();
    let _ = soon(silent.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_at_the_end_of_its_life() {
    let metrics = Metrics::default();
    for i in 0..1000 {
        metrics.model(&format!("model-{i}"), "t").accepted(i);
    }
    let limits = Limits {
        head: Duration::from_millis(50),
        life: Duration::from_millis(50),
        connections: 1,
        ..Limits::default()
    };
    let (address, _stop) = serve(MetricsPage::open(Arc::new(metrics)), limits);
    let mut deaf = soon(TcpStream::connect(address)).await.unwrap();
    let many = request("GET", "/metrics", "").replace("close", "keep-alive");
    let _ = deaf.write_all(many.repeat(20).as_bytes()).await;
    let (head, _) = ask(address, &request("GET", "/nothing", "")).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
}

/// A page of some hundred kilobytes, and a client that asks for it many times and reads nothing.
async fn deaf(limits: Limits) -> (SocketAddr, DropGuard, TcpStream) {
    let metrics = Metrics::default();
    for i in 0..200 {
        metrics.model(&format!("model-{i}"), "t").accepted(i);
    }
    let (address, stop) = serve(MetricsPage::open(Arc::new(metrics)), limits);
    let tcp = ask_and_read_nothing(address).await;
    (address, stop, tcp)
}

async fn ask_and_read_nothing(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Little of it is on its way.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut tcp = soon(socket.connect(address)).await.unwrap();
    let many = request("GET", "/metrics", "").replace("close", "keep-alive");
    let _ = tcp.write_all(many.repeat(100).as_bytes()).await;
    tcp
}

/// Waits until the server has closed the connection: writing fails.
async fn cut(mut tcp: TcpStream) {
    let written = async {
        while tcp.write_all(b"GET").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(3 * DEADLINE, written).await.expect("closed");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_page_is_closed() {
    let limits = Limits {
        stalled: Duration::from_millis(100),
        ..Limits::default()
    };
    let (_, _stop, tcp) = deaf(limits).await;
    cut(tcp).await;
}

#[tokio::test]
async fn pages_that_are_not_taken_are_bounded_in_bytes() {
    let limits = Limits {
        pages: 1,
        ..Limits::default()
    };
    let (address, _stop, first) = deaf(limits).await;
    let (head, _) = ask(address, &request("GET", "/nothing", "")).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    let _second = ask_and_read_nothing(address).await;
    cut(first).await;
    let (head, _) = ask(address, &request("GET", "/metrics", "")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

struct Tokens;

impl Reviewer for Tokens {
    fn review<'a>(&'a self, token: &'a str, verb: &'a str, path: &'a str) -> BoxFuture<'a, Verdict> {
        assert_eq!((verb, path), ("get", "/metrics"));
        Box::pin(async move {
            match token {
                "good" => Verdict::Allowed,
                "denied" => Verdict::Denied { user: "bob".into() },
                "unreachable" => Verdict::Unreachable,
                _ => Verdict::UnknownToken,
            }
        })
    }
}

#[tokio::test]
async fn a_reviewed_page_wants_a_token() {
    let page = MetricsPage::reviewed(everything(), Arc::new(Tokens));
    let (address, _stop) = serve(page, Limits::default());
    let table = [
        ("", 401),
        ("authorization: Basic Z29vZA==\r\n", 401),
        ("authorization: Bearer\r\n", 401),
        ("authorization: Bearer  \r\n", 401),
        ("authorization: Bearer other\r\n", 401),
        ("authorization: Bearer denied\r\n", 403),
        ("authorization: Bearer unreachable\r\n", 503),
        ("authorization: Bearer good\r\n", 200),
        ("authorization: bEaReR good\r\n", 200),
    ];
    for (header, status) in table {
        let (head, body) = ask(address, &request("GET", "/metrics", header)).await;
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{header:?}: {head}"
        );
        assert_eq!(
            head.contains("www-authenticate: bearer"),
            status == 401,
            "{header:?}"
        );
        assert_eq!(body.contains("# TYPE"), status == 200, "{header:?}");
    }
}

// --- the guide

#[test]
fn the_metrics_guide_lists_exactly_what_is_registered() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/user-guide/metrics.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = guide
        .lines()
        .filter(|l| {
            [
                "| `inference_objective_",
                "| `inference_pool_",
                "| `inference_extension_",
                "| `process_",
            ]
            .iter()
            .any(|p| l.starts_with(p))
        })
        .collect();
    for spec in catalogue::ALL {
        let labels: Vec<String> = spec.labels.iter().map(|l| format!("`{l}`")).collect();
        let labels = if labels.is_empty() {
            "none".into()
        } else {
            labels.join(", ")
        };
        let start = format!("| `{}` | {} | {labels} | ", spec.name, spec.kind.as_str());
        assert!(
            rows.iter().any(|r| r.starts_with(&start)),
            "no row that starts with\n{start}"
        );
    }
    assert_eq!(
        rows.len(),
        catalogue::ALL.len(),
        "a row for a metric that is not there"
    );
}
