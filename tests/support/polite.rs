//! A polite client of tests and benches: one exchange each 50 ms on a connection and a thread of its own, so that what
//! it notices is what the servers do, not what the attacker's runtime is busy with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between the beginnings of two exchanges.
const PACE: Duration = Duration::from_millis(50);
/// Longest wait for an answer; a request without one is lost.
const PATIENCE: Duration = Duration::from_secs(10);
const BODY: &str = r#"{"model":"polite","prompt":"How do you do?"}"#;

/// What became of the exchanges.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Times of the answered ones.
    pub times: Vec<Duration>,
    /// What became of the others.
    pub lost: Vec<String>,
}

impl Record {
    /// The time 99 of 100 exchanges are below.
    pub fn p99(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        let rank = (times.len() * 99).div_ceil(100).max(1) - 1;
        times.get(rank).copied().unwrap_or(Duration::MAX)
    }
}

/// A client at work; it stops when dropped.
pub struct Polite {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Record>>,
}

impl Drop for Polite {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Polite {
    /// Begins, through the Envoy at `traffic`.
    pub fn start(traffic: SocketAddr) -> Self {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (until, count) = (stop.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(exchanges(traffic, &until, &count))
        });
        Polite {
            stop,
            answered,
            thread: Some(thread),
        }
    }

    /// Exchanges answered or lost so far.
    pub fn count(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` exchanges have ended from now on.
    pub async fn exchanges(&self, more: usize) {
        let wanted = self.count() + more;
        super::wait::until("the polite client's exchanges", || self.count() >= wanted).await;
    }

    /// Stops after the exchange under way.
    pub async fn end(mut self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap()
    }
}

async fn exchanges(traffic: SocketAddr, stop: &AtomicBool, count: &AtomicUsize) -> Record {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let url = format!("http://{traffic}/v1/completions");
    let mut record = Record::default();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let began = Instant::now();
        let answer = async {
            let response = client.post(&url).body(BODY).send().await?;
            let status = response.status();
            response.bytes().await.map(|_| status)
        };
        match answer.await {
            Ok(status) if status == 200 => record.times.push(began.elapsed()),
            Ok(status) => record.lost.push(status.to_string()),
            Err(error) => record.lost.push(error.to_string()),
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    record
}
