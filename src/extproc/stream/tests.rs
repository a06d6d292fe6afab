//! The state machine under messages in any order, left at any point: nothing panics, gauges return to zero, hooks
//! come in pairs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::base::clock::Clock;
use crate::datastore::Datastore;
use crate::model::endpoint::EndpointSpec;
use crate::model::exchange::{Completion, Picked};
use crate::model::objective::Objectives;
use crate::model::rewrite::{ModelRewrite, Rewrites, Rule, Target};
use crate::plugin::{
    Context, Cycle, Decision, Mutation, Params, PluginInstance, PreRequest, ResponseComplete, Roles,
};
use crate::requestcontrol::{DecisionRing, DirectorParts, draw};
use crate::saturation::UtilizationDetector;
use crate::scheduling::{Profile, Scheduler, plugin_types};
use crate::telemetry::metrics::Metrics;

/// A plugin that counts what it began and has not completed; panics before it begins when told to.
#[derive(Default)]
struct Counter {
    open: AtomicI64,
    begun: AtomicU64,
    completed: AtomicU64,
    panics: bool,
}

impl PreRequest for Counter {
    fn pre_request(&self, cycle: &Cycle<'_>, _: &Decision, _: &mut Mutation) {
        if self.panics && cycle.request.id == "panic" {
            // As a panic, without its message.
            resume_unwind(Box::new("asked for"));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }
}

impl ResponseComplete for Counter {
    fn response_complete(&self, _: &Picked, _: &Completion) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.completed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A plugin that only sees ends.
#[derive(Default)]
struct Ends(AtomicU64);

impl ResponseComplete for Ends {
    fn response_complete(&self, _: &Picked, _: &Completion) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    director: Arc<Director>,
    datastore: Arc<Datastore>,
    metrics: Arc<Metrics>,
    decisions: Arc<DecisionRing>,
    counters: [Arc<Counter>; 3],
    ends: Arc<Ends>,
}

fn make(name: &str) -> Roles {
    let context = Context {
        name: name.into(),
        metrics: Arc::default(),
        clock: Clock::System,
    };
    let types = plugin_types();
    let found = types.iter().find(|t| t.name == name).unwrap();
    (found.make)(&context, &Params::default()).unwrap()
}

fn scheduler() -> Scheduler {
    let picker = make("random-picker").picker.unwrap();
    let profile = Profile {
        name: "default".into(),
        filters: vec![],
        scorers: vec![],
        picker: ("p".into(), "random-picker", picker),
    };
    let handler = make("single-profile-handler").handler.unwrap();
    Scheduler::new(vec![profile], ("h".into(), "single-profile-handler", handler)).unwrap()
}

fn bench() -> Bench {
    let datastore = Arc::new(Datastore::new("pool"));
    let spec = |i: u16| EndpointSpec {
        namespace: "n".into(),
        name: format!("e{i}"),
        address: ([10, 0, 0, 1], i).into(),
        metrics_address: None,
        metrics_path: None,
        labels: Default::default(),
    };
    datastore.set_endpoints((1..4).map(spec).collect());
    let metrics = Arc::new(Metrics::default());
    let counter = |panics| {
        Arc::new(Counter {
            panics,
            ..Counter::default()
        })
    };
    let counters = [counter(false), counter(true), counter(false)];
    let ends = Arc::new(Ends::default());
    let instance = |roles| PluginInstance {
        name: "counter".into(),
        type_name: "counter",
        roles,
    };
    let counting = |c: &Arc<Counter>| {
        instance(Roles {
            pre_request: Some(c.clone()),
            response_complete: Some(c.clone()),
            ..Roles::default()
        })
    };
    let mut plugins: Vec<PluginInstance> = counters.iter().map(counting).collect();
    plugins.push(instance(Roles {
        response_complete: Some(ends.clone()),
        ..Roles::default()
    }));
    let decisions = Arc::new(DecisionRing::new(64));
    let director = Director::new(DirectorParts {
        datastore: datastore.clone(),
        scheduler: scheduler(),
        plugins,
        detector: UtilizationDetector::default(),
        decisions: decisions.clone(),
        metrics: metrics.clone(),
        clock: Clock::System,
        ignore_subset: false,
        health: None,
        fallbacks: 0,
        tracer: Default::default(),
    });
    Bench {
        director: Arc::new(director),
        datastore,
        metrics,
        decisions,
        counters,
        ends,
    }
}

impl Bench {
    fn stream(&self) -> Stream {
        let limits = Limits {
            max_request_body: 400,
        };
        Stream::new(self.director.clone(), limits)
    }

    fn in_flight(&self) -> u64 {
        let fleet = self.datastore.fleet();
        fleet.endpoints.iter().map(|e| e.traffic.in_flight()).sum()
    }

    fn sent(&self) -> u64 {
        let fleet = self.datastore.fleet();
        fleet.endpoints.iter().map(|e| e.traffic.requests()).sum()
    }

