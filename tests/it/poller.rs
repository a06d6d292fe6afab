//! The metrics poller over real sockets: what it reads, whom it trusts, and that one bad endpoint costs the
//! others nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use endpoint_picker::base::clock::Clock;
use endpoint_picker::datalayer::{Poller, PollerError, PollerSettings, Scheme};
use endpoint_picker::datastore::Datastore;
use endpoint_picker::model::endpoint::{Endpoint, EndpointSpec};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::support::metrics_server::{Answer, MetricsServer};
use crate::support::wait::until;

/// A page that says how many requests wait.
fn page(waiting: u32) -> String {
    format!(
        "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{model_name=\"m\"}} {waiting}\n\
         vllm:num_requests_running{{model_name=\"m\"}} 2\nvllm:kv_cache_usage_perc{{model_name=\"m\"}} 0.5\n"
    )
}

fn spec(name: &str, address: SocketAddr) -> EndpointSpec {
    EndpointSpec {
        namespace: "default".into(),
        name: name.into(),
        address,
        metrics_address: None,
        metrics_path: None,
        labels: BTreeMap::new(),
    }
}

fn settings() -> PollerSettings {
    PollerSettings {
        interval: Duration::from_millis(10),
        timeout: Duration::from_millis(250),
        max_page_bytes: 128 * 1024,
        ..PollerSettings::default()
    }
}

