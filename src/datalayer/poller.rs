//! The poller: one task per endpoint, started when the endpoint joins the fleet and stopped when it leaves.
//! Tasks share nothing that one of them could hold up: a slow, dead or hostile endpoint costs only itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::datastore::Datastore;
use crate::model::endpoint::Endpoint;
use crate::model::endpoint_list::{Difference, EndpointList};
use crate::model::health::HealthPolicy;

use super::certificates;
use super::engine::Engines;
use super::fetch::Scheme;
use super::probe::Prober;

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
    /// How the health of endpoints is judged; `None`: it is not.
    pub health: Option<HealthPolicy>,
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
            health: Some(HealthPolicy::default()),
        }
    }
}

/// Why a poller cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PollerError {
    /// An interval of zero would never rest.
    #[error("the interval between scrapes must be longer than zero")]
    ZeroInterval,
    /// TLS cannot be set up.
    #[error("metrics client: {0}")]
    Tls(#[from] rustls::Error),
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
pub(super) struct Scraper {
    pub settings: PollerSettings,
    /// Where pages are served over TLS.
    pub connector: Option<TlsConnector>,
    pub clock: Clock,
    /// Where schedules start.
    pub origin: Instant,
}

impl std::fmt::Debug for Scraper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scraper")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
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
        let task = Prober::new(self.scraper.clone(), endpoint.clone()).run();
        let id = endpoint.id;
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

impl PollerSettings {
    /// Is nothing different? Engines are compared by identity: a configuration that leaves them alone keeps them.
    fn same(&self, other: &PollerSettings) -> bool {
        let all = |s: &PollerSettings| {
            (
                (s.interval, s.timeout, s.max_page_bytes, s.health),
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
        let connector = match settings.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(certificates::connector(settings.insecure_skip_verify)?),
        };
        Ok(Scraper {
            settings,
            connector,
            clock,
            origin,
        })
    }
}
