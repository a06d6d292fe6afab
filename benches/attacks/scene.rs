//! What an attack meets: model servers, the real `epp` in a cgroup of 1 GiB, a real Envoy before it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::support::envoy::{Envoy, Kind, Transport};
use super::support::epp::{Epp, Options};
use super::support::polite::Polite;
use super::support::ports;
use super::support::scripted_server::ScriptedServer;

/// Memory `epp` may take before the kernel ends it, bytes: that of the chart.
const MEMORY: u64 = 1 << 30;
/// Model servers.
const SERVERS: u8 = 2;

/// How it is set up.
pub struct SetUp {
    /// What the first model server adds to its metrics page.
    pub page: &'static str,
    /// Does `epp` serve TLS?
    pub tls: bool,
    /// File descriptors `epp` may have.
    pub descriptors: Option<u32>,
    /// A third model server that sends `100 Continue` for ever to those who ask for its metrics.
    pub continues: bool,
    /// Is there a polite client?
    pub polite: bool,
}

impl Default for SetUp {
    fn default() -> Self {
        SetUp {
            page: "",
            tls: false,
            descriptors: None,
            continues: false,
            polite: true,
        }
    }
}

/// All that runs.
pub struct Scene {
    pub epp: Epp,
    pub servers: Vec<ScriptedServer>,
    /// Where clients connect.
    pub traffic: SocketAddr,
    with_polite: bool,
    _envoy: Envoy,
    _group: Option<Group>,
}

impl Scene {
    /// Starts it.
    pub async fn start(set_up: &SetUp) -> Self {
        let port = ports::free();
        let mut servers = Vec::new();
        for host in 1..=SERVERS {
            let page = if host == 1 { set_up.page } else { "" };
            servers.push(ScriptedServer::start(host, port, page).await);
        }
        let mut pool: Vec<SocketAddr> = servers.iter().map(|s| s.address).collect();
        let ready = pool.len();
        if set_up.continues {
            pool.push(super::servers::continues().await);
        }
        let group = Group::of(MEMORY);
        let mut options = Options::hermetic(&pool)
            .flag("--refresh-prometheus-metrics-interval=50ms")
            .flag(&format!("--secure-serving={}", set_up.tls));
        options.launcher = group.as_ref().map(Group::launcher).unwrap_or_default();
        options.descriptors = set_up.descriptors;
        let epp = Epp::start(&options, ready).await;
        let transport = if set_up.tls {
            Transport::Tls
        } else {
            Transport::Plaintext
        };
        let envoy = Envoy::launch(Kind::OriginalDst, transport, epp.grpc, &pool).await;
        let envoy = envoy.unwrap_or_else(|e| panic!("{e}"));
        Scene {
            epp,
            servers,
            traffic: envoy.traffic,
            with_polite: set_up.polite,
            _envoy: envoy,
            _group: group,
        }
    }

    /// A polite client, where the attack has one.
    pub fn polite(&self) -> Option<Polite> {
        self.with_polite.then(|| Polite::start(self.traffic))
    }

    /// Has every connection made and every path gone once.
    pub async fn warm(&self) {
        let polite = Polite::start(self.traffic);
        polite.exchanges(10).await;
        polite.end().await;
    }

    /// Begins the peak of `epp` anew.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.epp.pid()), "5").unwrap();
    }

    /// CPU time of the busiest worker so far.
    pub fn workers(&self) -> Vec<Duration> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.epp.pid())).unwrap();
        let worker = |task: PathBuf| {
            let name = std::fs::read_to_string(task.join("comm")).ok()?;
            let stat = std::fs::read_to_string(task.join("schedstat")).ok()?;
            let nanos = stat.split(' ').next()?.parse().ok()?;
            name.starts_with("ext-proc")
                .then(|| (name, Duration::from_nanos(nanos)))
        };
        let mut workers: Vec<_> = tasks.filter_map(|t| worker(t.ok()?.path())).collect();
        workers.sort();
        workers.into_iter().map(|(_, time)| time).collect()
    }
}

/// A cgroup with a memory limit; removed when dropped. None where cgroups cannot be made: `epp` is then judged by what it
/// takes, but not ended for it.
struct Group(PathBuf);

impl Group {
    fn of(limit: u64) -> Option<Self> {
        let name = format!("epp-attacks-{}-{}", std::process::id(), ports::free());
        for (root, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let path = Path::new(root).join(&name);
            if std::fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Group(path);
            if std::fs::write(group.0.join(file), limit.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Group {
    /// The words that start a program in it.
    fn launcher(&self) -> Vec<String> {
        let procs = self.0.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
        vec!["sh".into(), "-c".into(), script]
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty once its process has been reaped; where it is not, an empty folder stays.
        let _left = std::fs::remove_dir(&self.0);
    }
}
