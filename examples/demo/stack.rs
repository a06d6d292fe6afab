//! The processes of one pass: simulators, `epp` with endpoints from a file, Envoy. They die with the [`Stack`].

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::envoy::{Envoy, Kind, Transport};
use crate::measure::{self, CacheCounters};
use crate::options::Options;
use crate::ports;
use crate::process::{Process, answers};

/// Simulated model servers; the shipped Envoy configuration has as many places.
pub const SERVERS: usize = 4;
/// How long one process may take to become ready.
const START: Duration = Duration::from_secs(30);
/// How long one process may take to end when asked.
const STOP: Duration = Duration::from_secs(3);

/// What a simulated server can do: 8 requests at once, 2048 blocks of 16 tokens of cache, 0.3 ms for every prompt token
/// that is not in the cache, 8 ms for every token of the answer.
const SIMULATED: [&str; 17] = [
    "--model",
    "demo",
    "--bind-address",
    "127.0.0.1",
    "--max-num-seqs",
    "8",
    "--max-model-len",
    "8192",
    "--enable-kvcache",
    "--kv-cache-size",
    "2048",
    "--prefill-overhead",
    "10ms",
    "--prefill-time-per-token",
    "300us",
    "--inter-token-latency",
    "8ms",
];

/// How `epp` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The default profile: queues, cache use, prefixes.
    Informed,
    /// Any endpoint.
    Random,
}

impl Choice {
    /// Its name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Choice::Informed => "epp",
            Choice::Random => "random-picker",
        }
    }

    fn plugins(self) -> &'static str {
        match self {
            Choice::Informed => {
                "- type: queue-scorer\n- type: kv-cache-utilization-scorer\n- type: prefix-cache-scorer\n"
            }
            Choice::Random => "- type: random-picker\n",
        }
    }

    fn profile(self) -> &'static str {
        match self {
            Choice::Informed => {
                "  - {pluginRef: queue-scorer, weight: 2}\n  - {pluginRef: kv-cache-utilization-scorer, weight: 2}\n  \
                 - {pluginRef: prefix-cache-scorer, weight: 3}\n"
            }
            Choice::Random => "  - {pluginRef: random-picker}\n",
        }
    }
}

/// Everything that runs in one pass. Fields are dropped in this order: the front goes first.
pub struct Stack {
    envoy: Envoy,
    epp: Process,
    servers: Vec<(SocketAddr, Process)>,
    metrics: SocketAddr,
    _folder: TempDir,
}

impl Stack {
    /// Starts all of it with cold caches and waits until it is ready.
    ///
    /// # Errors
    /// A process could not be started or was not ready in time; the text names it and shows what it said.
    pub async fn start(choice: Choice, options: &Options) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
        let mut servers = Vec::new();
        for i in 0..SERVERS {
            servers.push(simulator(i, options, folder.path())?);
        }
        for (address, server) in &mut servers {
            server
                .ready(START, async || answers(*address, "/health").await)
                .await?;
        }
        let pool: Vec<SocketAddr> = servers.iter().map(|(address, _)| *address).collect();
        let (epp, grpc, metrics) = picker(choice, options, &pool, folder.path()).await?;
        let envoy = Envoy::launch(Kind::OverrideHost, Transport::Tls, grpc, &pool).await?;
        Ok(Stack {
            envoy,
            epp,
            servers,
            metrics,
            _folder: folder,
        })
    }

    /// Where clients connect.
    pub fn traffic(&self) -> SocketAddr {
        self.envoy.traffic
    }

    /// Envoy's admin address.
    pub fn admin(&self) -> SocketAddr {
        self.envoy.admin
    }

    /// Address of `epp`'s metrics page.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Process id of `epp`.
    pub fn epp_pid(&self) -> u32 {
        self.epp.pid()
    }

    /// Requests by model server, as Envoy counted them.
    ///
    /// # Errors
    /// Envoy does not say.
    pub async fn requests_per_endpoint(&self) -> Result<Vec<(SocketAddr, u64)>, String> {
        let page = measure::page(self.admin(), "/clusters").await?;
        let count = |address: &SocketAddr| {
            let prefix = format!("pool::{address}::rq_total::");
            let line = page.lines().find_map(|l| l.strip_prefix(&prefix));
            let count = line.and_then(|n| n.parse().ok());
            count
                .map(|n| (*address, n))
                .ok_or(format!("Envoy has no counter {prefix}"))
        };
        self.servers.iter().map(|(address, _)| count(address)).collect()
    }

    /// Prompt tokens looked up and found in the caches, as the model servers counted them, where they do.
    pub async fn cache_counters(&self) -> Option<CacheCounters> {
        let mut sum = CacheCounters::default();
        for (address, _) in &self.servers {
            sum += CacheCounters::read(&measure::page(*address, "/metrics").await.ok()?)?;
        }
        Some(sum)
    }

    /// What the processes said last, for a failure.
    pub fn logs(&self) -> String {
        let mut text = format!(
            "--- epp\n{}--- envoy\n{}",
            self.epp.log(),
            self.envoy.process.log()
        );
        for (address, server) in &self.servers {
            let _ = write!(text, "--- inference-sim {address}\n{}", server.log());
        }
        text
    }

    /// Ends everything, the front first.
    pub async fn stop(mut self) {
        self.envoy.process.stop(STOP).await;
        self.epp.stop(STOP).await;
        for (_, server) in &mut self.servers {
            server.stop(STOP).await;
        }
    }
}

