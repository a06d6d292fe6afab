//! One decision with the default profile (queue 2, kv-cache 2, prefix 3, max-score): signals gathered from the
//! endpoints, a 2 KB prompt hashed and matched, scored, picked. Bars: 5 us at 100 endpoints, 50 us at 1,000,
//! and no heap allocation after warm-up. The same decisions with and without the recording for the debug pages, in
//! turn: bar 200 ns between them. And one endpoint that comes and goes among 1,000: what the change takes, up to the
//! poller's knowing whose tasks to start and stop.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench reports and fails by panicking"
)]

mod fixtures;

use std::alloc::System;
use std::cell::RefCell;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use endpoint_picker::base::clock::Clock;
use endpoint_picker::datastore::{Datastore, Fleet};
use endpoint_picker::model::endpoint::Endpoint;
use endpoint_picker::model::endpoint_list::EndpointList;
use endpoint_picker::model::exchange::End;
use endpoint_picker::model::request::InferenceRequest;
use endpoint_picker::model::sample::Sample;
use endpoint_picker::plugin::{Context, Cycle, Decision, Mutation, Params, PrefixState, Roles};
use endpoint_picker::requestcontrol::gather::Gathered;
use endpoint_picker::requestcontrol::kept::Numbers;
use endpoint_picker::requestcontrol::record::{Ended, Entry, Made};
use endpoint_picker::requestcontrol::{DecisionRing, Plan};
use endpoint_picker::scheduling::{PluginTimers, Profile, RatedScorer, Scheduler, plugin_types};
use endpoint_picker::telemetry::metrics::Metrics;
use endpoint_picker::wire::prom_text::Format;
use flate2::Compression;
use flate2::write::GzEncoder;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A scheduler with the default profile over a fleet, and the buffers a connection keeps.
struct Picker {
    fleet: Arc<Fleet>,
    scheduler: Scheduler,
    timers: PluginTimers,
    prefix: Roles,
    request: InferenceRequest,
    gathered: Gathered,
    /// Whose sample is the next to be new.
    scraped: usize,
    state: RefCell<PrefixState>,
    decision: Decision,
    seed: u64,
}

fn make(name: &str) -> Roles {
    let context = Context {
        name: name.into(),
        metrics: Arc::new(Metrics::default()),
        clock: Clock::System,
    };
    let types = plugin_types();
    let plugin = types.iter().find(|t| t.name == name).unwrap();
    (plugin.make)(&context, &Params::default()).unwrap()
}

impl Picker {
    fn new(endpoints: usize) -> Self {
        let prefix = make("prefix-cache-scorer");
        let scorers = [
            ("queue-scorer", 2.0, make("queue-scorer")),
            (
                "kv-cache-utilization-scorer",
                2.0,
                make("kv-cache-utilization-scorer"),
            ),
            ("prefix-cache-scorer", 3.0, prefix.clone()),
        ];
        let profile = Profile {
            name: "default".into(),
            filters: Vec::new(),
            scorers: scorers
                .into_iter()
                .map(|(name, weight, roles)| RatedScorer {
                    name: name.into(),
                    type_name: name,
                    scorer: roles.scorer.unwrap(),
                    weight,
                })
                .collect(),
            picker: (
                "max-score-picker".into(),
                "max-score-picker",
                make("max-score-picker").picker.unwrap(),
            ),
        };
        let handler = make("single-profile-handler").handler.unwrap();
        let handler = ("single-profile-handler".into(), "single-profile-handler", handler);
        let scheduler = Scheduler::new(vec![profile], handler).unwrap();
        Picker {
            fleet: Arc::new(Fleet {
                endpoints: fixtures::fleet(endpoints).into(),
                ..Fleet::default()
            }),
            timers: PluginTimers::new(&scheduler, &Metrics::default(), Clock::System),
            scheduler,
            prefix,
            request: fixtures::request(2048, 3),
            gathered: Gathered::default(),
            scraped: 0,
            state: RefCell::default(),
            decision: Decision::default(),
            seed: 0,
        }
    }

    /// What the director does around a decision, and the decision.
    fn decide(&mut self, timed: bool) -> u32 {
        self.gather();
        self.schedule(timed)
    }

