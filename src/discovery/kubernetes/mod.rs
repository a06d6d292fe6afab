//! Endpoints from a cluster: the pods an InferencePool selects, or those of `--endpoint-selector`, and the objectives
//! and rewrites of the pool. Run by `app`.
//!
//! One task owns what is known; watches feed it and it writes the datastore. When the API server is away, what was
//! known last stays. Nothing an object says can stop it: what is wrong is logged once and left out. A change of the pool
//! fails no request: its endpoints stay until those of its new selector are listed, and for a moment after its deletion.

mod complaints;
mod endpoints;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::kubernetes::objective::InferenceObjective;
use crate::api::kubernetes::pod::Pod;
use crate::api::kubernetes::pool::{InferencePool, Pool, PoolV1, PoolV1Alpha2};
use crate::api::kubernetes::rewrite::InferenceModelRewrite;
use crate::api::kubernetes::{GROUP, GROUP_EXPERIMENTAL};
use crate::datastore::{Change, Datastore};
use crate::kubernetes::watch::{Selection, Update, Watch};
use crate::telemetry::logging::verbose;

use complaints::Complaints;
use rules::Rules;

/// Updates of pods taken in one go: a change of the fleet costs the same for one and for many.
const BATCH: usize = 1024;

/// How long the endpoints of a deleted pool stay, for one that is only replaced (`kubectl replace --force`).
const GRACE: Duration = Duration::from_secs(2);

/// Which pods take requests, and on which ports.
#[derive(Clone, Debug)]
pub enum Source {
    /// What an InferencePool says.
    Pool {
        /// Its name.
        name: String,
        /// Its API group: the stable or the experimental one.
        group: String,
    },
    /// Given once and for all.
    Selector(Pool),
}

/// What to discover.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Namespace of everything.
    pub namespace: String,
    /// Which pods.
    pub source: Source,
    /// Port metrics are scraped from, where a pool has one port only; 0: the port requests go to.
    pub metrics_port: u16,
}

/// Follows the cluster.
pub struct ClusterDiscovery {
    client: Client,
    scope: Scope,
    datastore: Arc<Datastore>,
    /// The pool in force: `pods` are of its selector.
    pool: Option<Pool>,
    /// The pool as it is to be once its pods are listed.
    next: Option<Pool>,
    /// When the endpoints of a deleted pool leave.
    leave_at: Option<Instant>,
    pods: BTreeMap<String, Pod>,
    /// Are `pods` all the pool selects?
    listed: bool,
    /// Names of the endpoints each pod has in the datastore.
    names: HashMap<String, Vec<String>>,
    rules: Rules,
    complaints: Complaints,
}

/// The watches; those that are not wanted are absent.
struct Watches {
    stable: Option<Watch<PoolV1>>,
    experimental: Option<Watch<PoolV1Alpha2>>,
    pods: Option<Watch<Pod>>,
    /// Pods of the selector to come.
    next_pods: Option<Watch<Pod>>,
    objectives: Option<Watch<InferenceObjective>>,
    rewrites: Option<Watch<InferenceModelRewrite>>,
}

impl ClusterDiscovery {
    /// Nothing is asked before [`ClusterDiscovery::run`].
    pub fn new(client: Client, scope: Scope, datastore: Arc<Datastore>) -> Self {
        let rules = match &scope.source {
            Source::Pool { name, group } => Rules::of(name, group),
            Source::Selector(_) => Rules::default(),
        };
        ClusterDiscovery {
            client,
            scope,
            datastore,
            pool: None,
            next: None,
            leave_at: None,
            pods: BTreeMap::new(),
            listed: false,
            names: HashMap::new(),
            rules,
            complaints: Complaints::default(),
        }
    }

