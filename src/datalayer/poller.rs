//! The poller: one task per endpoint, started when the endpoint joins the fleet and stopped when it leaves.
//! Tasks share nothing that one of them could hold up: a slow, dead or hostile endpoint costs only itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::datastore::Datastore;
use crate::model::endpoint::Endpoint;
use crate::model::endpoint_list::{Difference, EndpointList};
use crate::wire::prometheus::Readings;

use super::engine::{Engine, Engines};
use super::fetch::{FetchError, Fetcher, Scheme};
use super::health::Health;
use super::schedule::Schedule;

/// How endpoints are scraped.
#[derive(Clone, Debug)]
pub struct PollerSettings {
    /// Time between scrapes of one endpoint (`--refresh-metrics-interval`).
    pub interval: Duration,
    /// The longest one scrape may take, connection included.
    pub timeout: Duration,
    /// `--model-server-metrics-scheme`.
    pub scheme: Scheme,
    /// Path of the page, for endpoints without one of their own (`--model-server-metrics-path`).
    pub path: String,
    /// Accept any certificate (`--model-server-metrics-https-insecure-skip-verify`).
    pub insecure_skip_verify: bool,
    /// The largest page that is read; a longer one counts as a failed scrape.
    pub max_page_bytes: usize,
    /// What is read from a page, by engine.
    pub engines: Arc<Engines>,
}

impl Default for PollerSettings {
    fn default() -> Self {
        PollerSettings {
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(1),
            scheme: Scheme::Http,
            path: "/metrics".into(),
            insecure_skip_verify: true,
            max_page_bytes: 4 << 20,
            engines: Arc::default(),
        }
    }
}

/// Why a poller cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PollerError {
    /// An interval of zero would never rest.
    #[error("the interval between scrapes must be longer than zero")]
    ZeroInterval,
    /// The HTTP client cannot be built.
    #[error("metrics client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Keeps the samples of a datastore's endpoints fresh while it runs.
#[derive(Debug)]
pub struct Poller {
    datastore: Arc<Datastore>,
    scraper: watch::Sender<Arc<Scraper>>,
}

/// Changes how a running poller scrapes.
#[derive(Clone, Debug)]
pub struct PollerHandle(watch::Sender<Arc<Scraper>>);

impl PollerHandle {
    /// Scrapes by `settings` from now on. Samples stay; every endpoint is scraped anew within one interval.
    /// Settings that are the same change nothing.
    ///
    /// # Errors
    /// As [`Poller::new`]; the poller goes on as before.
    pub fn change(&self, settings: PollerSettings) -> Result<(), PollerError> {
        let now = self.0.borrow().clone();
        if now.settings.same(&settings) {
            return Ok(());
        }
        let next = Scraper::new(settings, now.clock.clone(), now.origin)?;
        self.0.send_replace(Arc::new(next));
        Ok(())
    }
}

/// What all tasks share, none of it locked across a wait.
#[derive(Debug)]
struct Scraper {
    settings: PollerSettings,
    fetcher: Fetcher,
    clock: Clock,
    /// Where schedules start.
    origin: Instant,
}

impl Poller {
    /// A poller of the endpoints of `datastore`. `clock` stamps the samples; timers are the runtime's.
    ///
    /// # Errors
    /// On an interval of zero, and when the TLS set-up fails.
    pub fn new(
        settings: PollerSettings,
        datastore: Arc<Datastore>,
        clock: Clock,
    ) -> Result<Self, PollerError> {
        let scraper = Arc::new(Scraper::new(settings, clock, Instant::now())?);
        Ok(Poller {
            datastore,
            scraper: watch::Sender::new(scraper),
        })
    }

    /// A handle to change the settings while it runs.
    pub fn handle(&self) -> PollerHandle {
        PollerHandle(self.scraper.clone())
    }

    /// Scrapes until `token` is cancelled. Tasks run on the current runtime.
    pub async fn run(self, token: CancellationToken) {
        let mut changed = self.datastore.watch();
        let mut scraper = self.scraper.subscribe();
        let mut tasks = Tasks::new(scraper.borrow_and_update().clone());
        // What the tasks are for. Only what differs from it is looked at.
        let mut scraped = EndpointList::default();
        changed.mark_changed();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                // The datastore is ours, so its sender outlives this receiver.
                _ = changed.changed() => {
                    let endpoints = self.datastore.fleet().endpoints.clone();
                    tasks.follow(endpoints.difference(&scraped));
                    scraped = endpoints;
                }
                _ = scraper.changed() => tasks.restart(scraper.borrow_and_update().clone(), &scraped),
                Some(ended) = tasks.set.join_next_with_id() => tasks.ended(ended.map(|(id, ())| id)),
            }
        }
    }
}

/// The running tasks, by endpoint id. Dropped, they stop.
struct Tasks {
    scraper: Arc<Scraper>,
    set: JoinSet<()>,
    running: HashMap<u64, Task>,
}