    fn gather(&mut self) {
        let model = &*self.request.target_model;
        self.gathered.gather(&self.fleet, model);
    }

    /// Brings in `n` new samples, as the poller does between two decisions.
    fn scrape(&mut self, n: usize) {
        for _ in 0..n {
            self.scraped = (self.scraped + 1) % self.fleet.endpoints.len();
            let endpoint = &self.fleet.endpoints[self.scraped];
            let mut sample = Sample::clone(&endpoint.sample());
            sample.waiting = (sample.waiting + 1) % 13;
            endpoint.publish(sample);
        }
    }

    fn schedule(&mut self, timed: bool) -> u32 {
        self.state.borrow_mut().reset();
        self.seed += 1;
        let cycle = Cycle {
            request: &self.request,
            endpoints: &self.fleet.endpoints,
            signals: self.gathered.signals(),
            avoided: &[],
            now: Instant::now(),
            prefix: &self.state,
        };
        let (scheduler, decision) = (&self.scheduler, &mut self.decision);
        if timed {
            let mut observer = self.timers.observer();
            scheduler.schedule_observed(&cycle, self.seed, decision, &mut observer)
        } else {
            scheduler.schedule(&cycle, self.seed, decision)
        }
        .unwrap();
        self.decision.targets()[0]
    }

    /// Sends `prompts` other prompts through, so that the index is not empty, and this one last.
    fn warm(&mut self, prompts: u64) {
        let own = std::mem::take(&mut self.request);
        for seed in 0..prompts {
            self.request = fixtures::request(2048, seed * 2 + 101);
            self.send();
        }
        self.request = own;
        self.send();
    }

    fn send(&mut self) {
        self.decide(false);
        let cycle = Cycle {
            request: &self.request,
            endpoints: &self.fleet.endpoints,
            signals: self.gathered.signals(),
            avoided: &[],
            now: Instant::now(),
            prefix: &self.state,
        };
        let pre_request = self.prefix.pre_request.as_ref().unwrap();
        pre_request.pre_request(&cycle, &self.decision, &mut Mutation::default());
    }
}

/// What recording needs beside a picker.
struct Recorder {
    ring: DecisionRing,
    plan: Arc<Plan>,
    subset: EndpointList,
}

impl Recorder {
    fn new(picker: &Picker, decisions: usize) -> Self {
        Recorder {
            ring: DecisionRing::new(decisions),
            plan: Arc::new(Plan::new(&picker.scheduler, &[])),
            subset: EndpointList::default(),
        }
    }

    /// Records the decision just made, and that its response ended.
    fn record(&mut self, picker: &mut Picker) {
        let target = picker.decision.targets()[0] as usize;
        let entry = Entry {
            seed: 0,
            at: Instant::now(),
            request_id: "6f1c0f6e-6a3e-4d5e-9a53-0d6f3f0f4a51",
            incoming_model: "meta-llama/Llama-3.1-8B-Instruct",
            target_model: "meta-llama/Llama-3.1-8B-Instruct",
            priority: 0,
            fleet: &picker.fleet,
            plan: &self.plan,
            hinted: false,
            scheduled: true,
            outcome: Ok(Some(&picker.fleet.endpoints[target])),
        };
        let made = Made {
            subset: &mut self.subset,
            numbers: Numbers::Fleet(&mut picker.gathered),
            decision: &picker.decision,
        };
        if let Some(sequence) = self.ring.record(&entry, made) {
            let ended = Ended {
                end: End::Natural,
                error: None,
                took: Duration::from_secs(1),
                usage: None,
            };
            self.ring.ended(sequence, ended);
        }
    }
}

