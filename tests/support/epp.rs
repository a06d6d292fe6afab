//! The real `epp` as a process, with endpoints from a file.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::apiserver::Reached;
use super::ports;

/// A configuration that takes the endpoint with the shortest queue.
const CLUSTER_CONFIG: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: queue-scorer\n\
    schedulingProfiles:\n- name: default\n  plugins:\n  - {pluginRef: queue-scorer}\n";

/// How `epp` is to run.
pub struct Options {
    /// Plugins of the configuration, YAML list items; `file-discovery` is added.
    pub plugins: String,
    /// `schedulingProfiles:` section, or empty.
    pub profiles: String,
    /// Text of the endpoints file.
    pub endpoints: String,
    /// More flags.
    pub flags: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Limit of file descriptors.
    pub descriptors: Option<u32>,
    /// Words of the command line before those of `epp`: what runs it.
    pub launcher: Vec<String>,
}

impl Options {
    /// Scorers of weight 1 over `endpoints`: kv, queue, prefix, lora (the set-up of request.md §9.1).
    pub fn hermetic(endpoints: &[SocketAddr]) -> Self {
        let mut text = String::from("endpoints:\n");
        for (i, a) in endpoints.iter().enumerate() {
            writeln!(
                text,
                "- {{name: pod-{i}-rank-0, address: \"{}\", port: {}}}",
                a.ip(),
                a.port()
            )
            .unwrap();
        }
        if endpoints.is_empty() {
            text = "endpoints: []\n".into();
        }
        let scorers = [
            "kv-cache-utilization-scorer",
            "queue-scorer",
            "prefix-cache-scorer",
            "lora-affinity-scorer",
        ];
        let mut profiles = String::from("schedulingProfiles:\n- name: default\n  plugins:\n");
        for s in scorers {
            writeln!(profiles, "  - {{pluginRef: {s}, weight: 1}}").unwrap();
        }
        Options {
            plugins: scorers.iter().map(|s| format!("- type: {s}\n")).collect(),
            profiles,
            endpoints: text,
            flags: Vec::new(),
            env: Vec::new(),
            descriptors: None,
            launcher: Vec::new(),
        }
    }

    /// One profile with these scorers and weights, in place of the hermetic one.
    pub fn scored_by(mut self, scorers: &[(&str, f64)]) -> Self {
        self.plugins = scorers.iter().map(|(s, _)| format!("- type: {s}\n")).collect();
        self.profiles = String::from("schedulingProfiles:\n- name: default\n  plugins:\n");
        for (scorer, weight) in scorers {
            writeln!(self.profiles, "  - {{pluginRef: {scorer}, weight: {weight}}}").unwrap();
        }
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The configuration, with endpoints from the file `endpoints`.
    pub fn config(&self, endpoints: &Path) -> String {
        format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{}- type: file-discovery\n  \
             parameters: {{path: {}, watchFile: true}}\n{}dataLayer:\n  discovery: {{pluginRef: file-discovery}}\n",
            self.plugins,
            endpoints.display(),
            self.profiles
        )
    }

    /// The words of the command line before those of `epp`.
    fn words_before(&self) -> Vec<String> {
        let mut words = self.launcher.clone();
        if let Some(descriptors) = self.descriptors {
            let limited = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
            words.extend(["sh".into(), "-c".into(), limited]);
        }
        words
    }

    /// Adds a flag.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.into());
        self
    }
}

/// A running `epp`; killed when dropped.
pub struct Epp {
    child: Child,
    /// ext_proc address.
    pub grpc: SocketAddr,
    /// Health address.
    pub health: SocketAddr,
    /// Metrics address.
    pub metrics: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Epp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
            eprintln!("--- stderr of epp\n{log}");
        }
    }
}

