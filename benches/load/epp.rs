//! Starts the real `epp` with endpoints from a file.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::child::{Server, free_port};
use super::pool::Pool;

/// How `epp` is run.
pub struct Epp<'a> {
    /// Where its endpoints are.
    pub pool: &'a Pool,
    /// Core to pin it to.
    pub core: Option<usize>,
    /// Time between scrapes, as a flag value; long for benches that do not measure scraping.
    pub scrape_interval: &'a str,
    /// More flags.
    pub flags: &'a [&'a str],
}

/// The default profile over endpoints from a file.
pub const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: file-discovery
  parameters: {path: ENDPOINTS}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
dataLayer:
  discovery: {pluginRef: file-discovery}
";

impl Epp<'_> {
    /// Starts it; the files live as long as the returned folder.
    pub fn start(&self) -> (Server, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut endpoints = String::from("endpoints:\n");
        for (i, a) in self.pool.endpoints.iter().enumerate() {
            writeln!(
                endpoints,
                "- {{name: pod-{i}, address: {}, port: {}}}",
                a.ip(),
                a.port()
            )
            .unwrap();
        }
        let (config, file) = (
            folder.path().join("config.yaml"),
            folder.path().join("endpoints.yaml"),
        );
        std::fs::write(&file, endpoints).unwrap();
        std::fs::write(&config, CONFIG.replace("ENDPOINTS", &file.display().to_string())).unwrap();
        let port = free_port();
        let words = [
            env!("CARGO_BIN_EXE_epp").to_owned(),
            format!("--config-file={}", config.display()),
            format!("--grpc-port={port}"),
            format!("--grpc-health-port={}", free_port()),
            format!("--metrics-port={}", free_port()),
            "--bind-address=127.0.0.1".into(),
            "--secure-serving=false".into(),
            format!("--refresh-metrics-interval={}", self.scrape_interval),
            "--threads=1".into(),
            "--tracing=false".into(),
        ];
        let mut command = words.to_vec();
        command.extend(self.flags.iter().map(|f| (*f).to_owned()));
        (
            Server::start(&command, SocketAddr::from(([127, 0, 0, 1], port)), self.core),
            folder,
        )
    }
}
