//! Leader election over a Lease, with client-go's rules and timings: a candidate of ours and one of client-go's on the
//! same Lease respect each other.
//!
//! Time is never compared across machines: a record counts as renewed when *we* saw it change, on our own clock. The one
//! exception is a record that this pod itself wrote before it was restarted. A lease that is deleted is its holder's until
//! it would have expired: the holder writes it anew.

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

/// Rights that are needed, for messages.
const RIGHTS: &str = "grant get, list, watch, create and update on leases.coordination.k8s.io to the service account (deploy/ has the Role)";

/// How an election ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// We were asked to stop; a lease we held is released.
    Stopped,
    /// We led and no longer do.
    Lost,
}

/// What giving the lease up came to.
enum Release {
    /// It is nobody's.
    Done,
    /// It was not ours any more.
    NotOurs,
    /// Somebody else wrote it at the same time, twice.
    Conflict,
}

/// A candidate.
pub struct Candidate {
    client: Client,
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    /// Name of our pod, where it is known.
    pod: Option<String>,
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
            pod: None,
            timings,
            observed: None,
        }
    }

    /// The pod of the candidate: a lease that its last run left behind, held by `<pod>_…`, may be taken as soon as its own
    /// times say that it has expired.
    pub fn of_pod(self, pod: Option<&str>) -> Self {
        Candidate {
            pod: pod.map(str::to_owned),
            ..self
        }
    }

    /// Waits for the lease, tells `lead(true)` when it is ours, and renews it. Ends when it is lost, after
    /// `lead(false)`, or when `stop` is cancelled, after releasing what we hold.
    pub async fn run(mut self, lead: impl Fn(bool), stop: CancellationToken) -> Outcome {
        let selection = Selection {
            name: Some(self.name.clone()),
            ..Selection::default()
        };
        // Tells of a release and of a deletion at once; without it (a Role that lacks watch) the tries alone find out.
        let mut watch = Watch::<Lease>::new(self.api.clone(), &self.namespace, &selection);
        if !self.acquire(&mut watch, &stop).await {
            return Outcome::Stopped;
        }
        lead(true);
        tracing::info!(lease = self.name, identity = self.identity, "Leading");
        self.tell("became leader");
        let lost = self.keep(&mut watch, &stop).await;
        lead(false);
        let Some(reason) = lost else {
            self.release().await;
            return Outcome::Stopped;
        };
        tracing::error!(
            lease = self.name,
            identity = self.identity,
            reason,
            "Leader election lost"
        );
        self.tell("stopped leading");
        Outcome::Lost
    }

    /// Tries until the lease is ours; false: stopped before.
    async fn acquire(&mut self, watch: &mut Watch<Lease>, stop: &CancellationToken) -> bool {
        let mut holder = None;
        let mut said: Option<String> = None;
        loop {
            let attempt = timeout(self.timings.renew, self.attempt());
            let tried = tokio::select! {
                () = stop.cancelled() => return false,
                tried = attempt => tried,
            };
            let failure = match tried {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) => None,
                Ok(Err(error)) => Some(reason(&error)),
                Err(_) => Some("the API server did not answer".to_owned()),
            };
            if let Some(error) = failure.as_ref().filter(|f| said.as_ref() != Some(f)) {
                tracing::warn!(
                    lease = self.name,
                    error,
                    "Cannot read or take the lease: not leading, trying again"
                );
            }
            said = failure;
            let now_held = self.observed.as_ref().map(|o| o.holder().to_owned());
            if now_held != holder {
                holder = now_held;
                tracing::info!(
                    lease = self.name,
                    holder = holder.as_deref().unwrap_or(""),
                    "Following the leader"
                );
            }
            if !self.wait(self.next_try(), watch, stop).await {
                return false;
            }
        }
    }

    /// When a follower tries again: after a pause, or when the lease may be taken.
    fn next_try(&self) -> Instant {
        let pause = self.timings.retry.mul_f64(rand::random_range(1.0..1.0 + JITTER));
        let now = Instant::now();
        let Some(observed) = &self.observed else {
            return now + pause;
        };
        let pod = self.pod.as_deref();
        let left_behind = pod.and_then(|pod| observed.left_behind_by(pod, Timestamp::now()));
        let free = left_behind.map_or(observed.expires(), |left| observed.expires().min(now + left));
        (now + pause).min(free.max(now))
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
            // One that is deleted stays its holder's for as long as it would have lived.
            if let Some(lease) = lease {
                self.observe(lease);
            }
            let free = self.observed.as_ref().is_none_or(|o| o.holder().is_empty());
            if free {
                return true;
            }
        }
    }

    /// Renews until we are stopped, or until that fails for too long: why.
    async fn keep(&mut self, watch: &mut Watch<Lease>, stop: &CancellationToken) -> Option<String> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = self.disturbed(watch, Instant::now() + self.timings.retry) => {}
            }
            if let Err(reason) = self.renew(stop).await {
                return Some(reason);
            }
            if stop.is_cancelled() {
                return None;
            }
        }
    }

    /// Waits until `at`, or until the lease is deleted or somebody else's.
    async fn disturbed(&self, watch: &mut Watch<Lease>, at: Instant) {
        loop {
            let seen = tokio::select! {
                () = sleep_until(at) => return,
                seen = watch.next() => seen,
            };
            let lease = match seen {
                Update::All(mut leases) => leases.pop(),
                Update::Changed(lease) => Some(lease),
                Update::Gone(_) => None,
            };
            if lease.is_none_or(|l| record::holder(&l) != self.identity) {
                return;
            }
        }
    }

    /// Renews once, with as many tries as there is time for; an error says why that failed.
    async fn renew(&mut self, stop: &CancellationToken) -> Result<(), String> {
        let deadline = Instant::now() + self.timings.renew;
        let mut failure = None;
        loop {
            let tried = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                tried = timeout_at(deadline, self.attempt()) => tried,
            };
            let error = match tried {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => match self.observed.as_ref().map(Observed::holder) {
                    // Somebody else holds it: there is nothing to wait for.
                    Some(holder) if holder != self.identity => {
                        return Err(format!("{holder:?} holds the lease"));
                    }
                    _ => "another candidate wrote the lease at the same time".to_owned(),
                },
                Ok(Err(error)) => reason(&error),
                Err(_) => "the API server did not answer".to_owned(),
            };
            if failure.is_none() {
                tracing::warn!(lease = self.name, error, "Cannot renew the lease: trying again");
            }
            failure = Some(error);
            let next = (Instant::now() + self.timings.retry).min(deadline);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(next) => {}
            }
            if Instant::now() >= deadline {
                let seconds = self.timings.renew.as_secs();
                let last = failure.unwrap_or_default();
                return Err(format!("not renewed for {seconds} s: {last}"));
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
        let lease = self.api.get_opt(&self.name).await?;
        let exists = lease.is_some();
        if let Some(lease) = lease {
            self.observe(lease);
        }
        let ours = self
            .observed
            .as_ref()
            .is_some_and(|o| o.holder() == self.identity);
        if !ours && self.observed.as_ref().is_some_and(|o| self.respected(o)) {
            return Ok(false);
        }
        if !exists {
            return self.create().await;
        }
        let Some(seen) = &self.observed else {
            return Ok(false);
        };
        let write = if ours { record::renewed } else { record::taken };
        let next = write(&seen.lease, &self.identity, &self.timings, Timestamp::now());
        let replaced = self.api.replace(&self.name, &PostParams::default(), &next).await;
        self.written(replaced)
    }

    /// Has the holder of a record, who is not us, still a claim to it?
    fn respected(&self, record: &Observed) -> bool {
        let left_behind = self
            .pod
            .as_deref()
            .and_then(|pod| record.left_behind_by(pod, Timestamp::now()));
        let expired = left_behind.is_some_and(|left| left.is_zero());
        !record.holder().is_empty() && record.valid(Instant::now()) && !expired
    }

    /// Creates the lease as ours, and renews it at once: whoever may create but not update could not lead for long.
    async fn create(&mut self) -> Result<bool, kube::Error> {
        let new = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        let new = record::taken(&new, &self.identity, &self.timings, Timestamp::now());
        let created = match self.api.create(&PostParams::default(), &new).await {
            Ok(lease) => lease,
            refused => return self.written(refused),
        };
        let renewed = record::renewed(&created, &self.identity, &self.timings, Timestamp::now());
        self.observe(created);
        let replaced = self
            .api
            .replace(&self.name, &PostParams::default(), &renewed)
            .await;
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
        match timeout(patience, self.give_up()).await {
            Ok(Ok(Release::Done)) => tracing::info!(lease = self.name, "Lease released"),
            Ok(Ok(Release::NotOurs)) => tracing::info!(lease = self.name, "The lease is no longer ours"),
            Ok(Ok(Release::Conflict)) => tracing::warn!(
                lease = self.name,
                "Lease not released: somebody else writes it; it will expire"
            ),
            Ok(Err(error)) => {
                let error = reason(&error);
                tracing::warn!(lease = self.name, error, "Lease not released: it will expire");
            }
            Err(_) => tracing::warn!(
                lease = self.name,
                "Lease not released: the API server does not answer; it will expire"
            ),
        }
    }

    async fn give_up(&mut self) -> Result<Release, kube::Error> {
        for _ in 0..2 {
            let Some(ours) = self.observed.as_ref().filter(|o| o.holder() == self.identity) else {
                return Ok(Release::NotOurs);
            };
            let free = record::released(&ours.lease, Timestamp::now());
            match self.api.replace(&self.name, &PostParams::default(), &free).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let Some(lease) = self.api.get_opt(&self.name).await? else {
                        return Ok(Release::NotOurs);
                    };
                    self.observe(lease);
                }
                other => return other.map(|_| Release::Done),
            }
        }
        Ok(Release::Conflict)
    }

    fn tell(&self, what: &str) {
        let (client, namespace, name) = (self.client.clone(), self.namespace.clone(), self.name.clone());
        let uid = self.observed.as_ref().and_then(|o| o.lease.metadata.uid.clone());
        let message = format!("{} {what}", self.identity);
        tokio::spawn(async move { event::leader_election(&client, &namespace, &name, uid, message).await });
    }
}

/// Why a call failed, in one line, and what would help.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!("{}: {RIGHTS}", status.message),
        kube::Error::Api(status) => format!("{} ({} {})", status.message, status.code, status.reason),
        other => super::innermost(other),
    }
}
