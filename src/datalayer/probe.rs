//! The task of one endpoint: scrapes its page at its turns, and tells its health what that says about it. After a failure
//! to reach it, and when a response raised the suspicion, it tries again at once.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};

use crate::model::endpoint::Endpoint;
use crate::model::health::{Evidence, Standing, StandingChange};
use crate::wire::prometheus::Readings;

use super::attempts::Attempts;
use super::engine::Engine;
use super::fetch::{FetchError, Page, connect_evidence};
use super::poller::{PollerSettings, Scraper};
use super::schedule::Schedule;

/// Time between attempts while it is open whether an endpoint can be reached.
const RETRY: Duration = Duration::from_millis(10);
/// Longest pause while an endpoint that can be reached is not healthy yet.
const CLEAR: Duration = Duration::from_millis(500);

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

/// What keeps one endpoint's sample fresh and its health current.
pub(super) struct Prober {
    scraper: Arc<Scraper>,
    endpoint: Arc<Endpoint>,
    engine: Arc<Engine>,
    schedule: Schedule,
    page: Result<Page, String>,
    /// Where requests go, when metrics come from elsewhere: then a scrape says nothing of it.
    serving: Option<SocketAddr>,
    readings: Readings,
    attempts: Attempts,
}

impl Prober {
    /// The prober of `endpoint`.
    pub fn new(scraper: Arc<Scraper>, endpoint: Arc<Endpoint>) -> Self {
        let settings = &scraper.settings;
        let (metrics, serving) = (endpoint.metrics_address(), endpoint.spec.address);
        let page = page_url(settings, &endpoint)
            .map(|url| Page::new(metrics, url, scraper.connector.as_ref(), settings.max_page_bytes));
        Prober {
            engine: settings.engines.of(&endpoint.spec.labels).clone(),
            schedule: Schedule::new(scraper.origin, settings.interval, endpoint.id),
            page,
            serving: Some(serving).filter(|s| *s != metrics),
            readings: Readings::default(),
            attempts: Attempts::default(),
            scraper,
            endpoint,
        }
    }

    /// Scrapes the endpoint at its turns, for ever.
    pub async fn run(mut self) {
        loop {
            self.turn().await;
            let (scraped, evidence) = self.scrape().await;
            match scraped {
                Ok(()) => self.attempts.succeeded(&self.endpoint.authority),
                Err(error) => self.attempts.failed(&self.endpoint.authority, &error),
            }
            self.judge(evidence).await;
        }
    }

    /// Waits for the next attempt.
    async fn turn(&self) {
        let (now, health) = (Instant::now(), &self.endpoint.health);
        let interval = self.scraper.settings.interval;
        let planned = |pause| self.schedule.after(now + pause);
        let pause = self.attempts.pause(interval);
        if self.scraper.settings.health.is_none() {
            return sleep_until(planned(pause).into()).await;
        }
        let retry = now + RETRY.min(interval);
        let next = match (health.standing(), health.failing()) {
            (Standing::Down, true) | (Standing::Healthy, false) => planned(pause),
            // It answers, and is to be cleared soon whatever its page says.
            (_, false) => planned(Duration::ZERO).min(now + CLEAR),
            (_, true) => retry,
        };
        let wanted = async {
            poll_fn(|context| health.poll_wanted(context)).await;
            sleep_until(retry.into()).await;
        };
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = wanted => {}
        }
    }

    /// One scrape, and what it says about the server of the page.
    async fn scrape(&mut self) -> (Result<(), ScrapeError>, Option<Evidence>) {
        let limit = self.scraper.settings.timeout;
        let page = match &mut self.page {
            Ok(page) => page,
            Err(why) => return (Err(ScrapeError::Address(why.clone())), None),
        };
        let fetched = timeout(limit, page.fetch(&self.engine.wanted, &mut self.readings)).await;
        match fetched {
            Err(_) => (Err(ScrapeError::Slow(limit)), Some(page.late_evidence())),
            Ok(Err(error)) => {
                let evidence = page.evidence(Some(&error));
                (Err(error.into()), evidence)
            }
            Ok(Ok(())) => {
                let evidence = page.evidence(None);
                (self.publish(), evidence)
            }
        }
    }

    /// Publishes the sample that the page makes.
    fn publish(&self) -> Result<(), ScrapeError> {
        let (endpoint, now) = (&self.endpoint, self.scraper.clock.now());
        let sample = self.engine.extract(&self.readings, &endpoint.sample(), now);
        let malformed = self.readings.malformed();
        endpoint.publish(sample.ok_or(ScrapeError::NothingWanted { malformed })?);
        Ok(())
    }

    /// Tells the endpoint's health what the scrape says.
    async fn judge(&self, evidence: Option<Evidence>) {
        let Some(policy) = self.scraper.settings.health else {
            return;
        };
        let endpoint = &self.endpoint;
        let evidence = match self.serving {
            None => evidence,
            // The page is another server's: its silence, and its answers while the endpoint is in doubt, make us ask.
            Some(_) if evidence == Some(Evidence::Answered) && healthy(endpoint) => None,
            Some(serving) => reach(serving, self.scraper.settings.timeout).await,
        };
        let Some(evidence) = evidence else { return };
        if let Some(change) = endpoint.health.observe(evidence, Instant::now(), policy) {
            announce(endpoint, change, evidence);
        }
    }
}

fn healthy(endpoint: &Endpoint) -> bool {
    endpoint.health.standing() == Standing::Healthy && !endpoint.health.failing()
}

/// Connects to `address` and closes the connection again.
async fn reach(address: SocketAddr, limit: Duration) -> Option<Evidence> {
    match timeout(limit, TcpStream::connect(address)).await {
        Err(_) => Some(Evidence::Unreachable),
        Ok(Err(error)) => connect_evidence(&error),
        Ok(Ok(_)) => Some(Evidence::Answered),
    }
}

fn announce(endpoint: &Endpoint, change: StandingChange, evidence: Evidence) {
    let (name, address) = (&*endpoint.spec.name, &*endpoint.authority);
    match change {
        StandingChange {
            to: Standing::Down, ..
        } => {
            tracing::warn!(
                endpoint = name,
                address,
                reason = evidence.name(),
                "Endpoint is down, it is left alone"
            );
        }
        StandingChange {
            from: Standing::Down, ..
        } => {
            tracing::info!(endpoint = name, address, "Endpoint is healthy again");
        }
        _ => {
            tracing::debug!(
                endpoint = name,
                address,
                standing = change.to.name(),
                reason = evidence.name(),
                "Endpoint's standing changed"
            );
        }
    }
}

fn page_url(settings: &PollerSettings, endpoint: &Endpoint) -> Result<Url, String> {
    let path = endpoint.spec.metrics_path.as_deref().unwrap_or(&settings.path);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let address = endpoint.metrics_address();
    let url = format!("{}://{address}{slash}{path}", settings.scheme.as_str());
    Url::parse(&url).map_err(|e| e.to_string())
}
