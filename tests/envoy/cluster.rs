//! A whole cluster in small, behind a real Envoy: pool -> pods (simulators on loopback addresses) -> `epp` -> Envoy ->
//! clients that never stop asking, while pods roll, the API server is lost for a minute, a leader is killed and one is
//! replaced. No request is lost that an endpoint could have served.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::apiserver::{ApiServer, PODS, POOLS, pod, pool};
use crate::support::envoy::{Envoy, Kind, Transport};
use crate::support::epp::Epp;
use crate::support::ports;
use crate::support::process::{Process, answers};

/// Requests a second.
const RATE: u32 = 40;
const PODS_RUN: u8 = 3;

/// A pod: a simulator on an address of its own.
struct Pod {
    name: String,
    ip: Ipv4Addr,
    port: u16,
    process: Process,
}

impl Pod {
    async fn start(host: u8, port: u16, folder: &tempfile::TempDir) -> Self {
        let ip = Ipv4Addr::new(127, 0, 3, host);
        let mut command = Command::new(env!("CARGO_BIN_EXE_inference-sim"));
        command
            .args([
                "--model",
                "m",
                "--bind-address",
                &ip.to_string(),
                "--port",
                &port.to_string(),
            ])
            .args([
                "--max-num-seqs",
                "64",
                "--time-to-first-token",
                "20ms",
                "--inter-token-latency",
                "5ms",
            ])
            .env("POD_IP", ip.to_string());
        let log = folder.path().join(format!("sim-{host}-{port}.log"));
        let mut process = Process::start("inference-sim", &mut command, &log).unwrap();
        let address = SocketAddr::from((ip, port));
        let ready = process.ready(Duration::from_secs(30), async || {
            answers(address, "/health").await
        });
        ready.await.unwrap();
        Pod {
            name: format!("model-{host}"),
            ip,
            port,
            process,
        }
    }

    fn address(&self) -> SocketAddr {
        (self.ip, self.port).into()
    }

    fn object(&self) -> serde_json::Value {
        pod(&self.name, &self.ip.to_string())
    }
}

/// Clients that ask until told to stop, each answer checked to its end.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<(Instant, String)>>,
}