struct Task {
    endpoint: Arc<Endpoint>,
    handle: AbortHandle,
}

impl Tasks {
    fn new(scraper: Arc<Scraper>) -> Self {
        Tasks {
            scraper,
            set: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Stops the tasks of endpoints that left and starts those of endpoints that joined. One with new labels does both: it
    /// is another object under the same id, and its engine may be another.
    fn follow(&mut self, difference: Difference) {
        for left in difference.left {
            if let Some(task) = self.running.remove(&left.id) {
                task.handle.abort();
            }
        }
        for joined in difference.joined {
            self.start(joined);
        }
    }

    fn start(&mut self, endpoint: Arc<Endpoint>) {
        let (id, task) = (endpoint.id, keep_fresh(self.scraper.clone(), endpoint.clone()));
        let handle = self.set.spawn(task);
        self.running.insert(id, Task { endpoint, handle });
    }

    /// Starts all anew, with another scraper.
    fn restart(&mut self, scraper: Arc<Scraper>, endpoints: &EndpointList) {
        self.scraper = scraper;
        for (_, task) in self.running.drain() {
            task.handle.abort();
        }
        endpoints.iter().for_each(|e| self.start(e.clone()));
    }

    /// A task never ends by itself: this one was aborted, and is no longer listed, or it panicked and is started anew.
    fn ended(&mut self, ended: Result<tokio::task::Id, JoinError>) {
        let id = match ended {
            Ok(id) => id,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(%error, "a metrics task failed and is started again");
                error.id()
            }
        };
        let failed = self.running.values().find(|task| task.handle.id() == id);
        if let Some(endpoint) = failed.map(|task| task.endpoint.clone()) {
            self.start(endpoint);
        }
    }
}

/// Scrapes one endpoint at its turns, for ever.
async fn keep_fresh(scraper: Arc<Scraper>, endpoint: Arc<Endpoint>) {
    let settings = &scraper.settings;
    let schedule = Schedule::new(scraper.origin, settings.interval, endpoint.id);
    let engine = settings.engines.of(&endpoint.spec.labels).clone();
    let url = page_url(settings, &endpoint);
    let mut readings = Readings::default();
    let mut health = Health::default();
    loop {
        let pause = health.pause(settings.interval);
        sleep_until(schedule.after(Instant::now() + pause).into()).await;
        let scrape = async {
            let url = url.as_ref().map_err(|e| ScrapeError::Address(e.to_string()))?;
            scraper.scrape(url, &engine, &endpoint, &mut readings).await
        };
        match timeout(settings.timeout, scrape).await {
            Ok(Ok(())) => health.succeeded(&endpoint.authority),
            Ok(Err(error)) => health.failed(&endpoint.authority, &error),
            Err(_) => health.failed(&endpoint.authority, &ScrapeError::Slow(settings.timeout)),
        }
    }
}

fn page_url(settings: &PollerSettings, endpoint: &Endpoint) -> Result<Url, impl std::fmt::Display + use<>> {
    let path = endpoint.spec.metrics_path.as_deref().unwrap_or(&settings.path);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let address = endpoint.metrics_address();
    Url::parse(&format!("{}://{address}{slash}{path}", settings.scheme.as_str()))
}

/// Why a scrape brought no new sample.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("the address of the page is not a URL: {0}")]
    Address(String),
    #[error("no complete page within {0:?}")]
    Slow(Duration),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the page has none of the wanted metrics ({malformed} of them unreadable)")]
    NothingWanted { malformed: usize },
}

impl PollerSettings {
    /// Is nothing different? Engines are compared by identity: a configuration that leaves them alone keeps them.
    fn same(&self, other: &PollerSettings) -> bool {
        let all = |s: &PollerSettings| {
            (
                (s.interval, s.timeout, s.max_page_bytes),
                (s.scheme, s.path.clone(), s.insecure_skip_verify),
            )
        };
        all(self) == all(other) && Arc::ptr_eq(&self.engines, &other.engines)
    }
}

impl Scraper {
    fn new(settings: PollerSettings, clock: Clock, origin: Instant) -> Result<Self, PollerError> {
        if settings.interval.is_zero() {
            return Err(PollerError::ZeroInterval);
        }
        let idle = (settings.interval * 3).max(Duration::from_secs(10));
        let fetcher = Fetcher::new(settings.insecure_skip_verify, settings.max_page_bytes, idle)?;
        Ok(Scraper {
            settings,
            fetcher,
            clock,
            origin,
        })
    }

    async fn scrape(
        &self,
        url: &Url,
        engine: &Engine,
        endpoint: &Endpoint,
        readings: &mut Readings,
    ) -> Result<(), ScrapeError> {
        self.fetcher.fetch(url, &engine.wanted, readings).await?;
        let previous = endpoint.sample();
        let sample = engine.extract(readings, &previous, self.clock.now());
        let malformed = readings.malformed();
        endpoint.publish(sample.ok_or(ScrapeError::NothingWanted { malformed })?);
        Ok(())
    }
}
