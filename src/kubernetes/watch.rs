//! A watch that never gives up: lists, follows, and starts over after cut-offs, `410 Gone`, and servers that are slow,
//! away or refuse. What the last list said stays valid meanwhile. Failures are said once per kind, with what to do.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use super::transport::WATCH_SECONDS;
use crate::telemetry::logging::verbose;

/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often a kind that the server does not know is looked for: its CRD may be installed later.
const LOOK: Duration = Duration::from_secs(2);

/// A watch that has worked for this long starts again with the first pause.
const SETTLED: Duration = Duration::from_secs(30);

/// What was seen.
#[derive(Debug)]
pub enum Update<K> {
    /// A complete list: what is not in it is gone.
    All(Vec<K>),
    /// One object came or changed.
    Changed(K),
    /// One object is gone; its last state.
    Gone(K),
}

/// What is watched; clone it for a watch with another selector.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Labels, as `k=v,k2=v2`; empty selects everything.
    pub labels: String,
    /// Name of the only object wanted.
    pub name: Option<String>,
}

/// Objects of one kind in one namespace.
pub struct Watch<K> {
    api: Api<K>,
    config: watcher::Config,
    /// `inferencepools.inference.networking.k8s.io`, for messages and grants.
    what: String,
    namespace: String,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    listing: Vec<K>,
    retry_at: Option<Instant>,
    pause: Duration,
    failed_at: Option<Instant>,
    said: Option<Failure>,
}

/// Kinds of failure: a new one is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Unauthorized,
    Forbidden,
    Unknown,
    Away,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// A watch of what `selection` selects in `namespace`. Nothing is sent before [`Watch::next`].
    pub fn new(api: Api<K>, namespace: &str, selection: &Selection) -> Self {
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if !selection.labels.is_empty() {
            config = config.labels(&selection.labels);
        }
        if let Some(name) = &selection.name {
            config = config.fields(&format!("metadata.name={name}"));
        }
        let (plural, group) = (K::plural(&()), K::group(&()));
        let what = if group.is_empty() {
            plural.into_owned()
        } else {
            format!("{plural}.{group}")
        };
        Watch {
            events: watcher::watcher(api.clone(), config.clone()).boxed(),
            api,
            config,
            what,
            namespace: namespace.to_owned(),
            listing: Vec::new(),
            retry_at: None,
            pause: PAUSES.0,
            failed_at: None,
            said: None,
        }
    }

    /// Waits for the next update, through any number of failures. Safe to drop and call again.
    pub async fn next(&mut self) -> Update<K> {
        loop {
            if let Some(at) = self.retry_at {
                sleep_until(at).await;
                self.retry_at = None;
            }
            match self.events.next().await {
                Some(Ok(Event::Init)) => self.listing.clear(),
                Some(Ok(Event::InitApply(object))) => self.listing.push(object),
                Some(Ok(Event::InitDone)) => {
                    self.worked();
                    return Update::All(std::mem::take(&mut self.listing));
                }
                Some(Ok(Event::Apply(object))) => {
                    self.worked();
                    return Update::Changed(object);
                }
                Some(Ok(Event::Delete(object))) => {
                    self.worked();
                    return Update::Gone(object);
                }
                Some(Err(error)) => self.failed(&error),
                None => self.start_over(),
            }
        }
    }

    fn worked(&mut self) {
        if self.said.take().is_some() {
            tracing::info!(what = self.what, namespace = self.namespace, "Watching again");
        }
    }

    fn start_over(&mut self) {
        self.listing.clear();
        self.events = watcher::watcher(self.api.clone(), self.config.clone()).boxed();
    }

    fn failed(&mut self, error: &watcher::Error) {
        let now = Instant::now();
        if self.failed_at.replace(now).is_none_or(|at| now - at > SETTLED) {
            self.pause = PAUSES.0;
        }
        let code = code(error);
        // Changes we would have to follow are gone from the server: only a new list helps.
        if code == Some(410) {
            verbose!(2, what = self.what, "Watch expired: listing again");
            self.start_over();
            return;
        }
        let failure = match code {
            Some(401) => Failure::Unauthorized,
            Some(403) => Failure::Forbidden,
            Some(404) => Failure::Unknown,
            _ => Failure::Away,
        };
        // A watch that is cut while it runs is taken up again at once, and that is all there is to say.
        let cut = matches!(error, watcher::Error::WatchFailed(_)) && failure == Failure::Away;
        if cut && self.said.is_none() {
            verbose!(
                2,
                what = self.what,
                error = brief(error),
                "Watch was cut: taking it up again"
            );
        } else if self.said != Some(failure) {
            self.said = Some(failure);
            self.say(failure, &brief(error));
        }
        let wait = if failure == Failure::Unknown {
            LOOK
        } else {
            self.pause
        };
        self.pause = (self.pause * 2).min(PAUSES.1);
        let jittered = wait.mul_f64(rand::random_range(0.8..1.2));
        self.retry_at = Some(now + jittered);
    }

    fn say(&self, failure: Failure, error: &str) {
        let (what, namespace) = (&self.what, &self.namespace);
        match failure {
            Failure::Unauthorized => tracing::error!(
                what,
                namespace,
                error,
                "The API server does not know us: the token or the client certificate (of the service account, or of the \
                 kubeconfig) is wrong or has expired; asked again until then, everything else goes on"
            ),
            Failure::Forbidden => tracing::error!(
                what,
                namespace,
                error,
                "Not allowed to watch: grant list and watch on {what} in namespace {namespace} to the service \
                 account (deploy/ has the Role); asked again until then, everything else goes on"
            ),
            Failure::Unknown => tracing::warn!(
                what,
                namespace,
                error,
                "The API server does not know {what}: install its CRD (deploy/crds has it); looked for again until then, \
                 everything else goes on"
            ),
            Failure::Away => tracing::warn!(
                what,
                namespace,
                error,
                "Cannot watch now: keeping what is known and asking again"
            ),
        }
    }
}

/// An error in one line: what the server said, or what kept us from asking.
fn brief(error: &watcher::Error) -> String {
    let status = |s: &kube::core::Status| format!("{} ({} {})", s.message, s.code, s.reason);
    let of = |e: &kube::Error| match e {
        kube::Error::Api(s) => status(s),
        other => super::innermost(other),
    };
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => of(e),
        watcher::Error::WatchError(s) => status(s),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// The HTTP status behind an error.
fn code(error: &watcher::Error) -> Option<u16> {
    let of = |e: &kube::Error| match e {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    };
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => of(e),
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}