impl Load {
    /// `tries`: how often a client asks again for an answer that failed.
    fn start(envoy: SocketAddr, tries: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut asked = tokio::task::JoinSet::new();
            let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
            for i in 0.. {
                tick.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (client, counted) = (client.clone(), counted.clone());
                asked.spawn(async move {
                    let start = Instant::now();
                    let mut last = String::new();
                    for _ in 0..tries {
                        match ask(&client, envoy, i).await {
                            Ok(()) => {
                                counted.fetch_add(1, Ordering::Relaxed);
                                return None;
                            }
                            Err(error) => last = error,
                        }
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Some((start, last))
                });
            }
            asked.join_all().await.into_iter().flatten().collect()
        });
        Load { stop, done, task }
    }

    /// Waits until so many more requests are answered.
    async fn answered(&self, more: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        crate::support::wait::until("requests to be answered", || {
            self.done.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }

    /// Requests that stayed without an answer, and how many had one.
    async fn end(self) -> (Vec<(Instant, String)>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        (self.task.await.unwrap(), self.done.load(Ordering::Relaxed))
    }
}

async fn ask(client: &reqwest::Client, envoy: SocketAddr, i: usize) -> Result<(), String> {
    let stream = i.is_multiple_of(2);
    let body = json!({"model": "m", "prompt": format!("request {i}"), "max_tokens": 5, "stream": stream});
    let request = client.post(format!("http://{envoy}/v1/completions")).json(&body);
    let response = request.send().await.map_err(|e| format!("{e:?}"))?;
    let status = response.status();
    let text = response.text().await.map_err(|e| format!("{e:?}"))?;
    if status != 200 {
        return Err(format!("{status} {text}"));
    }
    let whole = if stream {
        text.ends_with("data: [DONE]\n\n")
    } else {
        text.contains("\"finish_reason\"")
    };
    whole.then_some(()).ok_or(format!("cut short: {text}"))
}

struct Cluster {
    server: ApiServer,
    pods: Vec<Pod>,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (server, folder, port) = (ApiServer::start(), tempfile::tempdir().unwrap(), ports::free());
        server.apply(POOLS, pool(&[port]));
        let mut pods = Vec::new();
        for host in 1..=PODS_RUN {
            let pod = Pod::start(host, port, &folder).await;
            server.apply(PODS, pod.object());
            pods.push(pod);
        }
        Cluster { server, pods, folder }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.pods.iter().map(Pod::address).collect()
    }

    async fn epp(&self, name: &str, flags: &[&str]) -> Epp {
        let flags = [&["--pool-name=pool", "--metrics-endpoint-auth=false"], flags].concat();
        Epp::in_cluster(&self.server, &flags, &[("POD_NAME", name)])
    }

    /// Replaces every pod, one after the other, as a Deployment does.
    async fn roll(&mut self) {
        for i in 0..self.pods.len() {
            let mut leaving = self.pods[i].object();
            leaving["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
            self.server.apply(PODS, leaving);
            // The pod's grace: what a gateway needs to hear of it, here 50 ms at most.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let (host, port) = (self.pods[i].ip.octets()[3], self.pods[i].port);
            self.pods[i].process.stop(Duration::from_secs(10)).await;
            self.server.delete(PODS, &self.pods[i].name);
            self.pods[i] = Pod::start(host, port, &self.folder).await;
            self.server.apply(PODS, self.pods[i].object());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_pods_and_a_lost_api_server_lose_no_request() {
    let mut cluster = Cluster::start().await;
    let mut epp = cluster.epp("epp", &[]).await;
    epp.eventually("inference_pool_ready_pods{name=\"pool\"} 3").await;
    // The destination is what epp says: Envoy knows no model server by itself.
    let envoy = Envoy::launch(Kind::OriginalDst, Transport::Plaintext, epp.grpc, &[])
        .await
        .unwrap();
    let load = Load::start(envoy.traffic, 1);
    load.answered(20).await;
    cluster.roll().await;
    load.answered(40).await;
    cluster.server.stop();
    let lost = Instant::now();
    while lost.elapsed() < Duration::from_secs(60) {
        load.answered(40).await;
    }
    let asked = cluster.server.requests("GET", "pods");
    cluster.server.restart();
    crate::support::wait::until("pods to be watched again", || {
        cluster.server.requests("GET", "pods") > asked
    })
    .await;
    cluster.roll().await;
    load.answered(40).await;
    epp.eventually("inference_pool_ready_pods{name=\"pool\"} 3").await;
    let (failed, answered) = load.end().await;
    assert!(
        failed.is_empty(),
        "{} of {answered} lost: {:?}\n{}",
        failed.len(),
        failed.first(),
        epp.log()
    );
}

/// Envoy over both replicas, told by their health ports who leads; without a leader it chooses by itself.
async fn over_both(cluster: &Cluster, replicas: [&Epp; 2]) -> Envoy {
    let listed = |epp: &Epp| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}, \
             health_check_config: {{port_value: {}}}}}}}",
            epp.grpc.port(),
            epp.health.port()
        )
    };
    let both = replicas.map(listed).join(", ");
    let first = replicas[0].grpc;
    let edit = |text: String| {
        let one = format!(
            "[{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]",
            first.port()
        );
        assert_eq!(text.matches(&one).count(), 1);
        let closed = "failure_mode_allow: false";
        assert_eq!(text.matches(closed).count(), 1);
        let cluster = "  - name: epp\n    type: STATIC\n";
        assert_eq!(text.matches(cluster).count(), 1);
        let checks = "    health_checks: [{timeout: 1s, interval: 0.2s, no_traffic_interval: 0.2s, \
                      unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {service_name: readiness}}]\n    \
                      common_lb_config: {healthy_panic_threshold: {value: 0}}\n";
        text.replace(&one, &format!("[{both}]"))
            .replace(closed, "failure_mode_allow: true")
            .replace(cluster, &format!("{cluster}{checks}"))
    };
    let addresses = cluster.addresses();
    let envoy = Envoy::launch_edited(Kind::OverrideHost, Transport::Plaintext, first, &addresses, edit);
    envoy.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_no_client_that_asks_again() {
    let cluster = Cluster::start().await;
    let flags = ["--ha-enable-leader-election"];
    let mut first = cluster.epp("first", &flags).await;
    first
        .eventually("inference_pool_ready_pods{name=\"pool\"} 3")
        .await;
    let leads = crate::support::wait::until("the first replica to lead", || first.log().contains("Leading"));
    leads.await;
    let mut second = cluster.epp("second", &flags).await;
    second
        .eventually("inference_pool_ready_pods{name=\"pool\"} 3")
        .await;
    let envoy = over_both(&cluster, [&first, &second]).await;
    let load = Load::start(envoy.traffic, 10);
    load.answered(40).await;
    first.signal("KILL");
    crate::support::wait::until("the second replica to lead", || second.log().contains("Leading")).await;
    load.answered(80).await;
    let picked = "inference_objective_request_total{model_name=\"m\"";
    let page = second.page().await.unwrap();
    assert!(page.contains(picked), "the new leader picks\n{page}");
    let (failed, answered) = load.end().await;
    assert!(
        failed.is_empty(),
        "{} of {answered} lost: {:?}",
        failed.len(),
        failed.first()
    );
}
