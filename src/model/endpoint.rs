//! An endpoint: one (pod, target port) that can take a request. Identity and labels are fixed for its life;
//! its [`Sample`] is swapped in whole by the poller.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::health::Health;
use super::sample::{Sample, Signals};

/// What discovery says about an endpoint. Two equal specs are the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Kubernetes namespace, or `default` outside a cluster.
    pub namespace: String,
    /// Name within the namespace: `<pod>-rank-<index>` in a cluster, free text in a file.
    pub name: String,
    /// Where requests go.
    pub address: SocketAddr,
    /// Where metrics are scraped, when it is not `address`.
    pub metrics_address: Option<SocketAddr>,
    /// Path of the metrics page, when it is not the process-wide one.
    pub metrics_path: Option<String>,
    /// Labels of the pod, or of the entry in the file.
    pub labels: BTreeMap<String, String>,
}

impl EndpointSpec {
    /// Namespace and name: unique in a fleet.
    pub fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// The same, owned.
    pub fn owned_key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    /// Are requests and scrapes sent to the same places?
    pub fn reached_like(&self, other: &EndpointSpec) -> bool {
        self.address == other.address
            && self.metrics_address == other.metrics_address
            && self.metrics_path == other.metrics_path
    }
}

/// An endpoint in the fleet.
///
/// `slot` is a small number unique among the endpoints alive at one time (reused later), fit for bitsets;
/// `id` is never reused in the life of the process.
#[derive(Debug)]
pub struct Endpoint {
    /// What discovery said.
    pub spec: EndpointSpec,
    /// Unique for the life of the process.
    pub id: u64,
    /// Small, dense, reused after removal.
    pub slot: u32,
    /// `ip:port`, IPv6 bracketed: the value of the destination header.
    pub authority: Arc<str>,
    /// Requests sent here; shared so that a request's end is counted where its beginning was.
    pub traffic: Arc<Traffic>,
    /// Can it be reached? Shared by every object of this endpoint.
    pub health: Arc<Health>,
    sample: ArcSwap<Sample>,
    /// How many samples were published.
    version: AtomicU64,
}

/// Requests this process sent to an endpoint.
#[derive(Debug, Default)]
pub struct Traffic {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Traffic {
    /// A request goes to the endpoint.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Its exchange is over.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests sent since the endpoint joined.
    pub fn requests(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Requests sent and not yet over.
    pub fn in_flight(&self) -> u64 {
        // Read in this order, so that a request that comes and goes in between cannot make it negative.
        let ended = self.ended.load(Ordering::Acquire);
        self.begun.load(Ordering::Acquire).saturating_sub(ended)
    }
}

impl Endpoint {
    /// A new endpoint with an empty, stale sample, in no fleet.
    pub fn new(spec: EndpointSpec, id: u64, slot: u32) -> Self {
        Endpoint::with_health(spec, id, slot, Arc::default())
    }

    /// A new endpoint with an empty, stale sample, and the health it shares with its fleet.
    pub fn with_health(spec: EndpointSpec, id: u64, slot: u32, health: Arc<Health>) -> Self {
        let authority = spec.address.to_string().into();
        Endpoint {
            spec,
            id,
            slot,
            authority,
            traffic: Arc::default(),
            health,
            sample: ArcSwap::from_pointee(Sample::default()),
            version: AtomicU64::new(0),
        }
    }

    /// This endpoint under a spec with other labels: identity and sample stay.
    pub fn relabelled(&self, spec: EndpointSpec) -> Self {
        Endpoint {
            sample: ArcSwap::new(self.sample()),
            // None that this one ever had: a scrape of it may be under way.
            version: AtomicU64::new(self.version() + (1 << 32)),
            traffic: self.traffic.clone(),
            ..Endpoint::with_health(spec, self.id, self.slot, self.health.clone())
        }
    }

    /// The address requests go to.
    pub fn ip(&self) -> IpAddr {
        self.spec.address.ip()
    }

    /// The port requests go to.
    pub fn port(&self) -> u16 {
        self.spec.address.port()
    }

    /// The address metrics are scraped from.
    pub fn metrics_address(&self) -> SocketAddr {
        self.spec.metrics_address.unwrap_or(self.spec.address)
    }

    /// The newest sample, shared.
    pub fn sample(&self) -> Arc<Sample> {
        self.sample.load_full()
    }

    /// Publishes a newer sample. Readers see the old one or the new one, never a mix.
    pub fn publish(&self, sample: Sample) {
        self.sample.store(Arc::new(sample));
        // After the sample: who sees the number sees the sample too.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Changes with every sample. Read before the sample, it says that a later look at an equal version finds none newer.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The numbers a decision needs from the newest sample, copied out. `adapter` is the target model, whose
    /// standing as a LoRA adapter is resolved here.
    #[inline]
    pub fn signals(&self, adapter: &str) -> Signals {
        self.sample.load().signals(adapter)
    }
}
