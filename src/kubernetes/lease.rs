//! Leader election over a Lease, with client-go's rules and timings: a candidate of ours and one of client-go's on the
//! same Lease respect each other (runtime.md §3.5).
//!
//! Time is never compared across machines: a record counts as renewed when *we* saw it change, on our own clock.

mod record;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::event;
use super::watch::{Selection, Update, Watch};
use crate::telemetry::logging::verbose;
use record::Observed;

/// Times of an election. The defaults are the reference's.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// A record that was not renewed for this long may be taken over.
    pub lease: Duration,
    /// A leader that cannot renew for this long gives up; shorter than `lease`.
    pub renew: Duration,
    /// Time between two tries.
    pub retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// client-go stretches a follower's pauses by up to this share, so that candidates do not ask in step.
const JITTER: f64 = 1.2;

/// How an election ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// We were asked to stop; a lease we held is released.
    Stopped,
    /// We led and no longer do.
    Lost,
}

/// A candidate.
pub struct Candidate {
    client: Client,
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    timings: Timings,
    observed: Option<Observed>,
}

impl Candidate {
    /// A candidate called `identity` for the lease `name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings) -> Self {
        Candidate {
            api: Api::namespaced(client.clone(), namespace),
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timings,
            observed: None,
        }
    }

    /// Waits for the lease, tells `lead(true)` when it is ours, and renews it. Ends when it is lost, after
    /// `lead(false)`, or when `stop` is cancelled, after releasing what we hold.
    pub async fn run(mut self, lead: impl Fn(bool), stop: CancellationToken) -> Outcome {
        if !self.acquire(&stop).await {
            return Outcome::Stopped;
        }
        lead(true);
        tracing::info!(lease = self.name, identity = self.identity, "Leading");
        self.tell("became leader");
        let kept = self.keep(&stop).await;
        lead(false);
        if kept {
            self.release().await;
            return Outcome::Stopped;
        }
        tracing::error!(
            lease = self.name,
            identity = self.identity,
            "Leader election lost"
        );
        self.tell("stopped leading");
        Outcome::Lost
    }

    /// Tries until the lease is ours; false: stopped before.
    async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let selection = Selection {
            name: Some(self.name.clone()),
            ..Selection::default()
        };
        // Tells of a release at once; without it (a Role that lacks watch) the tries alone find out.
        let mut watch = Watch::<Lease>::new(self.api.clone(), &self.namespace, &selection);
        let mut holder = None;
        loop {
            let attempt = timeout(self.timings.renew, self.attempt());
            tokio::select! {
                () = stop.cancelled() => return false,
                tried = attempt => match tried {
                    Ok(Ok(true)) => return true,
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "Cannot read or take the lease: trying again"),
                    Err(_) => tracing::warn!(lease = self.name, "The API server did not answer about the lease: trying again"),
                }
            }
            let now_held = self.observed.as_ref().map(|o| o.holder().to_owned());
            if now_held != holder {
                holder = now_held;
                tracing::info!(
                    lease = self.name,
                    holder = holder.as_deref().unwrap_or(""),
                    "Following the leader"
                );
            }
            let pause = self.timings.retry.mul_f64(rand::random_range(1.0..1.0 + JITTER));
            let mut at = Instant::now() + pause;
            if let Some(observed) = &self.observed {
                at = at.min(observed.expires());
            }
            if !self.wait(at, &mut watch, stop).await {
                return false;
            }
        }
    }

    /// Waits until `at`, or until the watch shows a lease that nobody holds; false: stopped.
    async fn wait(&mut self, at: Instant, watch: &mut Watch<Lease>, stop: &CancellationToken) -> bool {
        loop {
            let seen = tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep_until(at) => return true,
                seen = watch.next() => seen,
            };
            let lease = match seen {
                Update::All(mut leases) => leases.pop(),
                Update::Changed(lease) => Some(lease),
                Update::Gone(_) => None,
            };
            match lease {
                Some(lease) => self.observe(lease),
                None => self.observed = None,
            }
            let free = self.observed.as_ref().is_none_or(|o| o.holder().is_empty());
            if free {
                return true;
            }
        }
    }

    /// Renews until that fails for too long (false) or we are stopped (true).
    async fn keep(&mut self, stop: &CancellationToken) -> bool {
        loop {
            let round = Instant::now();
            let deadline = round + self.timings.renew;
            loop {
                let tried = tokio::select! {
                    () = stop.cancelled() => return true,
                    tried = timeout_at(deadline, self.attempt()) => tried,
                };
                match tried {
                    Ok(Ok(true)) => break,
                    // Somebody else holds it: there is nothing to wait for.
                    Ok(Ok(false))
                        if self
                            .observed
                            .as_ref()
                            .is_some_and(|o| o.holder() != self.identity) =>
                    {
                        return false;
                    }
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => verbose!(2, lease = self.name, %error, "Renewal failed"),
                    Err(_) => return false,
                }
                let next = (Instant::now() + self.timings.retry).min(deadline);
                tokio::select! {
                    () = stop.cancelled() => return true,
                    () = sleep_until(next) => {}
                }
                if Instant::now() >= deadline {
                    return false;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return true,
                () = sleep_until(Instant::now() + self.timings.retry) => {}
            }
        }
    }

    /// One try to take or renew: is the lease ours now?
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        // What we wrote last is likely what is there: one request instead of two.
        if let Some(ours) = self
            .observed
            .as_ref()
            .filter(|o| o.holder() == self.identity && o.valid(Instant::now()))
        {
            let renewed = record::renewed(&ours.lease, &self.identity, &self.timings, Timestamp::now());
            match self
                .api
                .replace(&self.name, &PostParams::default(), &renewed)
                .await
            {
                Ok(lease) => {
                    self.observe(lease);
                    return Ok(true);
                }
                Err(error) => verbose!(2, lease = self.name, %error, "The lease has changed: reading it"),
            }
        }
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let new = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: None,
            };
            let new = record::taken(&new, &self.identity, &self.timings, Timestamp::now());
            let created = self.api.create(&PostParams::default(), &new).await;
            return self.written(created);
        };
        self.observe(lease);
        let Some(seen) = &self.observed else {
            return Ok(false);
        };
        let ours = seen.holder() == self.identity;
        if !ours && !seen.holder().is_empty() && seen.valid(Instant::now()) {
            return Ok(false);
        }
        let write = if ours { record::renewed } else { record::taken };
        let next = write(&seen.lease, &self.identity, &self.timings, Timestamp::now());
        let replaced = self.api.replace(&self.name, &PostParams::default(), &next).await;
        self.written(replaced)
    }

    /// A write that lost against somebody else's is no error: we are not the leader.
    fn written(&mut self, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(lease) => {
                self.observe(lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                verbose!(2, lease = self.name, "Another candidate was faster");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn observe(&mut self, lease: Lease) {
        let before = self.observed.take();
        self.observed = Some(Observed::new(lease, before, Instant::now()));
    }

    /// Gives the lease up, so that the next leader need not wait for it to expire.
    async fn release(&mut self) {
        let patience = self.timings.retry;
        let give_up = async {
            for _ in 0..2 {
                let Some(ours) = self.observed.as_ref().filter(|o| o.holder() == self.identity) else {
                    return Ok(());
                };
                let free = record::released(&ours.lease, Timestamp::now());
                match self.api.replace(&self.name, &PostParams::default(), &free).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        let Some(lease) = self.api.get_opt(&self.name).await? else {
                            return Ok(());
                        };
                        self.observe(lease);
                    }
                    other => return other.map(drop),
                }
            }
            Ok(())
        };
        match timeout(patience, give_up).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "Lease released"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "Lease not released: it will expire"),
            Err(_) => tracing::warn!(
                lease = self.name,
                "Lease not released: the API server does not answer; it will expire"
            ),
        }
    }

    fn tell(&self, what: &str) {
        let (client, namespace, name) = (self.client.clone(), self.namespace.clone(), self.name.clone());
        let uid = self.observed.as_ref().and_then(|o| o.lease.metadata.uid.clone());
        let message = format!("{} {what}", self.identity);
        tokio::spawn(async move { event::leader_election(&client, &namespace, &name, uid, message).await });
    }
}
