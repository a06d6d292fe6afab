//! A model server that only has a metrics page, whose numbers a test sets.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;

/// What the page says.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Waiting requests.
    pub queue: u32,
    /// KV-cache use.
    pub kv: f64,
    /// Running requests.
    pub running: u32,
    /// Adapters with running requests; none: no LoRA family on the page.
    pub adapters: Vec<String>,
    /// Adapter capacity.
    pub max_adapters: u32,
}

impl State {
    /// The page in Prometheus text.
    pub fn page(&self) -> String {
        let mut page = String::new();
        for (name, value) in [
            ("vllm:num_requests_waiting", f64::from(self.queue)),
            ("vllm:num_requests_running", f64::from(self.running)),
            ("vllm:kv_cache_usage_perc", self.kv),
        ] {
            write!(
                page,
                "# TYPE {name} gauge\n{name}{{model_name=\"base\"}} {value}\n"
            )
            .unwrap();
        }
        if !self.adapters.is_empty() {
            writeln!(
                page,
                "vllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"\"}} 1764000000",
                self.max_adapters,
                self.adapters.join(",")
            )
            .unwrap();
        }
        page
    }
}

/// A running model server; ends with its runtime.
#[derive(Clone)]
pub struct ModelServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl ModelServer {
    /// Starts one on the loopback address number `host` (127.0.0.`host`), same `port` for several hosts.
    pub async fn start(host: u8, port: u16, state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        let page = state.clone();
        let app = Router::new().route(
            "/metrics",
            get(move || async move { page.lock().unwrap().page() }),
        );
        let address = SocketAddr::from(([127, 0, 0, host], port));
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        ModelServer { address, state }
    }

    /// Changes what the page says.
    pub fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }
}