    /// Follows the cluster until `stop`, telling `on_change` of endpoints that joined and left.
    pub async fn run(mut self, on_change: impl Fn(&Change) + Send, stop: CancellationToken) {
        let mut watches = self.watches();
        if let Source::Selector(pool) = &self.scope.source {
            let pool = pool.clone();
            self.pool_is(pool, &mut watches, &on_change);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                update = next(&mut watches.stable) => self.pool(update, &mut watches, &on_change),
                update = next(&mut watches.experimental) => self.pool(update, &mut watches, &on_change),
                update = next(&mut watches.pods) => self.pods(update, &mut watches, &on_change),
                update = next(&mut watches.next_pods) => self.next_pods(update, &mut watches, &on_change),
                () = at(self.leave_at) => self.leave(&mut watches, &on_change),
                update = next(&mut watches.objectives) => {
                    self.rules.objectives(update, &mut self.complaints);
                    self.publish_rules();
                }
                update = next(&mut watches.rewrites) => {
                    self.rules.rewrites(update, &mut self.complaints);
                    self.publish_rules();
                }
            }
        }
    }

    fn watches(&self) -> Watches {
        let (client, namespace) = (&self.client, &self.scope.namespace);
        let mut watches = Watches {
            stable: None,
            experimental: None,
            pods: None,
            next_pods: None,
            objectives: None,
            rewrites: None,
        };
        let Source::Pool { name, group } = &self.scope.source else {
            return watches;
        };
        let all = Selection::default();
        let one = Selection {
            name: Some(name.clone()),
            ..Selection::default()
        };
        match group.as_str() {
            GROUP_EXPERIMENTAL => {
                let api = Api::namespaced(client.clone(), namespace);
                watches.experimental = Some(Watch::new(api, namespace, &one));
            }
            _ => {
                watches.stable = Some(Watch::new(
                    Api::namespaced(client.clone(), namespace),
                    namespace,
                    &one,
                ))
            }
        }
        let api = Api::namespaced(client.clone(), namespace);
        watches.objectives = Some(Watch::new(api, namespace, &all));
        watches.rewrites = Some(Watch::new(
            Api::namespaced(client.clone(), namespace),
            namespace,
            &all,
        ));
        watches
    }

    fn pool<P: InferencePool>(
        &mut self,
        update: Update<P>,
        watches: &mut Watches,
        on_change: &impl Fn(&Change),
    ) {
        let object = match update {
            Update::All(mut pools) => pools.pop(),
            Update::Changed(pool) => Some(pool),
            Update::Gone(_) => None,
        };
        let Some(object) = object.filter(|p| !p.deleting()) else {
            self.pool_gone(watches, on_change);
            return;
        };
        let (pool, mistakes) = object.read();
        let name = self.pool_name().to_owned();
        self.complaints.about("InferencePool", &name, &mistakes);
        match pool {
            Some(pool) => self.pool_is(pool, watches, on_change),
            // Nothing sensible to do with it: what was known before is the better guess.
            None => tracing::error!(
                pool = self.pool_name(),
                "The pool cannot be used as it is: keeping what is known"
            ),
        }
    }

    fn pool_name(&self) -> &str {
        match &self.scope.source {
            Source::Pool { name, .. } => name,
            Source::Selector(_) => self.datastore.pool_name(),
        }
    }

    fn pool_gone(&mut self, watches: &mut Watches, on_change: &impl Fn(&Change)) {
        if self.pool.is_some() {
            if self.leave_at.is_none() {
                let seconds = GRACE.as_secs();
                tracing::warn!(
                    pool = self.pool_name(),
                    seconds,
                    "The pool is deleted: its endpoints leave unless it is back in a moment"
                );
                self.leave_at = Some(Instant::now() + GRACE);
            }
            return;
        }
        let (name, group) = match &self.scope.source {
            Source::Pool { name, group } => (name.as_str(), group.as_str()),
            Source::Selector(_) => ("", GROUP),
        };
        let namespace = &self.scope.namespace;
        let text =
            format!("there is no InferencePool {name:?} ({group}) in namespace {namespace}: waiting for it");
        self.complaints.about("InferencePool", name, &[text]);
        self.leave(watches, on_change);
    }

    /// Drops everything that is known of the pool.
    fn leave(&mut self, watches: &mut Watches, on_change: &impl Fn(&Change)) {
        if self.pool.is_some() {
            tracing::warn!(
                pool = self.pool_name(),
                "The pool has not come back: no endpoints until it is there"
            );
        }
        (self.pool, self.next, self.leave_at) = (None, None, None);
        (watches.pods, watches.next_pods) = (None, None);
        self.pods.clear();
        self.names.clear();
        self.listed = false;
        on_change(&self.datastore.clear());
    }

    fn pool_is(&mut self, pool: Pool, watches: &mut Watches, on_change: &impl Fn(&Change)) {
        if self.leave_at.take().is_some() {
            tracing::info!(pool = self.pool_name(), "The pool is back");
        }
        if self.next.as_ref().or(self.pool.as_ref()) == Some(&pool) {
            return;
        }
        let selector = endpoints::selector(&pool);
        tracing::info!(pool = self.pool_name(), selector, ports = ?pool.ports, "Pool");
        if let Some(before) = self.pool.as_mut().filter(|b| b.selector == pool.selector) {
            *before = pool;
            (self.next, watches.next_pods) = (None, None);
            if self.listed {
                self.publish_all(on_change);
            }
            return;
        }
        let coming = self.next.as_ref().is_some_and(|n| n.selector == pool.selector);
        let first = self.pool.is_none();
        if first {
            self.pool = Some(pool);
            self.publish_rules();
        } else {
            self.next = Some(pool);
        }
        if coming {
            return;
        }
        let selection = Selection {
            labels: selector,
            ..Selection::default()
        };
        let namespace = &self.scope.namespace;
        let watch = Watch::new(
            Api::namespaced(self.client.clone(), namespace),
            namespace,
            &selection,
        );
        if first || !self.listed {
            self.in_force(watches, watch);
        } else {
            watches.next_pods = Some(watch);
        }
    }

    /// The watch is the one of the pool's pods from now on, and so is the pool that came with it.
    fn in_force(&mut self, watches: &mut Watches, watch: Watch<Pod>) {
        (watches.pods, watches.next_pods) = (Some(watch), None);
        if let Some(next) = self.next.take() {
            self.pool = Some(next);
        }
    }

    /// The pods of a new selector: their first list replaces all that is known in one step.
    fn next_pods(&mut self, update: Update<Pod>, watches: &mut Watches, on_change: &impl Fn(&Change)) {
        if let Some(watch) = watches.next_pods.take() {
            self.in_force(watches, watch);
        }
        self.pods(update, watches, on_change);
    }

    fn pods(&mut self, first: Update<Pod>, watches: &mut Watches, on_change: &impl Fn(&Change)) {
        let mut touched = BTreeSet::new();
        let mut all = self.take(first, &mut touched);
        if let Some(watch) = &mut watches.pods {
            for _ in 1..BATCH {
                let Some(update) = watch.next().now_or_never() else {
                    break;
                };
                all |= self.take(update, &mut touched);
            }
        }
        if all {
            self.listed = true;
            self.publish_all(on_change);
            let none = self.pods.is_empty().then(|| {
                let selector = self.pool.as_ref().map(endpoints::selector).unwrap_or_default();
                format!(
                    "no pod in namespace {} has the labels {selector}",
                    self.scope.namespace
                )
            });
            let name = self.pool_name().to_owned();
            self.complaints.about("pods of", &name, none.as_slice());
        } else if self.listed {
            self.publish(touched, on_change);
        }
    }

    /// Takes an update in; true: it was a complete list.
    fn take(&mut self, update: Update<Pod>, touched: &mut BTreeSet<String>) -> bool {
        match update {
            Update::All(pods) => {
                self.pods = pods.into_iter().map(|p| (p.name().to_owned(), p)).collect();
                return true;
            }
            Update::Changed(pod) => {
                touched.insert(pod.name().to_owned());
                self.pods.insert(pod.name().to_owned(), pod);
            }
            Update::Gone(pod) => {
                touched.insert(pod.name().to_owned());
                self.pods.remove(pod.name());
            }
        }
        false
    }

    fn publish_all(&mut self, on_change: &impl Fn(&Change)) {
        let Some(pool) = &self.pool else { return };
        let mut specs = Vec::new();
        self.names.clear();
        for (name, pod) in &self.pods {
            let of = endpoints::of(pod, pool, &self.scope, &mut self.complaints);
            if !of.is_empty() {
                self.names
                    .insert(name.clone(), of.iter().map(|s| s.name.clone()).collect());
            }
            specs.extend(of);
        }
        self.complaints.keep("pod", |name| self.pods.contains_key(name));
        let change = self.datastore.set_endpoints(specs);
        self.tell(&change, on_change);
    }

    fn publish(&mut self, touched: BTreeSet<String>, on_change: &impl Fn(&Change)) {
        let Some(pool) = &self.pool else { return };
        let (mut upserts, mut gone) = (Vec::new(), Vec::new());
        for name in touched {
            let specs = match self.pods.get(&name) {
                Some(pod) => endpoints::of(pod, pool, &self.scope, &mut self.complaints),
                None => {
                    self.complaints.about("pod", &name, &[]);
                    Vec::new()
                }
            };
            let now: Vec<String> = specs.iter().map(|s| s.name.clone()).collect();
            let before = self.names.remove(&name).unwrap_or_default();
            let left = before.into_iter().filter(|n| !now.contains(n));
            gone.extend(left.map(|n| (self.scope.namespace.clone(), n)));
            if !now.is_empty() {
                self.names.insert(name, now);
            }
            upserts.extend(specs);
        }
        if upserts.is_empty() && gone.is_empty() {
            return;
        }
        let change = self.datastore.update(upserts, &gone);
        self.tell(&change, on_change);
    }

    fn tell(&self, change: &Change, on_change: &impl Fn(&Change)) {
        verbose!(
            2,
            added = change.added.len(),
            removed = change.removed.len(),
            endpoints = self.datastore.fleet().endpoints.len(),
            "Endpoints"
        );
        on_change(change);
    }

    /// Rules count while there is a pool; they are kept for when it comes back.
    fn publish_rules(&self) {
        if self.pool.is_some() {
            let (objectives, rewrites) = self.rules.build();
            self.datastore.set_rules(objectives, rewrites);
        }
    }
}

/// The next update of a watch that may not be there.
async fn next<K>(watch: &mut Option<Watch<K>>) -> Update<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// A moment that may never come.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