impl Epp {
    /// Starts it and waits until every endpoint has a fresh sample.
    pub async fn start(options: &Options, endpoints: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("endpoints.yaml"), &options.endpoints).unwrap();
        std::fs::write(path("config.yaml"), options.config(&path("endpoints.yaml"))).unwrap();
        let environment: Vec<(&str, &str)> = options
            .env
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let mut flags = vec!["--pool-name=test-pool".to_owned()];
        flags.extend(options.flags.iter().cloned());
        let launcher = options.words_before();
        let mut epp = Epp::spawn(folder, &launcher, &flags, &environment);
        let ready = format!("inference_pool_ready_pods{{name=\"test-pool\"}} {endpoints}");
        epp.eventually(&ready).await;
        epp
    }

    /// Starts it beside a Kubernetes API: the built-in configuration, `flags` besides those of the ports.
    pub fn in_cluster(server: &impl Reached, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig);
        let mut all = vec![
            ("KUBECONFIG", kubeconfig.to_str().unwrap()),
            ("NAMESPACE", server.namespace()),
        ];
        all.extend_from_slice(environment);
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        std::fs::write(folder.path().join("config.yaml"), CLUSTER_CONFIG).unwrap();
        Epp::spawn(folder, &[], &flags, &all)
    }

    /// Runs `config.yaml` of the folder.
    fn spawn(
        folder: tempfile::TempDir,
        launcher: &[String],
        flags: &[String],
        environment: &[(&str, &str)],
    ) -> Self {
        let path = |name: &str| folder.path().join(name);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (grpc, health, metrics) = (
            address(ports::free()),
            address(ports::free()),
            address(ports::free()),
        );
        let mut words = launcher
            .iter()
            .map(String::as_str)
            .chain([env!("CARGO_BIN_EXE_epp")]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .arg(format!("--config-file={}", path("config.yaml").display()))
            .arg(format!("--grpc-port={}", grpc.port()))
            .arg(format!("--grpc-health-port={}", health.port()))
            .arg(format!("--metrics-port={}", metrics.port()))
            .args(["--bind-address=127.0.0.1", "--secure-serving=false"])
            .args(["--refresh-prometheus-metrics-interval=20ms", "--threads=2"])
            .arg("--drain-quiet-period=0s")
            .args(flags)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("stderr")).unwrap())
            .spawn()
            .unwrap();
        Epp {
            child,
            grpc,
            health,
            metrics,
            folder,
        }
    }

    /// The endpoints file, for tests that change it.
    pub fn endpoints_file(&self) -> PathBuf {
        self.folder.path().join("endpoints.yaml")
    }

    /// Replaces the configuration file in one step, as an editor or a mount does.
    pub fn configure(&self, text: &str) {
        let (new, file) = (
            self.folder.path().join("config.new"),
            self.folder.path().join("config.yaml"),
        );
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &file).unwrap();
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// Waits until its stderr has a line with `text`; that line.
    pub async fn says(&self, text: &str) -> String {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|l| l.contains(text)) {
                return line.to_owned();
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "`{text}` is not said in\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it has had resident, bytes.
    pub fn peak_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory it has resident now, bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// A line of its status in bytes; 0 once it has ended.
    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The metrics page, or nothing while it is not served.
    pub async fn page(&self) -> Option<String> {
        get(self.metrics, "/metrics").await
    }

    /// Waits until the metrics page has `line`.
    pub async fn eventually(&mut self, line: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let page = self.page().await;
            if page.as_ref().is_some_and(|p| p.lines().any(|l| l == line)) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("epp ended with {status}");
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no line `{line}` in\n{}",
                page.unwrap_or_else(|| "(no page)".into())
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends it a signal by name (`TERM`).
    pub fn signal(&self, name: &str) {
        let ok = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()
            .unwrap();
        assert!(ok.success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Body of a GET, if it answers 200.
pub async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let url = format!("http://{address}{path}");
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let path = url.split_once("://")?.1.split_once('/')?.1.to_owned();
        std::io::Write::write_all(
            &mut stream,
            format!("GET /{path} HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.split(' ')
            .nth(1)
            .filter(|s| *s == "200")
            .map(|_| body.to_owned())
    })
    .await
    .unwrap()
}

/// Is `path` a file below the folder of the package? For messages that name example files.
pub fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