    /// Everything begun has ended.
    fn at_rest(&self) {
        assert_eq!(self.in_flight(), 0, "requests in flight");
        let page = self.metrics.encode();
        let running = page
            .lines()
            .filter(|l| l.starts_with("inference_objective_running_requests{"));
        for line in running {
            assert!(line.ends_with(" 0"), "{line}");
        }
        for counter in &self.counters {
            assert_eq!(counter.open.load(Ordering::Relaxed), 0, "hooks are not paired");
        }
        assert_eq!(
            self.ends.0.load(Ordering::Relaxed),
            self.sent(),
            "ends seen of requests sent"
        );
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in pairs {
        headers.push(
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(value.as_bytes()),
        );
    }
    headers
}

const BODY: &str = r#"{"model":"m","prompt":"hello"}"#;

fn request_headers(id: &'static str, end: bool) -> Message {
    let pairs = [
        (":method", "POST"),
        (":path", "/v1/completions"),
        ("x-request-id", id),
    ];
    Message::Headers(Side::Request, headers(&pairs), end)
}

fn body(side: Side, text: &'static str, end: bool) -> Message {
    Message::Body(side, Bytes::from_static(text.as_bytes()), end)
}

fn response_headers(end: bool) -> Message {
    let pairs = [(":status", "200"), ("content-type", "text/event-stream")];
    Message::Headers(Side::Response, headers(&pairs), end)
}

fn say(stream: &mut Stream, message: Message, out: &mut Outbox) -> Next {
    let incoming = Incoming {
        message,
        metadata: None,
        protocol: None,
    };
    stream.on_message(incoming, out)
}

/// Any message, as any peer may send it.
fn any_message() -> impl Strategy<Value = Message> {
    let side = prop_oneof![Just(Side::Request), Just(Side::Response)];
    let id = prop_oneof![4 => Just("r"), 1 => Just("panic")];
    let long = "x".repeat(300);
    let text = prop_oneof![
        3 => Just(BODY.to_owned()),
        1 => Just(String::new()),
        1 => Just("no JSON".to_owned()),
        1 => Just(long),
        1 => Just("data: {\"usage\":{\"total_tokens\":3}}\n\ndata: [DONE]\n\n".to_owned()),
    ];
    prop_oneof![
        3 => (id, any::<bool>()).prop_map(|(id, end)| request_headers(id, end)),
        1 => Just(Message::Headers(Side::Request, headers(&[(":method", "CONNECT")]), false)),
        2 => any::<bool>().prop_map(response_headers),
        4 => (side.clone(), text, any::<bool>()).prop_map(|(s, t, end)| Message::Body(s, t.into(), end)),
        1 => side.prop_map(Message::Trailers),
        1 => Just(Message::Unknown),
    ]
}

fn any_protocol() -> impl Strategy<Value = Option<Protocol>> {
    let mode = prop_oneof![
        4 => Just(BodyMode::FullDuplexStreamed),
        1 => Just(BodyMode::Buffered),
        1 => Just(BodyMode::BufferedPartial),
        1 => Just(BodyMode::Streamed),
        1 => Just(BodyMode::None),
    ];
    prop::option::of((mode.clone(), mode).prop_map(|(request, response)| Protocol { request, response }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_whatever_order_leaves_nothing_behind(
        exchanges in prop::collection::vec(
            (prop::collection::vec((any_message(), any_protocol()), 0..12), 0..3),
            1..4,
        ),
    ) {
        let bench = bench();
        for (messages, leave) in exchanges {
            let (mut stream, mut out) = (bench.stream(), Outbox::default());
            let mut open = true;
            for (message, protocol) in messages {
                let incoming = Incoming { message, metadata: None, protocol };
                // A panic of a hook is caught where streams are served.
                let Ok(next) = catch_unwind(AssertUnwindSafe(|| stream.on_message(incoming, &mut out))) else {
                    stream.on_failure();
                    open = false;
                    break;
                };
                if next == Next::Close {
                    // Once closed, closed: whatever still comes is ignored.
                    prop_assert_eq!(say(&mut stream, body(Side::Request, BODY, true), &mut out), Next::Close);
                    break;
                }
            }
            match leave {
                0 => {}
                1 if open => stream.on_end(),
                _ => stream.on_failure(),
            }
            drop(stream);
            bench.at_rest();
        }
    }
}

#[test]
fn a_response_that_ends_before_the_request_has_come_ends_the_exchange() {
    let ends = [body(Side::Response, "x", true), Message::Trailers(Side::Response)];
    for end in ends {
        let bench = bench();
        let (mut stream, mut out) = (bench.stream(), Outbox::default());
        assert_eq!(
            say(&mut stream, request_headers("r", false), &mut out),
            Next::Read
        );
        assert_eq!(say(&mut stream, end, &mut out), Next::Close);
        assert_eq!(
            say(&mut stream, body(Side::Request, BODY, true), &mut out),
            Next::Close
        );
        assert_eq!(bench.sent(), 0, "there is nothing left to pick for");
        drop(stream);
        bench.at_rest();
    }
}

#[test]
fn a_hook_that_panics_is_paired_with_nothing_and_those_before_it_are() {
    let bench = bench();
    let (mut stream, mut out) = (bench.stream(), Outbox::default());
    say(&mut stream, request_headers("panic", false), &mut out);
    let message = body(Side::Request, BODY, true);
    let caught = catch_unwind(AssertUnwindSafe(|| say(&mut stream, message, &mut out)));
    assert!(caught.is_err());
    assert_eq!(bench.in_flight(), 1, "begun before the hooks");
    stream.on_failure();
    bench.at_rest();
    let counts = bench.counters.each_ref().map(|c| {
        (
            c.begun.load(Ordering::Relaxed),
            c.completed.load(Ordering::Relaxed),
        )
    });
    assert_eq!(counts, [(1, 1), (0, 0), (0, 0)]);
}

#[test]
fn a_request_without_a_body_completes_no_hook_that_it_did_not_begin() {
    let bench = bench();
    let (mut stream, mut out) = (bench.stream(), Outbox::default());
    say(&mut stream, request_headers("r", true), &mut out);
    assert_eq!(bench.in_flight(), 1);
    assert_eq!(say(&mut stream, response_headers(true), &mut out), Next::Close);
    bench.at_rest();
    assert_eq!(bench.sent(), 1);
    assert!(
        bench
            .counters
            .iter()
            .all(|c| c.completed.load(Ordering::Relaxed) == 0)
    );
}

#[test]
fn a_tunnel_is_routed_by_its_headers_at_once_and_its_bytes_pass() {
    let websocket = [
        (":method", "GET"),
        (":path", "/v1/realtime"),
        ("upgrade", "websocket"),
    ];
    let connect = [(":method", "CONNECT")];
    for asked in [&websocket[..], &connect[..]] {
        let bench = bench();
        let (mut stream, mut out) = (bench.stream(), Outbox::default());
        let message = Message::Headers(Side::Request, headers(asked), false);
        assert_eq!(say(&mut stream, message, &mut out), Next::Read);
        assert_eq!(bench.in_flight(), 1, "{asked:?}");
        assert!(!out.is_empty());
        while out.pop().is_some() {}
        assert_eq!(
            say(&mut stream, body(Side::Request, "frame", false), &mut out),
            Next::Read
        );
        assert!(!out.is_empty(), "what the tunnel carries goes on");
    }
    for asked in [
        &[(":method", "POST"), ("upgrade", "websocket")][..],
        &[(":method", "GET"), ("upgrade", "h2c")][..],
        &[(":method", "GET")][..],
    ] {
        let bench = bench();
        let (mut stream, mut out) = (bench.stream(), Outbox::default());
        say(
            &mut stream,
            Message::Headers(Side::Request, headers(asked), false),
            &mut out,
        );
        assert_eq!(bench.in_flight(), 0, "{asked:?} is no tunnel");
    }
}

#[test]
fn usage_counts_when_the_client_leaves_after_the_last_event() {
    let events = "data: {\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":5,\"total_tokens\":7}}\n\ndata: [DONE]\n\n";
    for (cut, counted) in [(events.len(), true), (events.len() - 8, false)] {
        let bench = bench();
        let (mut stream, mut out) = (bench.stream(), Outbox::default());
        say(&mut stream, request_headers("r", false), &mut out);
        say(&mut stream, body(Side::Request, BODY, true), &mut out);
        say(&mut stream, response_headers(false), &mut out);
        say(&mut stream, body(Side::Response, &events[..cut], false), &mut out);
        stream.on_end();
        let page = bench.metrics.encode();
        let line = "inference_objective_output_tokens_sum{model_name=\"m\",target_model_name=\"m\"} 5";
        assert_eq!(page.lines().any(|l| l.starts_with(line)), counted, "{page}");
        bench.at_rest();
    }
}

#[test]
fn every_draw_of_an_exchange_can_be_made_again_from_its_record() {
    let bench = bench();
    let target = |model: &str, weight| Target {
        model: model.into(),
        weight: Some(weight),
    };
    let rewrite = ModelRewrite {
        name: "split".into(),
        rules: vec![Rule {
            matches: vec!["m".into()],
            targets: vec![target("a", 3), target("b", 1)],
        }],
    };
    let rewrites = Rewrites::new(vec![rewrite]);
    bench.datastore.set_rules(Objectives::default(), rewrites.clone());
    for i in 0..60 {
        let (mut stream, mut out) = (bench.stream(), Outbox::default());
        say(&mut stream, request_headers("r", i % 2 == 0), &mut out);
        say(&mut stream, body(Side::Request, BODY, true), &mut out);
    }
    let records: Vec<_> = bench.decisions.newest(|_| true).collect();
    assert_eq!(records.len(), 60);
    for record in &records {
        let (endpoints, target) = (record.endpoints(), record.target.as_ref().unwrap());
        if record.scheduled {
            assert_eq!(record.decision.seed, record.seed);
            let again = rewrites
                .find("m")
                .unwrap()
                .choose(|n| draw::rewrite(record.seed, n));
            assert_eq!(record.target_model, again);
        } else {
            let again = &endpoints[draw::endpoint(record.seed, endpoints.len())];
            assert_eq!(target.authority, again.authority);
        }
    }
    let sent_as = |model: &str| records.iter().any(|r| r.target_model == model);
    assert!(sent_as("a") && sent_as("b"), "30 draws of 3 to 1");
}
