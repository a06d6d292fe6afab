//! The real `inference-sim` as a process in an environment of its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::epp::get;
use super::ports;

/// A running simulator; killed when dropped.
pub struct SimProcess {
    child: Child,
    /// Where it serves.
    pub address: SocketAddr,
    /// Asks it.
    pub client: reqwest::Client,
}

impl Drop for SimProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SimProcess {
    /// Starts it and waits until it serves.
    pub async fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let port = address.port().to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_inference-sim"))
            .args(["--bind-address", "127.0.0.1", "--port", &port])
            .args(args)
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut sim = SimProcess {
            child,
            address,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while get(sim.address, "/health").await.is_none() {
            let ended = sim.child.try_wait().unwrap();
            assert!(ended.is_none(), "the simulator ended: {args:?}");
            assert!(tokio::time::Instant::now() < deadline, "it does not serve");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sim
    }

    /// Status and answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let response = self.client.post(url).body(body.to_string()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The metrics page.
    pub async fn page(&self) -> String {
        get(self.address, "/metrics").await.unwrap()
    }

    /// Waits until the metrics page has all these lines.
    pub async fn until(&self, lines: &[&str]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let page = self.page().await;
            let missing = lines.iter().find(|line| !page.lines().any(|l| l == **line));
            let Some(missing) = missing else { return };
            assert!(
                tokio::time::Instant::now() < deadline,
                "no line `{missing}` in\n{page}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
