//! The explain pages of the real `epp`: every decision with its scores and what would have flipped it, the pool, the
//! plugins, the configuration; who may read them, and that no payload is on any of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use endpoint_picker::admin::debug::{DebugPages, FlagValue};
use endpoint_picker::admin::metrics_page::{self, Limits, MetricsPage, Reviewer, Verdict};
use endpoint_picker::base::clock::Clock;
use endpoint_picker::config;
use endpoint_picker::datastore::Datastore;
use endpoint_picker::model::active_config::{ActiveConfig, ConfigState, Refused};
use endpoint_picker::net::listen::{self, Reach};
use endpoint_picker::requestcontrol::{DecisionRing, Plan};
use endpoint_picker::telemetry::metrics::Metrics;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::epp::{Epp, Options, get};
use crate::support::ext_proc::Answer;
use crate::support::http::client;
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::sent::{PROMPT, respond, route, route_with};

/// Header of `header-based-testing-filter`.
const FILTER_HEADER: &str = "test-epp-endpoint-selection";

/// Starts pods with these queues and KV uses.
async fn pods(loads: &[(u32, f64)]) -> Vec<SocketAddr> {
    let port = ports::free();
    let mut addresses = Vec::new();
    for (i, (queue, kv)) in loads.iter().enumerate() {
        let state = State {
            queue: *queue,
            kv: *kv,
            ..State::default()
        };
        let host = u8::try_from(i + 1).unwrap();
        addresses.push(ModelServer::start(host, port, state).await.address);
    }
    addresses
}

async fn page(epp: &Epp, path: &str) -> Value {
    let text = get(epp.metrics, path)
        .await
        .unwrap_or_else(|| panic!("no {path}"));
    assert!(!text.contains(PROMPT), "a prompt is on {path}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}\n{text}"))
}