fn simulator(i: usize, options: &Options, folder: &Path) -> Result<(SocketAddr, Process), String> {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let mut command = Command::new(options.binaries.join("inference-sim"));
    command
        .args(SIMULATED)
        .args(["--port", &address.port().to_string(), "--seed", &i.to_string()]);
    // The reference wants this for its cache events.
    command.env("POD_IP", "127.0.0.1");
    let log = folder.join(format!("inference-sim-{i}.log"));
    Ok((
        address,
        Process::start(&format!("inference-sim {i}"), &mut command, &log)?,
    ))
}

/// `epp`, its ext_proc address and its metrics address.
async fn picker(
    choice: Choice,
    options: &Options,
    pool: &[SocketAddr],
    folder: &Path,
) -> Result<(Process, SocketAddr, SocketAddr), String> {
    let (config, endpoints) = (folder.join("config.yaml"), folder.join("endpoints.yaml"));
    let mut list = String::from("endpoints:\n");
    for (i, a) in pool.iter().enumerate() {
        let _ = writeln!(
            list,
            "- {{name: server-{i}, address: {}, port: {}}}",
            a.ip(),
            a.port()
        );
    }
    let text = format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{}- type: file-discovery\n  parameters: \
         {{path: {}}}\nschedulingProfiles:\n- name: default\n  plugins:\n{}dataLayer:\n  discovery: {{pluginRef: \
         file-discovery}}\n",
        choice.plugins(),
        endpoints.display(),
        choice.profile()
    );
    let written = std::fs::write(&endpoints, list).and_then(|()| std::fs::write(&config, text));
    written.map_err(|e| format!("cannot write into {}: {e}", folder.display()))?;
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (grpc, health, metrics) = (at(ports::free()), at(ports::free()), at(ports::free()));
    let mut command = Command::new(options.binaries.join("epp"));
    command.arg("--config-file").arg(&config);
    for (flag, address) in [
        ("--grpc-port", grpc),
        ("--grpc-health-port", health),
        ("--metrics-port", metrics),
    ] {
        command.args([flag, &address.port().to_string()]);
    }
    command.args(["--bind-address", "127.0.0.1", "--pool-name", "demo"]);
    command.args(["--refresh-prometheus-metrics-interval", "100ms"]);
    let mut epp = Process::start("epp", &mut command, &folder.join("epp.log"))?;
    let line = format!("inference_pool_ready_pods{{name=\"demo\"}} {}", pool.len());
    let all_fresh = async || {
        let page = measure::page(metrics, "/metrics").await;
        page.is_ok_and(|page| page.lines().any(|l| l == line))
    };
    epp.ready(START, all_fresh).await?;
    Ok((epp, grpc, metrics))
}
