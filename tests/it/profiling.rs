//! Profiles of the real `epp`, read as `go tool pprof` reads them.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use prost::Message;

use crate::support::epp::{Epp, Options};
use crate::support::http::client;
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::sent::route;

/// The parts of pprof's `profile.proto` that matter to a reader.
#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn text(&self, at: i64) -> &str {
        &self.string_table[usize::try_from(at).unwrap()]
    }

    fn type_of(&self, t: &ValueType) -> (&str, &str) {
        (self.text(t.kind), self.text(t.unit))
    }
}

async fn busy() -> Epp {
    let state = State::default();
    let address = ModelServer::start(1, ports::free(), state).await.address;
    // Scraping as fast as it goes: work for the profile, without a client.
    let options = Options::hermetic(&[address]).flag("--refresh-metrics-interval=1ms");
    Epp::start(&options, 1).await
}

async fn ask(epp: &Epp, path: &str) -> reqwest::Response {
    let url = format!("http://{}/debug/pprof/{path}", epp.metrics);
    client().get(url).send().await.unwrap()
}

#[tokio::test]
async fn a_cpu_profile_is_one_that_pprof_reads() {
    let epp = busy().await;
    let to = epp.grpc;
    let load = tokio::spawn(async move {
        for i in 0.. {
            route(to, &i.to_string(), "m", None).await;
        }
    });
    let answer = ask(&epp, "profile?seconds=1").await;
    load.abort();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    let bytes = answer.bytes().await.unwrap();
    let mut raw = Vec::new();
    GzDecoder::new(&bytes[..]).read_to_end(&mut raw).unwrap();
    let profile = Profile::decode(&raw[..]).unwrap();
    let types: Vec<_> = profile.sample_type.iter().map(|t| profile.type_of(t)).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(
        profile.type_of(profile.period_type.as_ref().unwrap()),
        ("cpu", "nanoseconds")
    );
    assert_eq!(profile.period, 10_000_000);
    assert!(
        profile.duration_nanos >= 1_000_000_000,
        "{}",
        profile.duration_nanos
    );
    let functions: HashMap<u64, &str> = profile
        .function
        .iter()
        .map(|f| (f.id, profile.text(f.name)))
        .collect();
    let locations: HashMap<u64, Vec<&str>> = profile
        .location
        .iter()
        .map(|l| {
            (
                l.id,
                l.line.iter().map(|line| functions[&line.function_id]).collect(),
            )
        })
        .collect();
    let (mut samples, mut ours) = (0, 0);
    for sample in &profile.sample {
        assert_eq!(sample.value[1], sample.value[0] * profile.period);
        samples += sample.value[0];
        let stack: Vec<&str> = sample
            .location_id
            .iter()
            .flat_map(|id| locations[id].clone())
            .collect();
        if stack
            .iter()
            .any(|f| f.contains("endpoint_picker") || f.contains("epp::"))
        {
            ours += sample.value[0];
        }
    }
    assert!(samples > 0, "no samples of a busy process");
    assert!(
        ours > 0,
        "none of {samples} samples is in our code: {functions:?}"
    );
}

#[tokio::test]
async fn there_is_one_profile_at_a_time_and_a_client_that_leaves_ends_it() {
    let epp = busy().await;
    let url = format!("http://{}/debug/pprof/profile?seconds=120", epp.metrics);
    // Whoever comes first is profiled: the long one asks until it is the one.
    let first = tokio::spawn(async move {
        while reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status() == 409)
        {
            tokio::task::yield_now().await;
        }
    });
    let until = async |status: u16| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let got = ask(&epp, "profile?seconds=1").await.status();
            if got == status {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{got}, not {status}");
        }
    };
    until(409).await;
    first.abort();
    until(200).await;
}

#[tokio::test]
async fn what_there_is_no_profile_of_is_said() {
    let epp = busy().await;
    for name in [
        "heap",
        "allocs",
        "goroutine",
        "threadcreate",
        "block",
        "mutex",
        "trace",
        "cmdline",
    ] {
        let answer = ask(&epp, name).await;
        assert_eq!(answer.status(), 501, "{name}");
        let text = answer.text().await.unwrap();
        assert!(text.starts_with(&format!("no {name} profile: ")), "{text}");
    }
    for (path, status) in [
        ("", 200),
        ("other", 404),
        ("profile?seconds=0", 400),
        ("profile?seconds=121", 400),
        ("profile?seconds=soon", 400),
    ] {
        assert_eq!(ask(&epp, path).await.status(), status, "{path}");
    }
    let url = format!("http://{}/debug/pprof/profile", epp.metrics);
    let head = client().head(url).send().await.unwrap();
    assert_eq!(head.status(), 200, "answered at once");
}

#[tokio::test]
async fn without_the_flag_there_is_no_profile() {
    let options = Options::hermetic(&[]).flag("--enable-pprof=false");
    let epp = Epp::start(&options, 0).await;
    for path in ["profile?seconds=1", "heap", ""] {
        assert_eq!(ask(&epp, path).await.status(), 404, "{path}");
    }
}