/// A poller at work; it stops when dropped.
struct Running {
    datastore: Arc<Datastore>,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: PollerSettings, specs: Vec<EndpointSpec>) -> Self {
        let datastore = Arc::new(Datastore::new("pool"));
        datastore.set_endpoints(specs);
        let poller = Poller::new(settings, datastore.clone(), Clock::System).unwrap();
        let token = CancellationToken::new();
        let task = tokio::spawn(poller.run(token.clone()));
        Running {
            datastore,
            token,
            task,
        }
    }

    fn endpoint(&self, name: &str) -> Arc<Endpoint> {
        let fleet = self.datastore.fleet();
        let found = fleet.endpoints.iter().find(|e| e.spec.name == name);
        found.unwrap().clone()
    }

    /// Waiting requests of an endpoint, once it has been scraped.
    fn waiting(&self, name: &str) -> Option<u32> {
        let sample = self.endpoint(name).sample();
        sample.updated.map(|_| sample.waiting)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every way of being bad, by name.
fn hostile() -> Vec<(&'static str, Answer)> {
    let good = page(1);
    vec![
        ("silence", Answer::Silence),
        ("drip", Answer::Drip(good.clone())),
        ("gigabyte", Answer::Gigabyte),
        ("endless", Answer::Endless),
        ("endless line", Answer::EndlessLine),
        (
            "html",
            Answer::Page("<html><body>vllm:num_requests_waiting 9</body></html>\n".into()),
        ),
        ("empty", Answer::Page(String::new())),
        (
            "other metrics",
            Answer::Page("go_goroutines 7\nvllm:num_requests_waiting x\n".into()),
        ),
        ("status", Answer::Status(503, good.clone())),
        ("half page", Answer::HalfPage(good.clone())),
        ("half chunked", Answer::HalfChunked(good.clone())),
        ("half line", Answer::UntilClose(good[..good.len() - 3].into())),
        ("endless interim", Answer::EndlessInterim),
        ("garbage", Answer::Garbage),
        ("hang up", Answer::HangUp),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_endpoints_go_stale_and_cost_the_good_one_nothing() {
    let good = MetricsServer::start(Answer::Page(page(7))).await;
    let mut specs = vec![spec("good", good.address)];
    let mut bad = Vec::new();
    for (name, answer) in hostile() {
        let server = MetricsServer::start(Answer::Page(page(3))).await;
        specs.push(spec(name, server.address));
        bad.push((name, answer, server));
    }
    let poller = Running::start(settings(), specs);
    for (name, ..) in &bad {
        until("a first sample of everyone", || poller.waiting(name) == Some(3)).await;
    }

    for (_, answer, server) in &bad {
        server.set(answer.clone());
    }
    let (old, limit) = (Duration::from_millis(800), Duration::from_millis(400));
    until("bad endpoints stale while the good one is fresh", || {
        let now = Instant::now();
        let fresh = |name: &str, limit| poller.endpoint(name).signals("").fresh(now, limit);
        fresh("good", limit) && bad.iter().all(|(name, ..)| !fresh(name, old))
    })
    .await;
    for (name, _, server) in &bad {
        assert_eq!(poller.waiting(name), Some(3), "{name} was read");
        // What the poller took, plus what the kernel's buffers of a connection can hold.
        let written = server.counts.most_bytes.load(Ordering::Relaxed);
        assert!(written < 64 << 20, "{name} could send {written} bytes");
    }

    for (i, (_, _, server)) in bad.iter().enumerate() {
        server.set(Answer::Page(page(100 + u32::try_from(i).unwrap())));
    }
    for (i, (name, ..)) in bad.iter().enumerate() {
        let want = 100 + u32::try_from(i).unwrap();
        until(&format!("{name} recovering"), || {
            poller.waiting(name) == Some(want)
        })
        .await;
    }
}

#[tokio::test]
async fn every_way_of_framing_a_whole_page_is_read_and_connections_are_reused() {
    let rows = [
        ("length", Answer::Page(page(1)), true),
        ("no last newline", Answer::Page(page(2).trim_end().into()), true),
        ("chunked", Answer::Chunked(page(3)), true),
        ("until close", Answer::UntilClose(page(4)), false),
        ("crlf", Answer::Page(page(5).replace('\n', "\r\n")), true),
    ];
    let mut specs = Vec::new();
    let mut servers = Vec::new();
    for (name, answer, kept) in rows {
        let server = MetricsServer::start(answer).await;
        specs.push(spec(name, server.address));
        servers.push((name, server, kept));
    }
    let settings = PollerSettings {
        // A scrape given up loses its connection, so on a busy machine none may be.
        timeout: Duration::from_secs(20),
        ..settings()
    };
    let poller = Running::start(settings, specs);
    for (i, (name, server, kept)) in servers.iter().enumerate() {
        until("twenty scrapes", || server.requests() >= 20).await;
        assert_eq!(
            poller.waiting(name),
            Some(u32::try_from(i).unwrap() + 1),
            "{name}"
        );
        let connections = server.connections();
        assert_eq!(connections == 1, *kept, "{name} used {connections} connections");
    }
}

#[tokio::test]
async fn endpoints_are_scraped_from_when_they_join_until_they_leave() {
    let (first, second) = (
        MetricsServer::start(Answer::Page(page(1))).await,
        MetricsServer::start(Answer::Page(page(2))).await,
    );
    let poller = Running::start(settings(), vec![spec("first", first.address)]);
    until("a sample of the first", || poller.waiting("first") == Some(1)).await;

    poller
        .datastore
        .set_endpoints(vec![spec("first", first.address), spec("second", second.address)]);
    until("a sample of the second", || poller.waiting("second") == Some(2)).await;

    poller
        .datastore
        .set_endpoints(vec![spec("second", second.address)]);
    // One scrape may be under way; from the next on there must be none.
    let mark = second.requests();
    until("the change to take hold", || second.requests() >= mark + 3).await;
    let (left, mark) = (first.requests(), second.requests());
    until("ten more scrapes", || second.requests() >= mark + 10).await;
    assert_eq!(first.requests(), left, "an endpoint that left is still scraped");

    poller.token.cancel();
    until("the poller to end", || poller.task.is_finished()).await;
    let mark = second.requests();
    let _another = Running::start(settings(), vec![spec("first", first.address)]);
    until("scrapes by another poller", || first.requests() >= left + 10).await;
    assert!(second.requests() <= mark + 1, "a poller that ended still scrapes");
}

#[tokio::test]
async fn address_path_and_engine_are_the_endpoints_own() {
    let sglang = "sglang:num_queue_reqs 4\nvllm:num_requests_waiting 9\n";
    let server = MetricsServer::start(Answer::Page(sglang.into())).await;
    let mut own = spec("own", ([127, 0, 0, 1], 1).into());
    own.metrics_address = Some(server.address);
    own.metrics_path = Some("/own/metrics?x=1".into());
    own.labels = BTreeMap::from([("llm-d.ai/engine-type".into(), "sglang".into())]);
    let shared = spec("shared", server.address);
    let settings = PollerSettings {
        path: "stats".into(),
        ..settings()
    };
    let poller = Running::start(settings, vec![own, shared]);
    until("both", || {
        (poller.waiting("own"), poller.waiting("shared")) == (Some(4), Some(9))
    })
    .await;
    let mut targets = server.counts.targets.lock().clone();
    targets.sort();
    assert_eq!(targets, ["/own/metrics?x=1", "/stats"]);
}

#[tokio::test]
async fn redirects_are_followed_within_the_server_only() {
    let elsewhere = MetricsServer::start(Answer::Page(page(9))).await;
    let here = MetricsServer::start(Answer::Redirect("/moved".into(), page(1))).await;
    let away = format!("http://{}/metrics", elsewhere.address);
    let off = MetricsServer::start(Answer::Redirect(away, page(2))).await;
    let around = MetricsServer::start(Answer::Redirect("/again".into(), page(3))).await;
    let specs = vec![
        spec("here", here.address),
        spec("off", off.address),
        spec("around", around.address),
    ];
    let poller = Running::start(settings(), specs);
    until("the page that moved", || poller.waiting("here") == Some(1)).await;
    until("tries", || off.requests() >= 3 && around.requests() >= 12).await;
    assert_eq!((poller.waiting("off"), poller.waiting("around")), (None, None));
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_certificate_is_checked_unless_told_otherwise() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let chain = vec![CertificateDer::from(certified.cert)];
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    for insecure in [true, false] {
        let server = MetricsServer::start_tls(Answer::Page(page(6)), tls.clone()).await;
        let settings = PollerSettings {
            scheme: Scheme::Https,
            timeout: Duration::from_secs(20),
            insecure_skip_verify: insecure,
            ..settings()
        };
        let poller = Running::start(settings, vec![spec("tls", server.address)]);
        if insecure {
            until("twenty scrapes", || server.requests() >= 20).await;
            assert_eq!((poller.waiting("tls"), server.connections()), (Some(6), 1));
        } else {
            until("several tries", || server.connections() >= 3).await;
            assert_eq!((poller.waiting("tls"), server.requests()), (None, 0));
        }
    }
}

#[test]
fn an_interval_of_zero_is_refused() {
    let settings = PollerSettings {
        interval: Duration::ZERO,
        ..PollerSettings::default()
    };
    let refused = Poller::new(settings, Arc::new(Datastore::new("pool")), Clock::System);
    assert!(matches!(refused, Err(PollerError::ZeroInterval)));
}
