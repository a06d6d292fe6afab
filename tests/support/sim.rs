//! The real `inference-sim` as a process.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::epp::get;
use super::ports;

/// A running simulator; killed when dropped.
pub struct Sim {
    child: Child,
    log: NamedTempFile,
    /// Where it serves.
    pub address: SocketAddr,
    /// Asks it.
    pub client: reqwest::Client,
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sim {
    /// Starts it and waits until it serves; `POD_IP` is set.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[("POD_IP", "127.0.0.1")]).await
    }

    /// Starts it in this environment and waits until it serves.
    pub async fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::launch(args, env).serving().await
    }

    /// Waits until it serves.
    pub async fn serving(self) -> Self {
        let mut sim = self;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while get(sim.address, "/health").await.is_none() {
            assert!(sim.child.try_wait().unwrap().is_none(), "the simulator ended");
            assert!(
                tokio::time::Instant::now() < deadline,
                "the simulator does not serve"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sim
    }

    /// Starts it in this environment.
    pub fn launch(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::launch_on(ports::free(), args, env)
    }

    /// Starts it on this port, in this environment.
    pub fn launch_on(port: u16, args: &[&str], env: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let log = NamedTempFile::new().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_inference-sim"))
            .args([
                "--bind-address",
                "127.0.0.1",
                "--port",
                &address.port().to_string(),
            ])
            .args(args)
            .env_remove("POD_NAME")
            .env_remove("POD_NAMESPACE")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Sim {
            child,
            log,
            address,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// A request with a body.
    pub fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client
            .post(format!("http://{}{path}", self.address))
            .body(body.to_string())
    }

    /// Status and answer as text.
    pub async fn answered(&self, path: &str, body: &Value) -> (u16, String) {
        let response = self.post(path, body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Status and answer.
    pub async fn json(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.answered(path, body).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    /// The metrics page.
    pub async fn page(&self) -> String {
        get(self.address, "/metrics").await.unwrap()
    }

    /// Waits until the metrics page has `line`.
    pub async fn until(&self, line: &str) {
        self.until_all(&[line]).await;
    }

    /// Waits until the metrics page has all these lines at once.
    pub async fn until_all(&self, lines: &[&str]) {
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

    /// The answer to a GET, as JSON.
    pub async fn get_json(&self, path: &str) -> Value {
        serde_json::from_str(&get(self.address, path).await.unwrap()).unwrap()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it has had resident, bytes.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Sends a signal by its name (`TERM`).
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "the simulator does not end"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The events of a stream, without the last `[DONE]`, which must be there.
    pub async fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.post(path, body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        let frames = text
            .strip_suffix("data: [DONE]\n\n")
            .unwrap_or_else(|| panic!("no end in {text}"));
        let frames = frames
            .split_terminator("\n\n")
            .map(|f| f.strip_prefix("data: ").unwrap());
        frames.map(|f| serde_json::from_str(f).unwrap()).collect()
    }
}

/// A client that trusts any certificate.
pub fn https() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy();
    client.danger_accept_invalid_certs(true).build().unwrap()
}

/// The first of `n` ports that follow each other, all given out once.
pub fn ports_in_a_row(n: u16) -> u16 {
    let mut first = ports::free();
    let mut last = first;
    while last + 1 < first + n {
        let next = ports::free();
        if next != last + 1 {
            first = next;
        }
        last = next;
    }
    first
}

/// A request to model `m` with one message.
pub fn chat(content: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": content}]})
}

/// A request to model `m` to go on with a text.
pub fn text(prompt: &str) -> Value {
    json!({"model": "m", "prompt": prompt})
}

/// `body` with more fields.
pub fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}
