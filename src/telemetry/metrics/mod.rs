//! The metrics of the picker: one registry, handles looked up once per label set (runtime.md §6).
//!
//! A handle is an `Arc` of atomics. Recording takes no lock that a scrape holds; a scrape reads the atomics
//! while it writes the page.

pub mod buckets;
pub mod catalogue;
pub mod connections;
pub mod family;
pub mod histogram;
mod model;
mod operations;
mod page;
mod process;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

pub use model::ModelMetrics;

use connections::Connections;
use family::Family;
use histogram::Histogram;
use model::Models;
use operations::{Buffered, Operations};
use page::{Page, Value};

/// All metrics; share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    families: Arc<Families>,
    registry: Registry,
}

/// A timer handle of one plugin at one extension point. The default one records nothing.
#[derive(Clone, Debug, Default)]
pub struct PluginTimer {
    histogram: Option<Arc<Histogram>>,
}

/// The size of one prefix index.
#[derive(Debug, Default)]
pub struct PrefixIndexGauge {
    entries: AtomicU64,
}

impl PrefixIndexGauge {
    /// Sets the number of entries, all endpoints together.
    pub fn set(&self, entries: u64) {
        self.entries.store(entries, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Families {
    models: Models,
    pools: Family<1, PoolGauges>,
    queues: ArcSwapOption<Queues>,
    health: ArcSwapOption<HealthSource>,
    scheduling: Histogram,
    scheduled: AtomicU64,
    not_scheduled: AtomicU64,
    plugins: Family<3, Histogram>,
    prefix_indexes: Mutex<Vec<Weak<PrefixIndexGauge>>>,
    prefix_dropped: AtomicU64,
    prefix_hit_ratio: Histogram,
    prefix_hit_bytes: Histogram,
    build: OnceLock<(Arc<str>, Arc<str>)>,
    rewrites: Family<3, AtomicU64>,
    operations: Operations,
    connections: Arc<Connections>,
}

/// Averages over one pool; bits of `f64`, NaN where there is no average.
#[derive(Debug)]
struct PoolGauges {
    ready: AtomicU64,
    kv: AtomicU64,
    queue: AtomicU64,
}

/// Where the queue of every endpoint is read from.
struct Queues {
    pool: Arc<str>,
    read: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
}

/// Where the standings of the endpoints are read from.
struct HealthSource {
    pool: Arc<str>,
    read: Box<dyn Fn() -> EndpointHealth + Send + Sync>,
}

/// How the endpoints of a pool stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndpointHealth {
    /// Endpoints by standing, by its name.
    pub standings: [(&'static str, u64); 3],
    /// Changes of standing so far.
    pub changes: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let families = Arc::new(Families::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(families.clone()));
        Metrics { families, registry }
    }
}

impl Metrics {
    /// The handles of a label pair. Pairs for which [`served`](Self::served) was not called yet are few; beyond,
    /// and beyond [`family::MAX_SERIES`] of those for which it was, both labels are `other`.
    pub fn model(&self, model: &str, target: &str) -> Arc<ModelMetrics> {
        self.families.models.get([model, target])
    }

    /// A model server answered with success for this pair, whose handles are `held`: it is no made-up name, and
    /// has series of its own from now on.
    pub fn served(&self, model: &str, target: &str, held: &ModelMetrics) {
        self.families.models.served([model, target], held);
    }

    /// One call of the scheduler.
    pub fn scheduled(&self, took: Duration, ok: bool) {
        let families = &self.families;
        families.scheduling.observe(took.as_secs_f64());
        let attempts = if ok {
            &families.scheduled
        } else {
            &families.not_scheduled
        };
        attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// The timer of a plugin: `inference_extension_plugin_duration_seconds`. Keep it.
    pub fn plugin_timer(&self, extension_point: &str, plugin_type: &str, plugin_name: &str) -> PluginTimer {
        let labels = [extension_point, plugin_type, plugin_name];
        PluginTimer {
            histogram: Some(self.families.plugins.get(labels)),
        }
    }

    /// A rewrite rule was applied.
    pub fn rewritten(&self, rewrite: &str, model: &str, target: &str) {
        let series = self.families.rewrites.get([rewrite, model, target]);
        series.fetch_add(1, Ordering::Relaxed);
    }

    /// Prefix match of one request: matched and total blocks, and matched bytes. A prompt without a whole block
    /// has no ratio.
    pub fn prefix_match(&self, matched: u32, total: u32, matched_bytes: u64) {
        if total > 0 {
            let ratio = f64::from(matched) / f64::from(total);
            self.families.prefix_hit_ratio.observe(ratio);
        }
        self.families.prefix_hit_bytes.observe(matched_bytes as f64);
    }

    /// The gauge of a new prefix index. The page shows the sum over the indexes whose gauge is still held.
    pub fn prefix_index(&self) -> Arc<PrefixIndexGauge> {
        let gauge = Arc::new(PrefixIndexGauge::default());
        let mut all = self.families.prefix_indexes.lock();
        all.retain(|g| g.strong_count() > 0);
        all.push(Arc::downgrade(&gauge));
        gauge
    }

    /// Updates of a prefix index were dropped because too many waited.
    pub fn prefix_updates_dropped(&self, n: u64) {
        self.families.prefix_dropped.fetch_add(n, Ordering::Relaxed);
    }

    /// Averages over the pool (runtime.md §4.4): `None` takes the gauge off the page.
    pub fn pool(&self, pool: &str, ready: u64, average_kv: Option<f64>, average_queue: Option<f64>) {
        let gauges = self.families.pools.get([pool]);
        let bits = |average: Option<f64>| average.unwrap_or(f64::NAN).to_bits();
        gauges.ready.store(ready, Ordering::Relaxed);
        gauges.kv.store(bits(average_kv), Ordering::Relaxed);
        gauges.queue.store(bits(average_queue), Ordering::Relaxed);
    }

    /// Says where a page takes the queue of every endpoint from: `read` gives (endpoint name, waiting
    /// requests) and is called once per page. The last call wins.
    pub fn endpoint_queues(&self, pool: &str, read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static) {
        self.families.queues.store(Some(Arc::new(Queues {
            pool: pool.into(),
            read: Box::new(read),
        })));
    }

    /// Says where a page takes the standings of the endpoints from: `read` is called once per page. The last call wins.
    pub fn endpoint_health(&self, pool: &str, read: impl Fn() -> EndpointHealth + Send + Sync + 'static) {
        self.families.health.store(Some(Arc::new(HealthSource {
            pool: pool.into(),
            read: Box::new(read),
        })));
    }

    /// Names the build in `inference_extension_info`; the first call counts.
    pub fn build_info(&self, commit: &str, build_ref: &str) {
        let _already_named = self.families.build.set((commit.into(), build_ref.into()));
    }

    /// The configuration of this hash is in force since `at`.
    pub fn config_applied(&self, hash: &str, at: SystemTime) {
        self.families.operations.config_applied(hash, at);
    }

    /// Says where a page takes the age of the API server's last word from; the first call counts.
    pub fn api_server(&self, age: impl Fn() -> Duration + Send + Sync + 'static) {
        self.families.operations.api_server(Box::new(age));
    }

    /// Spans reached the collector.
    pub fn spans_exported(&self, n: u64) {
        self.families.operations.spans(0, n);
    }

    /// Spans were dropped because the queue to the collector was full.
    pub fn spans_dropped(&self, n: u64) {
        self.families.operations.spans(1, n);
    }

    /// Spans were lost because the collector could not be reached or refused them.
    pub fn spans_failed(&self, n: u64) {
        self.families.operations.spans(2, n);
    }

    /// A stream was ended for want of room (0), of a body in time (1) or of any traffic (2).
    pub fn stream_ended_early(&self, reason: usize) {
        self.families.operations.stream_ended_early(reason);
    }

    /// Says where a page takes the bytes held for requests and answers under way from; `limit` is the most they may be. The
    /// last call wins.
    pub fn buffered_bytes(&self, limit: u64, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let read = Box::new(read);
        self.families.operations.buffered(Buffered { limit, read });
    }

    /// Changed certificate files were taken, or refused.
    pub fn certificate_reloaded(&self, good: bool) {
        self.families.operations.certificate_reloaded(good);
    }

    /// A changed configuration was refused.
    pub fn config_refused(&self) {
        self.families.operations.config_refused();
    }

    /// The counters of connections, for those that serve ports.
    pub fn connections(&self) -> Arc<Connections> {
        self.families.connections.clone()
    }

    /// Every plugin timer that has run: its labels as (extension point, type, name), runs, and their mean in seconds.
    pub fn plugin_times(&self) -> Vec<([Arc<str>; 3], u64, f64)> {
        let plugins = self.families.plugins.all();
        let ran = plugins.into_iter().filter(|(_, h)| h.count() > 0);
        ran.map(|(labels, h)| (labels.map(|(_, value)| value), h.count(), h.mean()))
            .collect()
    }

    /// The page in OpenMetrics text. `wire::prom_text` turns it into the older format.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing into a `String` cannot fail, and no collector of ours fails by itself.
        let written = prometheus_client::encoding::text::encode(&mut page, &self.registry);
        debug_assert!(written.is_ok());
        page
    }
}

impl PluginTimer {
    /// Records one run.
    pub fn observe(&self, took: Duration) {
        if let Some(histogram) = &self.histogram {
            histogram.observe(took.as_secs_f64());
        }
    }
}

impl Default for Families {
    fn default() -> Self {
        Families {
            models: Models::default(),
            pools: Family::new(["name"], |_| PoolGauges {
                ready: AtomicU64::new(0),
                kv: AtomicU64::new(f64::NAN.to_bits()),
                queue: AtomicU64::new(f64::NAN.to_bits()),
            }),
            queues: ArcSwapOption::empty(),
            health: ArcSwapOption::empty(),
            scheduling: Histogram::new(buckets::SCHEDULING_SECONDS),
            scheduled: AtomicU64::new(0),
            not_scheduled: AtomicU64::new(0),
            plugins: Family::new(catalogue::PLUGIN, |_| Histogram::new(buckets::SCHEDULING_SECONDS)),
            prefix_indexes: Mutex::default(),
            prefix_dropped: AtomicU64::new(0),
            prefix_hit_ratio: Histogram::new(buckets::HIT_RATIO),
            prefix_hit_bytes: Histogram::new(buckets::HIT_BYTES),
            build: OnceLock::new(),
            rewrites: Family::new(catalogue::REWRITE, |_| AtomicU64::new(0)),
            operations: Operations::default(),
            connections: Arc::default(),
        }
    }
}

impl Collector for Families {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.models.write(&mut page)?;
        self.write_pools(&mut page)?;
        self.write_extension(&mut page)?;
        self.operations.write(&mut page)?;
        self.connections.write(&mut page)?;
        process::write(&mut page)
    }
}

impl Families {
    fn write_pools(&self, page: &mut Page) -> fmt::Result {
        let pools = self.pools.all();
        let mut average = |spec, of: fn(&PoolGauges) -> &AtomicU64| {
            let known = pools
                .iter()
                .map(|(l, p)| (l, f64::from_bits(of(p).load(Ordering::Relaxed))))
                .filter(|(_, x)| !x.is_nan());
            page.labelled(spec, known.map(|(l, x)| (l.clone(), Value::Ratio(x))))
        };
        average(&catalogue::POOL_KV, |p| &p.kv)?;
        average(&catalogue::POOL_QUEUE, |p| &p.queue)?;
        let ready = pools
            .iter()
            .map(|(l, p)| (l.clone(), Value::Level(p.ready.load(Ordering::Relaxed) as i64)));
        page.labelled(&catalogue::POOL_READY, ready)?;
        let queues = self.queues.load_full();
        let queues = queues.iter().flat_map(|q| {
            (q.read)().into_iter().map(|(endpoint, waiting)| {
                let labels = [
                    ("name", q.pool.clone()),
                    ("model_server_pod", Arc::from(endpoint)),
                ];
                (labels, Value::Level(waiting as i64))
            })
        });
        page.labelled(&catalogue::POD_QUEUE, queues)?;
        self.write_health(page)
    }

    fn write_health(&self, page: &mut Page) -> fmt::Result {
        let Some(source) = self.health.load_full() else {
            return Ok(());
        };
        let health = (source.read)();
        let pool = || ("name", source.pool.clone());
        let standings = health.standings.into_iter();
        let standings = standings.map(|(standing, n)| {
            let labels = [pool(), ("standing", Arc::from(standing))];
            (labels, Value::Level(n as i64))
        });
        page.labelled(&catalogue::ENDPOINT_HEALTH, standings)?;
        let changes = [([pool()], Value::Count(health.changes))];
        page.labelled(&catalogue::HEALTH_CHANGES, changes)
    }

    fn write_extension(&self, page: &mut Page) -> fmt::Result {
        page.one(&catalogue::SCHEDULING_SECONDS, Value::Spread(&self.scheduling))?;
        let attempts = [("failure", &self.not_scheduled), ("success", &self.scheduled)];
        let attempts = attempts
            .map(|(status, n)| (status, n.load(Ordering::Relaxed)))
            .into_iter()
            .filter(|(_, n)| *n > 0);
        page.labelled(
            &catalogue::SCHEDULING_ATTEMPTS,
            attempts.map(|(s, n)| ([("status", s)], Value::Count(n))),
        )?;
        let plugins = self.plugins.all();
        let plugins = plugins.iter().filter(|(_, h)| h.count() > 0);
        page.labelled(
            &catalogue::PLUGIN_SECONDS,
            plugins.map(|(l, h)| (l.clone(), Value::Spread(h))),
        )?;
        let indexes = self.prefix_indexes.lock().clone();
        let entries = indexes
            .iter()
            .filter_map(Weak::upgrade)
            .map(|i| i.entries.load(Ordering::Relaxed))
            .sum::<u64>();
        page.one(&catalogue::PREFIX_SIZE, Value::Level(entries as i64))?;
        let dropped = self.prefix_dropped.load(Ordering::Relaxed);
        page.one(&catalogue::PREFIX_DROPPED, Value::Count(dropped))?;
        page.one(
            &catalogue::PREFIX_HIT_RATIO,
            Value::Spread(&self.prefix_hit_ratio),
        )?;
        page.one(
            &catalogue::PREFIX_HIT_BYTES,
            Value::Spread(&self.prefix_hit_bytes),
        )?;
        let build = self.build.get().map(|(commit, build_ref)| {
            let labels = [("commit", commit.clone()), ("build_ref", build_ref.clone())];
            (labels, Value::Level(1))
        });
        page.labelled(&catalogue::INFO, build)?;
        let rewrites = self.rewrites.all();
        page.labelled(
            &catalogue::REWRITES,
            rewrites
                .iter()
                .map(|(l, n)| (l.clone(), Value::Count(n.load(Ordering::Relaxed)))),
        )
    }
}

impl fmt::Debug for HealthSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthSource")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
