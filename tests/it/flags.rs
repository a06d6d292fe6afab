//! Flags that no other file tests, each by what it changes; and the list that names the test of every flag.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::epp::{Epp, Options, get, in_package};
use crate::support::ext_proc::{
    Answer, Exchange, connect, full_duplex, request_body, request_headers, with_subset,
};
use crate::support::metrics_server::{self, MetricsServer};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::process::{Process, answers};
use crate::support::wait::until;

/// Two model servers, the second one busier.
async fn pool() -> Vec<SocketAddr> {
    let port = ports::free();
    let mut addresses = Vec::new();
    for (host, queue) in [(1, 0), (2, 9)] {
        let state = State {
            queue,
            ..State::default()
        };
        addresses.push(ModelServer::start(host, port, state).await.address);
    }
    addresses
}

async fn start(flags: &[&str]) -> Epp {
    let pool = pool().await;
    let mut options = Options::hermetic(&pool);
    options.flags.extend(flags.iter().map(|f| (*f).to_owned()));
    Epp::start(&options, 2).await
}

/// `epp` over servers with these pages.
async fn over(pages: &[&str], scorers: &[(&str, f64)], flags: &[&str]) -> (Epp, Vec<MetricsServer>) {
    let mut servers = Vec::new();
    for page in pages {
        let page = metrics_server::Answer::Page((*page).into());
        servers.push(MetricsServer::start(page).await);
    }
    let addresses: Vec<SocketAddr> = servers.iter().map(|s| s.address).collect();
    let mut options = Options::hermetic(&addresses).scored_by(scorers);
    options.flags.extend(flags.iter().map(|f| (*f).to_owned()));
    (Epp::start(&options, pages.len()).await, servers)
}

/// Where a request goes.
async fn routed(epp: &Epp, prompt: &str, subset: Option<&str>) -> SocketAddr {
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let path = [(":path", "/v1/completions")];
    let headers = full_duplex(request_headers(&path, false));
    let headers = match subset {
        Some(subset) => with_subset(headers, &[subset]),
        None => headers,
    };
    exchange.send(headers).await;
    let body = serde_json::json!({"model": "m", "prompt": prompt}).to_string();
    exchange.send(request_body(body, true)).await;
    let Answer::RequestHeaders(_, destination, _) = exchange.answer().await else {
        panic!("not routed")
    };
    destination.unwrap().parse().unwrap()
}

fn reachable(host: [u8; 4], port: u16) -> bool {
    TcpStream::connect(SocketAddr::from((host, port))).is_ok()
}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
/// Loopback, too, but not the address that "loopback only" means.
const NEIGHBOUR: [u8; 4] = [127, 0, 0, 2];

#[tokio::test]
async fn the_pool_and_the_ports_are_those_of_the_flags() {
    // The harness asks for this name and these ports, and waits for them.
    let epp = start(&[]).await;
    let page = get(epp.metrics, "/metrics").await.unwrap();
    assert!(page.contains("inference_pool_ready_pods{name=\"test-pool\"} 2"));
    routed(&epp, "x", None).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", epp.health)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let answer = health
        .check(HealthCheckRequest { service: "".into() })
        .await
        .unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn all_ports_listen_on_the_address_of_the_flag() {
    let epp = start(&[]).await;
    for port in [epp.grpc, epp.health, epp.metrics].map(|a| a.port()) {
        assert!(
            reachable(LOOPBACK, port) && !reachable(NEIGHBOUR, port),
            "--bind-address=127.0.0.1"
        );
    }
    let epp = start(&["--bind-address=0.0.0.0"]).await;
    assert!(reachable(NEIGHBOUR, epp.grpc.port()) && reachable(NEIGHBOUR, epp.health.port()));
}

#[tokio::test]
async fn the_ext_proc_port_may_have_an_address_of_its_own() {
    let epp = start(&["--bind-address=0.0.0.0", "--grpc-bind-address=127.0.0.1"]).await;
    assert!(reachable(LOOPBACK, epp.grpc.port()) && !reachable(NEIGHBOUR, epp.grpc.port()));
    assert!(reachable(NEIGHBOUR, epp.health.port()));
}

#[tokio::test]
async fn the_metrics_page_is_on_loopback_only_while_nobody_can_be_asked() {
    let epp = start(&["--bind-address=0.0.0.0"]).await;
    assert!(reachable(LOOPBACK, epp.metrics.port()) && !reachable(NEIGHBOUR, epp.metrics.port()));
    assert!(
        epp.log().contains("--metrics-endpoint-auth=false opens it"),
        "{}",
        epp.log()
    );
    let epp = start(&["--bind-address=0.0.0.0", "--metrics-endpoint-auth=false"]).await;
    assert!(reachable(NEIGHBOUR, epp.metrics.port()));
}

#[tokio::test]
async fn health_is_served_on_the_ext_proc_port_where_asked_for() {
    for (flags, served) in [(&[][..], false), (&["--health-checking"], true)] {
        let epp = start(flags).await;
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", epp.grpc)).unwrap();
        let mut health = HealthClient::new(channel.connect().await.unwrap());
        let name = "envoy.service.ext_proc.v3.ExternalProcessor";
        let request = HealthCheckRequest { service: name.into() };
        let check = health.check(request.clone()).await;
        let watch = health.watch(request).await;
        if served {
            assert_eq!(check.unwrap().into_inner().status(), ServingStatus::Serving);
            let first = watch.unwrap().into_inner().message().await.unwrap().unwrap();
            assert_eq!(first.status(), ServingStatus::Serving);
        } else {
            assert_eq!(check.unwrap_err().code(), tonic::Code::Unimplemented);
            assert_eq!(watch.unwrap_err().code(), tonic::Code::Unimplemented);
        }
    }
}

#[tokio::test]
async fn there_are_as_many_workers_as_asked_for() {
    let epp = start(&["--threads=3"]).await;
    let tasks = std::fs::read_dir(format!("/proc/{}/task", epp.pid())).unwrap();
    let names = tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("comm")).unwrap());
    assert_eq!(names.filter(|n| n.starts_with("ext-proc-")).count(), 3);
}