/// The only decision of that request, once its response is noted as `ended` (or not).
async fn decision(epp: &Epp, id: &str, ended: bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = page(epp, &format!("/debug/decisions?request-id={id}")).await;
        let list = found["decisions"].as_array().unwrap();
        if list.len() == 1 && list[0]["response"].is_null() != ended {
            return list[0].clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{found}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn near(value: &Value, expected: f64) {
    let got = value.as_f64().unwrap_or(f64::NAN);
    assert!((got - expected).abs() < 1e-5, "{value} is not {expected}");
}

#[tokio::test]
async fn a_decision_tells_every_score_and_what_would_have_flipped_it() {
    // Weight 1 each: queue 1, 0.5, 0; kv 0.5, 0.9, 0.8.
    let addresses = pods(&[(0, 0.5), (5, 0.1), (10, 0.2)]).await;
    let epp = Epp::start(&Options::hermetic(&addresses), 3).await;
    let (exchange, answer) = route(epp.grpc, "one", "m", None).await;
    let Answer::RequestHeaders(_, Some(target), _) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(target, addresses[0].to_string());
    let d = decision(&epp, "one", false).await;
    assert_eq!(d["outcome"]["endpoint"], "pod-0-rank-0");
    assert_eq!(d["outcome"]["address"], target);
    assert_eq!(
        (&d["model"], &d["endpoints"], &d["subset_hint"]),
        (&json!("m"), &json!(3), &json!(false))
    );
    let profile = &d["profiles"][0];
    assert_eq!(
        (&profile["name"], &profile["primary"]),
        (&json!("default"), &json!(true))
    );
    let names: Vec<&Value> = profile["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["endpoint"])
        .collect();
    assert_eq!(names, ["pod-0-rank-0", "pod-1-rank-0", "pod-2-rank-0"]);
    let first = &profile["candidates"][0];
    assert_eq!(first["picked"], 1);
    let score = |c: &Value, name: &str| {
        let scores = c["scores"].as_array().unwrap();
        scores.iter().find(|s| s["scorer"] == name).unwrap()["raw"].clone()
    };
    near(&score(first, "queue-scorer"), 1.0);
    near(&score(first, "kv-cache-utilization-scorer"), 0.5);
    near(
        &score(&profile["candidates"][1], "kv-cache-utilization-scorer"),
        0.9,
    );
    for candidate in profile["candidates"].as_array().unwrap() {
        let scores = candidate["scores"].as_array().unwrap();
        assert_eq!(scores.len(), 4);
        let sum: f64 = scores.iter().map(|s| s["weighted"].as_f64().unwrap()).sum();
        near(&candidate["total"], sum);
        let age = candidate["signals"]["age_seconds"].as_f64().unwrap();
        assert!((0.0..20.0).contains(&age), "{age}");
    }
    assert_eq!(profile["candidates"][2]["signals"]["waiting"], 10);
    let compared = &profile["comparison"];
    assert_eq!(
        (&compared["decided_by"], &compared["runner_up"]),
        (&json!("score"), &json!("pod-1-rank-0"))
    );
    near(&compared["margin"], 0.1);
    let flips = compared["flips"].as_array().unwrap();
    let flip = |name: &str| flips.iter().find(|f| f["scorer"] == name).unwrap();
    assert_eq!(flip("queue-scorer")["winner_without"], "pod-1-rank-0");
    near(&flip("queue-scorer")["level_at_weight"], 0.8);
    near(&flip("queue-scorer")["level_at_runner_up_raw"], 0.6);
    near(&flip("kv-cache-utilization-scorer")["level_at_weight"], 1.25);
    near(&flip("kv-cache-utilization-scorer")["level_at_winner_raw"], 0.4);

    let pool = page(&epp, "/debug/endpoints").await;
    assert_eq!(
        (
            &pool["endpoints"][0]["in_flight"],
            &pool["endpoints"][0]["requests"]
        ),
        (&json!(1), &json!(1))
    );
    respond(exchange).await;
    let response = decision(&epp, "one", true).await["response"].clone();
    assert_eq!(
        (&response["end"], &response["error"]),
        (&json!("natural"), &Value::Null)
    );
    assert_eq!(response["usage"]["prompt_tokens"], 7);
    let pool = page(&epp, "/debug/endpoints").await;
    let of = |i: usize| pool["endpoints"][i].clone();
    assert_eq!(
        (&of(0)["in_flight"], &of(0)["requests"], &of(0)["share"]),
        (&json!(0), &json!(1), &json!(1.0))
    );
    assert_eq!(
        (&of(1)["waiting"], &of(1)["kv_usage"], &of(1)["share"]),
        (&json!(5), &json!(0.1), &json!(0.0))
    );
    assert_eq!(
        (&of(1)["fresh"], &pool["pool"]),
        (&json!(true), &json!("test-pool"))
    );
}

#[tokio::test]
async fn rejections_hints_and_filters_are_told() {
    let addresses = pods(&[(0, 0.1), (3, 0.1)]).await;
    let epp = Epp::start(&Options::hermetic(&addresses), 2).await;
    let only = addresses[1].to_string();
    let (_hinted, _) = route(epp.grpc, "hinted", "m", Some(&[&only])).await;
    let (_nowhere, _) = route(epp.grpc, "nowhere", "other", Some(&["127.0.0.99:1"])).await;
    let (_all, _) = route(epp.grpc, "all", "m", None).await;

    let hinted = decision(&epp, "hinted", false).await;
    assert_eq!(
        (&hinted["subset_hint"], &hinted["endpoints"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(hinted["outcome"]["endpoint"], "pod-1-rank-0");
    assert_eq!(
        hinted["profiles"][0]["comparison"]["decided_by"],
        "only candidate"
    );
    let nowhere = decision(&epp, "nowhere", false).await;
    assert_eq!(
        (
            &nowhere["outcome"]["rejected"],
            &nowhere["outcome"]["http_status"],
            &nowhere["outcome"]["reason"]
        ),
        (
            &json!("ServiceUnavailable"),
            &json!(503),
            &json!("rejected-no-endpoints")
        )
    );
    assert_eq!(nowhere["profiles"], json!([]));

    let ids = async |query: &str| -> Vec<String> {
        let page = page(&epp, &format!("/debug/decisions{query}")).await;
        let list = page["decisions"].as_array().unwrap().clone();
        list.iter()
            .map(|d| d["request_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let pod_0 = format!("?endpoint={}", addresses[0]);
    let rows: [(&str, &[&str]); 8] = [
        ("", &["all", "nowhere", "hinted"]),
        ("?n=1", &["all"]),
        ("?n=0", &[]),
        ("?model=m", &["all", "hinted"]),
        ("?model=other", &["nowhere"]),
        ("?endpoint=pod-1-rank-0", &["hinted"]),
        (&pod_0, &["all"]),
        ("?endpoint=default%2Fpod-0-rank-0&model=m", &["all"]),
    ];
    for (query, expected) in rows {
        assert_eq!(ids(query).await, expected, "{query}");
    }
    let one = page(&epp, "/debug/decisions?request-id=all&candidates=1").await;
    let profile = &one["decisions"][0]["profiles"][0];
    assert_eq!(
        (
            profile["candidates"].as_array().unwrap().len(),
            &profile["candidates_left"]
        ),
        (1, &json!(2))
    );
}

#[tokio::test]
async fn what_a_filter_took_out_is_told() {
    let addresses = pods(&[(0, 0.1), (3, 0.1), (3, 0.1)]).await;
    let mut options = Options::hermetic(&addresses);
    let name = "header-based-testing-filter";
    options.plugins.push_str(&format!("- type: {name}\n"));
    options.profiles.push_str(&format!("  - {{pluginRef: {name}}}\n"));
    let epp = Epp::start(&options, 3).await;
    let wanted = addresses[1].to_string();
    let headers = [("x-request-id", "one"), (FILTER_HEADER, &*wanted)];
    let (_exchange, _) = route_with(epp.grpc, &headers, "m", None).await;
    let profile = decision(&epp, "one", false).await["profiles"][0].clone();
    let filter = &profile["filters"][0];
    assert_eq!(
        (&filter["name"], &filter["removed_count"]),
        (&json!(name), &json!(2))
    );
    assert_eq!(filter["removed"], json!(["pod-0-rank-0", "pod-2-rank-0"]));
    assert_eq!(profile["picked"], json!(["pod-1-rank-0"]));
    let (_exchange, _) = route(epp.grpc, "none", "m", None).await;
    let none = decision(&epp, "none", false).await;
    assert_eq!(none["outcome"]["http_status"], 429);
    let profile = &none["profiles"][0];
    assert_eq!(
        (&profile["candidates"], &profile["comparison"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(profile["filters"][0]["removed_count"], 3);
}

#[tokio::test]
async fn the_ring_keeps_as_many_decisions_as_the_flag_says() {
    let addresses = pods(&[(0, 0.1)]).await;
    for (flag, kept) in [("--debug-decisions=2", 2), ("--debug-decisions=0", 0)] {
        let epp = Epp::start(&Options::hermetic(&addresses).flag(flag), 1).await;
        for i in 0..4 {
            let (_exchange, answer) = route(epp.grpc, &format!("r{i}"), "m", None).await;
            assert!(matches!(answer, Answer::RequestHeaders(..)), "{answer:?}");
        }
        let page = page(&epp, "/debug/decisions").await;
        let ids: Vec<&Value> = page["decisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| &d["request_id"])
            .collect();
        assert_eq!(ids, ["r3", "r2"][..kept].iter().collect::<Vec<_>>(), "{flag}");
        assert_eq!(page["kept"], kept);
    }
}

#[tokio::test]
async fn configuration_flags_and_plugins_are_those_in_force() {
    let addresses = pods(&[(0, 0.1)]).await;
    let epp = Epp::start(&Options::hermetic(&addresses), 1).await;
    let (_exchange, _) = route(epp.grpc, "one", "m", None).await;
    let config = page(&epp, "/debug/config").await;
    let hash = config["hash"].as_str().unwrap();
    assert!(
        hash.len() == 16 && epp.log().contains(hash),
        "{hash} is not in the log"
    );
    assert!(config["source"].as_str().unwrap().ends_with("config.yaml"));
    assert_eq!(
        config["flags"]["pool-name"],
        json!({"value": "test-pool", "given": true})
    );
    assert_eq!(
        config["flags"]["drain-timeout"],
        json!({"value": "30s", "given": false})
    );
    let plugins = page(&epp, "/debug/plugins").await;
    let queue = plugins["plugins"].as_array().unwrap();
    let queue = queue.iter().find(|p| p["name"] == "queue-scorer").unwrap();
    assert_eq!(queue["roles"], json!(["scorer"]));
    assert_eq!(
        queue["used_in"],
        json!([{"profile": "default", "as": "scorer", "weight": 1.0}])
    );
    assert_eq!(
        (&queue["runs"][0]["extension_point"], &queue["runs"][0]["count"]),
        (&json!("Scorer"), &json!(1))
    );
    let types = plugins["types"].as_array().unwrap();
    assert_eq!(types.len(), config::registry().iter().count());
}

#[tokio::test]
async fn the_debug_pages_answer_nonsense_with_what_would_be_right() {
    let epp = Epp::start(&Options::hermetic(&[]), 0).await;
    let ask = async |path: &str| {
        let url = format!("http://{}{path}", epp.metrics);
        let answer = client().get(url).send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.headers().clone(),
            answer.text().await.unwrap(),
        )
    };
    for (path, status, says) in [
        ("/debug/decisions?modle=x", 400, "request-id"),
        ("/debug/nothing", 404, "/debug/"),
        ("/", 404, "/debug/"),
        ("/debug", 308, "/debug/"),
        ("/debug/", 200, "<!doctype html>"),
    ] {
        let (got, _, text) = ask(path).await;
        assert_eq!(got, status, "{path}: {text}");
        assert!(text.contains(says), "{path}: {text}");
    }
    let (_, headers, text) = ask("/debug/").await;
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'nonce-"),
        "{policy}"
    );
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    assert!(text.contains(&format!("<script nonce=\"{nonce}\">")), "{nonce}");
    let (_, again, _) = ask("/debug/").await;
    assert_ne!(
        headers["content-security-policy"], again["content-security-policy"],
        "a nonce is used once"
    );
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!text.contains(outside), "the page names {outside}");
    }
    assert_eq!(headers["cache-control"], "no-store");
}

// --- who may read

struct Tokens;

impl Reviewer for Tokens {
    fn review<'a>(&'a self, token: &'a str, verb: &'a str, path: &'a str) -> BoxFuture<'a, Verdict> {
        assert_eq!(verb, "get");
        Box::pin(async move {
            match token {
                "good" => Verdict::Allowed,
                "metrics-only" if path == "/metrics" => Verdict::Allowed,
                "metrics-only" => Verdict::Denied {
                    user: "scraper".into(),
                },
                _ => Verdict::UnknownToken,
            }
        })
    }
}

fn pages() -> DebugPages {
    let metrics: Arc<Metrics> = Arc::default();
    let built = config::build(
        &config::Source::BuiltIn,
        &config::Environment::default(),
        &metrics,
        &Clock::System,
    )
    .map_err(|m| m.to_string())
    .unwrap();
    let plan = Arc::new(Plan::new(&built.scheduler, &built.plugins));
    DebugPages {
        datastore: Arc::new(Datastore::new("p")),
        decisions: Arc::new(DecisionRing::new(1)),
        config: Arc::new(ConfigState::new(ActiveConfig {
            hash: built.hash,
            source: "x".into(),
            since: SystemTime::now(),
            effective: json!({"plugins": [{"name": "queue-scorer", "parameters": {"token": "sesame"}}]}),
            applied: 2,
            refused: Some(Refused {
                at: SystemTime::now(),
                reasons: "line 3: no".into(),
            }),
        })),
        plan: Box::new(move || plan.clone()),
        registry: config::registry(),
        metrics,
        clock: Clock::System,
        flags: vec![FlagValue {
            name: "v",
            value: "0".into(),
            given: false,
        }],
        stale_after: Duration::from_secs(2),
    }
}

fn serve(page: MetricsPage) -> (SocketAddr, DropGuard) {
    let listener = listen::bind(Reach::Loopback, 0, "test-port").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(metrics_page::serve(
        listener,
        page,
        Limits::default(),
        stop.clone(),
    ));
    (address, stop.drop_guard())
}

#[tokio::test]
async fn every_page_is_reviewed_and_a_browser_may_send_the_token_as_a_password() {
    let page = MetricsPage::reviewed(Arc::default(), Arc::new(Tokens)).with_debug(pages());
    let (address, _stop) = serve(page.with_profiling(true));
    let client = client();
    let paths = [
        "/metrics",
        "/debug/",
        "/debug/endpoints",
        "/debug/config",
        "/debug/plugins",
        "/debug/decisions",
        "/debug/pprof/",
        "/debug/pprof/heap",
    ];
    for path in paths {
        let ask = async |authorization: &str| {
            let request = client.get(format!("http://{address}{path}"));
            let request = request.header("authorization", authorization);
            request.send().await.unwrap()
        };
        let page = path.starts_with("/debug/") && !path.contains("pprof");
        let granted = if path.ends_with("heap") { 501 } else { 200 };
        // u:good, u:bad
        for (authorization, status) in [
            ("", 401),
            ("Bearer bad", 401),
            ("Basic dTpiYWQ=", 401),
            ("Bearer good", granted),
            ("Basic dTpnb29k", if page { granted } else { 401 }),
            ("Bearer metrics-only", if path == "/metrics" { 200 } else { 403 }),
        ] {
            let answer = ask(authorization).await;
            assert_eq!(answer.status(), status, "{path} {authorization}");
            let offered = answer.headers().get_all("www-authenticate").iter();
            let basic = offered.filter(|v| v.as_bytes().starts_with(b"Basic")).count();
            assert_eq!(
                basic,
                usize::from(status == 401 && page),
                "{path} {authorization}"
            );
        }
    }
}

#[tokio::test]
async fn a_refused_configuration_is_told_and_secrets_are_not() {
    let (address, _stop) = serve(MetricsPage::open(Arc::default()).with_debug(pages()));
    let config = get(address, "/debug/config").await.unwrap();
    assert!(
        config.contains("line 3: no") && config.contains("\"applied\":2"),
        "{config}"
    );
    let plugins = get(address, "/debug/plugins").await.unwrap();
    for text in [&config, &plugins] {
        assert!(text.contains("(hidden)") && !text.contains("sesame"), "{text}");
    }
}