/// Rounds with and without recording, in turn, so that other load hits both; medians and their difference. Before each
/// decision come the samples that a scrape of all endpoints every 50 ms brings at 1,000 decisions a second.
fn recording(picker: &mut Picker, endpoints: usize) {
    const ROUNDS: usize = 400;
    const BATCH: u32 = 500;
    let mut recorder = Recorder::new(picker, 200);
    let fresh = endpoints / 50;
    let time = |run: &mut dyn FnMut()| {
        let began = Instant::now();
        (0..BATCH).for_each(|_| run());
        began.elapsed().as_secs_f64() / f64::from(BATCH) * 1e9
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(time(&mut || {
            picker.scrape(fresh);
            black_box(picker.decide(true));
            black_box(Instant::now());
        }));
        with.push(time(&mut || {
            picker.scrape(fresh);
            black_box(picker.decide(true));
            recorder.record(picker);
        }));
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (with, without) = (median(&mut with), median(&mut without));
    println!(
        "recording a decision, {endpoints} endpoints, ring of 200: {:.0} ns ({with:.0} against {without:.0} ns, bar 200 ns)",
        with - without
    );
}

fn count_allocations(picker: &mut Picker, endpoints: usize) {
    let region = Region::new(ALLOCATOR);
    for _ in 0..1000 {
        black_box(picker.decide(false));
    }
    let change = region.change();
    let n = change.allocations + change.reallocations;
    println!("allocations in 1000 decisions, {endpoints} endpoints: {n} (bar 0)");
    assert_eq!(n, 0, "a decision allocated after warm-up");
}

fn decision(c: &mut Criterion) {
    for (endpoints, bar) in [(100, 5), (1000, 50)] {
        let mut picker = Picker::new(endpoints);
        picker.warm(20_000);
        picker.decide(true);
        count_allocations(&mut picker, endpoints);
        recording(&mut picker, endpoints);
        let bar = Duration::from_micros(bar);
        fixtures::against_bar(
            &format!("decision, default profile, {endpoints} endpoints"),
            bar,
            || {
                black_box(picker.decide(false));
            },
        );
        let mut group = c.benchmark_group(format!("decision/{endpoints}"));
        group.bench_function("whole", |b| b.iter(|| picker.decide(false)));
        group.bench_function("whole, timed", |b| b.iter(|| picker.decide(true)));
        group.bench_function("signals", |b| {
            b.iter(|| {
                picker.gather();
                picker.gathered.signals().len()
            });
        });
        group.bench_function("schedule", |b| b.iter(|| picker.schedule(false)));
        group.finish();
    }
}

/// One endpoint leaves and comes back, again and again, with a reader of the fleet that wants to know who.
fn change(_: &mut Criterion) {
    const ENDPOINTS: u32 = 1_000;
    let store = Datastore::new("pool");
    store.set_endpoints((0..ENDPOINTS).map(fixtures::spec).collect());
    let mut seen = store.fleet().endpoints.clone();
    let mut i = 0;
    let mut one = || {
        let spec = fixtures::spec(i / 2 * 7 % ENDPOINTS);
        if i % 2 == 0 {
            store.update(Vec::new(), &[spec.owned_key()]);
        } else {
            store.update(vec![spec], &[]);
        }
        let now = store.fleet().endpoints.clone();
        let difference = now.difference(&seen);
        assert_eq!(difference.joined.len() + difference.left.len(), 1);
        seen = now;
        i += 1;
    };
    let region = Region::new(ALLOCATOR);
    (0..2_000).for_each(|_| one());
    let count = region.change();
    println!(
        "one change among {ENDPOINTS} endpoints: {:.1} allocations, {:.0} bytes",
        count.allocations as f64 / 2e3,
        count.bytes_allocated as f64 / 2e3
    );
    let bar = Duration::from_micros(20);
    fixtures::against_bar("one change among 1,000 endpoints", bar, one);
}

/// The metrics page of a pool of 1,000 endpoints: read, written, made 0.0.4, compressed. It is written off the threads
/// that serve requests.
fn metrics_page(_: &mut Criterion) {
    let metrics = Metrics::default();
    let fleet = fixtures::fleet(1000);
    metrics.endpoint_queues("pool", move || {
        let queue = |e: &Arc<Endpoint>| (e.spec.name.clone(), u64::from(e.sample().waiting));
        fleet.iter().map(queue).collect()
    });
    let bar = Duration::from_millis(5);
    fixtures::against_bar("metrics page, 1,000 endpoints, in gzip", bar, || {
        let page = Format::Prometheus.render(metrics.encode());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(page.as_bytes()).unwrap();
        black_box(gzip.finish().unwrap());
    });
}

criterion_group!(benches, decision, change, metrics_page);
criterion_main!(benches);