#[tokio::test]
async fn subset_hints_can_be_ignored() {
    let pool = pool().await;
    let second = pool[1].to_string();
    for (flags, expected) in [
        (&[][..], pool[1]),
        (&["--disable-endpoint-subset-filter"], pool[0]),
    ] {
        let mut options = Options::hermetic(&pool);
        options.flags.extend(flags.iter().map(|f| (*f).to_owned()));
        let epp = Epp::start(&options, 2).await;
        assert_eq!(routed(&epp, "x", Some(&second)).await, expected, "{flags:?}");
    }
}

#[tokio::test]
async fn the_configuration_can_be_given_as_text() {
    let (pool, folder) = (pool().await, tempfile::tempdir().unwrap());
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", -1.0)]);
    let endpoints = folder.path().join("endpoints.yaml");
    std::fs::write(&endpoints, &options.endpoints).unwrap();
    let metrics = SocketAddr::from((LOOPBACK, ports::free()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_epp"));
    command
        .arg(format!("--config-text={}", options.config(&endpoints)))
        .arg(format!("--grpc-port={}", ports::free()))
        .arg(format!("--grpc-health-port={}", ports::free()))
        .arg(format!("--metrics-port={}", metrics.port()))
        .arg("--bind-address=127.0.0.1");
    let mut epp = Process::start("epp", &mut command, &folder.path().join("log")).unwrap();
    epp.ready(Duration::from_secs(20), async || {
        answers(metrics, "/metrics").await
    })
    .await
    .unwrap();
    assert!(epp.log().contains("Starting"), "{}", epp.log());
}

// --- scraping

const PAGE: &str = "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0.5\n";

#[tokio::test]
async fn endpoints_are_scraped_at_the_interval_of_the_flag() {
    let scorers = [("queue-scorer", 1.0)];
    let (_slow, slowly) = over(&[PAGE], &scorers, &["--refresh-metrics-interval=1s"]).await;
    let (_fast, quickly) = over(&[PAGE], &scorers, &["--refresh-metrics-interval=10ms"]).await;
    let before = slowly[0].requests();
    until("sixty scrapes", || quickly[0].requests() >= 60).await;
    // At the default of 50 ms it would have been a dozen at least.
    assert!(
        slowly[0].requests() - before < 10,
        "{}",
        slowly[0].requests() - before
    );
}

#[tokio::test]
async fn the_pools_gauges_are_refreshed_at_the_interval_of_the_flag() {
    let pool = pool().await;
    // The first refresh comes at once, before anything is scraped.
    let rare = Options::hermetic(&pool).flag("--refresh-prometheus-metrics-interval=1h");
    let rare = Epp::start(&rare, 0).await;
    // The default of five seconds, and the harness's twenty milliseconds.
    let usual = Options::hermetic(&pool).flag("--refresh-prometheus-metrics-interval=5s");
    let _usual = Epp::start(&usual, 2).await;
    let page = rare.page().await.unwrap();
    assert!(
        page.contains("inference_pool_ready_pods{name=\"test-pool\"} 0"),
        "{page}"
    );
    assert!(
        page.contains("model_server_pod=\"pod-1-rank-0\"} 9"),
        "it is scraped all the same: {page}"
    );
}

#[tokio::test]
async fn a_sample_counts_until_the_age_of_the_flag() {
    let scorers = [("queue-scorer", 1.0)];
    let (long, servers) = over(&[PAGE], &scorers, &["--metrics-staleness-threshold=1h"]).await;
    let mut options = Options::hermetic(&[servers[0].address]);
    options.flags.push("--metrics-staleness-threshold=2s".into());
    let mut usual = Epp::start(&options, 1).await;
    servers[0].set(metrics_server::Answer::HangUp);
    usual
        .eventually("inference_pool_ready_pods{name=\"test-pool\"} 0")
        .await;
    let page = long.page().await.unwrap();
    assert!(
        page.contains("inference_pool_ready_pods{name=\"test-pool\"} 1"),
        "{page}"
    );
}

#[tokio::test]
async fn pages_are_fetched_from_the_path_of_the_flag() {
    let (_epp, servers) = over(
        &[PAGE],
        &[("queue-scorer", 1.0)],
        &["--model-server-metrics-path=/stats/all"],
    )
    .await;
    assert_eq!(*servers[0].counts.targets.lock(), ["/stats/all"]);
}

fn certified() -> TlsAcceptor {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certified.cert)], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn pages_are_fetched_over_tls_where_asked_for_and_certificates_checked_where_asked_for() {
    let server = MetricsServer::start_tls(metrics_server::Answer::Page(PAGE.into()), certified()).await;
    let https = Options::hermetic(&[server.address]).flag("--model-server-metrics-scheme=https");
    let _trusting = Epp::start(&https, 1).await;
    let strict = https.flag("--model-server-metrics-https-insecure-skip-verify=false");
    let strict = Epp::start(&strict, 0).await;
    let line = strict.says("metrics cannot be read").await;
    let address = server.address.to_string();
    assert!(
        line.contains(&address) && line.contains("invalid peer certificate"),
        "{line}"
    );
}

#[tokio::test]
async fn the_metric_flags_of_v0_5_0_are_followed() {
    // Of two pages only the renamed metric differs, and the first one is to be chosen by it.
    let rows = [
        (
            "total-queued-requests-metric",
            "queue-scorer",
            ["renamed 0", "renamed 9"],
        ),
        (
            "total-running-requests-metric",
            "running-requests-size-scorer",
            ["renamed 0", "renamed 9"],
        ),
        (
            "kv-cache-usage-percentage-metric",
            "kv-cache-utilization-scorer",
            ["renamed 0.1", "renamed 0.9"],
        ),
        (
            "lora-info-metric",
            "lora-affinity-scorer",
            [
                "renamed{max_lora=\"2\",running_lora_adapters=\"m\",waiting_lora_adapters=\"\"} 1",
                "renamed{max_lora=\"2\",running_lora_adapters=\"x,y\",waiting_lora_adapters=\"\"} 1",
            ],
        ),
    ];
    for (flag, scorer, own) in rows {
        let pages = own.map(|line| format!("{PAGE}{line}\n"));
        let flags = ["--compat-version=v0.5.0".to_owned(), format!("--{flag}=renamed")];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (epp, servers) = over(&[&pages[0], &pages[1]], &[(scorer, 1.0)], &flags).await;
        // By chance all would go to the first once in four thousand runs.
        for _ in 0..12 {
            assert_eq!(routed(&epp, "x", None).await, servers[0].address, "{flag}");
        }
    }
}

#[tokio::test]
async fn the_cache_info_flag_of_v0_5_0_is_followed() {
    let page = format!("{PAGE}renamed{{block_size=\"1\",num_gpu_blocks=\"100\"}} 1\n");
    let flags = ["--compat-version=v0.5.0", "--cache-info-metric=renamed"];
    let (epp, _servers) = over(&[&page], &[("prefix-cache-scorer", 1.0)], &flags).await;
    // Five blocks of one token; of the default sixteen it is not even one.
    routed(&epp, "twenty bytes of text", None).await;
    let page = epp.page().await.unwrap();
    assert!(
        page.contains("inference_extension_prefix_indexer_size 5\n"),
        "{page}"
    );
}

// --- the list

#[test]
fn every_flag_has_a_test_and_the_list_names_it() {
    let page = std::fs::read_to_string(in_package("docs/user-guide/flags.md")).unwrap();
    let list = page
        .split("## Which test covers which flag")
        .nth(1)
        .expect("the list");
    for flag in endpoint_picker::app::epp::FLAGS {
        let start = format!("| `--{}` | ", flag.name);
        let row = list.lines().find_map(|l| l.strip_prefix(&start));
        let row = row.unwrap_or_else(|| panic!("the list has no row for --{}", flag.name));
        let tests: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "--{}: no test", flag.name);
        for test in tests {
            assert!(exists(test), "--{}: there is no test {test}", flag.name);
        }
    }
}

/// Is there a test `file::name` in `tests/it/file.rs`?
fn exists(test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else {
        return false;
    };
    let text = std::fs::read_to_string(in_package(&format!("tests/it/{file}.rs"))).unwrap_or_default();
    let definition = format!("fn {name}()");
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|l| l.trim_start_matches("async ").starts_with(&definition));
    at.is_some_and(|at| at > 0 && lines[at - 1].contains("test]"))
}
