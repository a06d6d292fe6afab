//! What an operator does while a real Envoy sends traffic: certificates both sides verify, a certificate that is
//! replaced, a configuration that is changed. No request is lost.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::routing::completion;
use crate::support::envoy::{Envoy, Kind, Transport};
use crate::support::epp::{Epp, Options};
use crate::support::ports;
use crate::support::tls::{Authority, shown};
use crate::support::upstream::Upstream;

const VALIDATION: &str = "common_tls_context: {validation_context: {}}";

/// Envoy that verifies the picker by `authority` and shows the pair of `folder`.
async fn verifying(epp: SocketAddr, pool: &[SocketAddr], authority: &Path, folder: &Path) -> Envoy {
    let own = format!(
        "{{certificate_chain: {{filename: {0}/tls.crt}}, private_key: {{filename: {0}/tls.key}}}}",
        folder.display()
    );
    let context = format!(
        "common_tls_context: {{tls_certificates: [{own}], validation_context: {{trusted_ca: {{filename: {}}}}}}}",
        authority.display()
    );
    let edit = |text: String| {
        assert_eq!(text.matches(VALIDATION).count(), 1);
        text.replace(VALIDATION, &context)
    };
    let envoy = Envoy::launch_edited(Kind::OriginalDst, Transport::Tls, epp, pool, edit).await;
    envoy.unwrap_or_else(|e| panic!("{e}"))
}

/// Requests that go on until told, and how they went.
struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Traffic {
    fn start(to: SocketAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..8)
            .map(|_| tokio::spawn(send(to, stop.clone(), sent.clone())))
            .collect();
        Traffic { stop, sent, tasks }
    }

    /// Waits until `n` more requests have been answered.
    async fn more(&self, n: usize) {
        let aim = self.sent.load(Ordering::Relaxed) + n;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.sent.load(Ordering::Relaxed) < aim {
            assert!(tokio::time::Instant::now() < deadline, "traffic has stopped");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends; what was not answered with 200.
    async fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        failures
    }
}

async fn send(to: SocketAddr, stop: Arc<AtomicBool>, sent: Arc<AtomicUsize>) -> Vec<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let request = client
            .post(format!("http://{to}/v1/completions"))
            .body(completion("p"));
        match request.send().await {
            Ok(response) if response.status() == 200 => {}
            Ok(response) => failures.push(response.status().to_string()),
            Err(error) => failures.push(error.to_string()),
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
    failures
}

async fn upstreams() -> (Vec<Upstream>, Vec<SocketAddr>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let port = ports::free();
    let upstreams = vec![
        Upstream::start(1, port, 50).await,
        Upstream::start(2, port, 0).await,
    ];
    let addresses = upstreams.iter().map(|u| u.address).collect();
    (upstreams, addresses)
}

#[tokio::test]
async fn a_replaced_certificate_costs_no_request_and_both_sides_verify_each_other() {
    let (_upstreams, pool) = upstreams().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (old, new, clients) = (Authority::new(), Authority::new(), Authority::new());
    std::fs::write(path("old.pem"), &old.certificate).unwrap();
    std::fs::write(path("new.pem"), &new.certificate).unwrap();
    std::fs::write(path("clients.pem"), &clients.certificate).unwrap();
    clients.issue("envoy.test").write(&path("envoy"));
    old.issue("epp.test").write(&path("epp"));
    let options = Options::hermetic(&pool)
        .flag("--secure-serving=true")
        .flag("--enable-cert-reload")
        .flag(&format!("--cert-path={}", path("epp").display()))
        .flag(&format!("--client-ca-file={}", path("clients.pem").display()));
    let epp = Epp::start(&options, 2).await;
    let envoy = verifying(epp.grpc, &pool, &path("old.pem"), &path("envoy")).await;
    let traffic = Traffic::start(envoy.traffic);
    traffic.more(50).await;
    new.issue("epp.test").write(&path("epp"));
    epp.says("Certificate reloaded").await;
    traffic.more(50).await;
    // Whoever connects now meets the new certificate, and only that.
    let other = verifying(epp.grpc, &pool, &path("new.pem"), &path("envoy")).await;
    let more = Traffic::start(other.traffic);
    more.more(50).await;
    assert_eq!(more.failures().await, [""; 0]);
    assert_eq!(traffic.failures().await, [""; 0]);
    // Without a certificate of its own a client is not served, whatever it trusts.
    let stranger = Envoy::launch(Kind::OriginalDst, Transport::Tls, epp.grpc, &pool)
        .await
        .unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .post(format!("http://{}/v1/completions", stranger.traffic))
        .body(completion("p"));
    assert!(request.send().await.unwrap().status().is_server_error());
}

#[tokio::test]
async fn a_changed_configuration_costs_no_request() {
    let (upstreams, pool) = upstreams().await;
    let options = Options::hermetic(&pool)
        .flag("--secure-serving=true")
        .scored_by(&[("queue-scorer", 1.0)]);
    let epp = Epp::start(&options, 2).await;
    assert!(!shown(epp.grpc).await.is_empty());
    let envoy = Envoy::start(Kind::OriginalDst, epp.grpc, &pool).await;
    let traffic = Traffic::start(envoy.traffic);
    traffic.more(50).await;
    assert_eq!(upstreams[0].count(), 0, "the busy one gets nothing");
    for round in 1..=4 {
        let weight = if round % 2 == 1 { -1.0 } else { 1.0 };
        let changed = Options::hermetic(&pool).scored_by(&[("queue-scorer", weight * f64::from(round))]);
        epp.configure(&changed.config(&epp.endpoints_file()));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while epp.log().matches("Configuration reloaded").count() < usize::try_from(round).unwrap() {
            assert!(tokio::time::Instant::now() < deadline, "{}", epp.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        traffic.more(50).await;
    }
    assert!(upstreams[0].count() > 0, "the turned weight counted");
    assert_eq!(traffic.failures().await, [""; 0]);
}
