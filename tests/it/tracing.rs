//! Spans of the real `epp` as a collector decodes them; the trace is continued, handed on and sampled; a collector
//! that is not there costs nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::support::collector::{Arrived, Collector};
use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, full_duplex, request_body, request_headers, response_body, response_headers,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::tls::Authority;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const PROMPT: &str =
    "a prompt of more than one block of sixteen tokens, which are sixty-four bytes, told twice";

struct Setup {
    epp: Epp,
    server: ModelServer,
}

async fn start(env: &[(&str, &str)], flags: &[&str]) -> Setup {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut options = Options::hermetic(&[server.address]);
    options.flags.extend(flags.iter().map(|f| (*f).to_owned()));
    options.env = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let epp = Epp::start(&options, 1).await;
    Setup { epp, server }
}

async fn collected(collector: &Collector, more: &[(&str, &str)]) -> Setup {
    let env = collector.env();
    let mut env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    env.extend_from_slice(more);
    start(&env, &[]).await
}

/// One whole exchange; the headers that were set on the request.
async fn exchange(epp: &Epp, headers: &[(&str, &str)], status: &str) -> BTreeMap<String, String> {
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let mut all = vec![(":path", "/v1/completions?key=secret"), (":method", "POST")];
    all.extend_from_slice(headers);
    exchange.send(full_duplex(request_headers(&all, false))).await;
    let body = serde_json::json!({"model": "m", "prompt": PROMPT}).to_string();
    exchange.send(request_body(body, true)).await;
    let Answer::RequestHeaders((set, removed), ..) = exchange.answer().await else {
        panic!("not routed")
    };
    assert!(!removed.iter().any(|r| r == "traceparent"));
    assert!(matches!(exchange.answer().await, Answer::RequestBody(..)));
    let json = [(":status", status), ("content-type", "application/json")];
    exchange.send(response_headers(&json, false)).await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    let usage = r#"{"usage":{"prompt_tokens":22,"completion_tokens":7,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":16}}}"#;
    exchange.send(response_body(usage, true)).await;
    while exchange.next().await.unwrap().is_some() {}
    set.into_iter().collect()
}

fn sampled() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

fn only(spans: Vec<Arrived>) -> Arrived {
    assert_eq!(spans.len(), 1, "{spans:?}");
    spans.into_iter().next().unwrap()
}

#[tokio::test]
async fn an_exchange_is_told_with_its_admission_profile_and_pick() {
    let collector = Collector::start().await;
    let env = [
        ("OTEL_SERVICE_NAME", "my-picker"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ];
    let Setup { epp, server } = collected(&collector, &env).await;
    let parent = sampled();
    let headers = [
        ("x-request-id", "id-1"),
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=1"),
        ("x-gateway-inference-objective", "gold"),
    ];
    let first = exchange(&epp, &headers, "200").await;
    exchange(&epp, &headers, "200").await;
    let roots = collector.named("gateway.request", 2).await;
    let root = &roots[0];
    assert_eq!(
        (root.trace.as_str(), root.parent.as_str()),
        (TRACE, PARENT),
        "the trace is continued"
    );
    assert_eq!(
        (root.kind, root.scope.as_str()),
        (SpanKind::Server, "gateway-api-inference-extension")
    );
    assert_eq!(
        first["traceparent"],
        format!("00-{TRACE}-{}-01", root.id),
        "and handed on"
    );
    assert_eq!(first["tracestate"], "vendor=1");
    let version = env!("CARGO_PKG_VERSION");
    for (key, value) in [
        ("service.name", "my-picker"),
        ("deployment.environment", "test"),
        ("service.version", version),
    ] {
        assert_eq!(root.resource[key], value, "{key}");
    }
    let body = serde_json::json!({"model": "m", "prompt": PROMPT})
        .to_string()
        .len()
        .to_string();
    let address = server.address.to_string();
    let want = [
        ("url.path", "/v1/completions"),
        ("gen_ai.request.model", "m"),
        ("gateway.target_model", "m"),
        ("gateway.request_id", "id-1"),
        ("gateway.objective", "gold"),
        ("gateway.priority", "0"),
        ("gateway.fairness_id", "default-flow"),
        ("gateway.streaming", "false"),
        ("http.request.body.size", &body),
        ("gateway.endpoint", &address),
        ("gateway.endpoint.name", "pod-0-rank-0"),
        ("http.response.status_code", "200"),
        ("gen_ai.usage.input_tokens", "22"),
        ("gen_ai.usage.output_tokens", "7"),
        ("gen_ai.usage.cache_read.input_tokens", "16"),
        ("gateway.prompt.blocks", "1"),
        ("gateway.prompt.cached_blocks", "0"),
        ("gateway.end", "natural"),
    ];
    for (key, value) in want {
        assert_eq!(root.attributes.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(
        roots[1].attributes["gateway.prompt.cached_blocks"], "1",
        "told twice"
    );
    assert!(
        !format!("{:?}", collector.spans()).contains("prompt of more"),
        "no payload"
    );
    assert!(!format!("{:?}", collector.spans()).contains("secret"), "no query");

    let child = |name: &str| {
        only(
            collector
                .spans()
                .into_iter()
                .filter(|s| s.name == name && s.parent == root.id)
                .collect(),
        )
    };
    let (admission, profile) = (child("gateway.admission"), child("gateway.profile"));
    assert_eq!(admission.attributes["gateway.admission.result"], "admitted");
    assert_eq!(admission.attributes["gateway.candidates"], "1");
    assert_eq!(profile.attributes["gateway.profile.name"], "default");
    assert_eq!(profile.attributes["gateway.profile.candidates"], "1");
    let pick = only(
        collector
            .spans()
            .into_iter()
            .filter(|s| s.name == "gateway.pick" && s.parent == profile.id)
            .collect(),
    );
    assert_eq!(pick.attributes["gateway.picked"], address);
    assert_eq!(pick.attributes["gateway.picker"], "max-score-picker");
    for (inner, outer) in [(&admission, root), (&profile, root), (&pick, &profile)] {
        assert!(inner.times.0 <= inner.times.1, "{inner:?}");
        assert!(
            outer.times.0 <= inner.times.0 && inner.times.1 <= outer.times.1,
            "{inner:?} in {outer:?}"
        );
        assert_eq!(inner.kind, SpanKind::Internal);
    }
    assert!(admission.times.1 <= profile.times.0, "admitted, then scheduled");
}

#[tokio::test]
async fn the_parents_decision_is_followed_and_without_one_the_sampler_decides() {
    let rows = [
        ("parentbased_traceidratio", "0", Some("01"), true),
        ("parentbased_traceidratio", "1", Some("00"), false),
        ("parentbased_traceidratio", "1", None, true),
        ("parentbased_traceidratio", "0", None, false),
        ("always_on", "", Some("00"), true),
        ("always_off", "", Some("01"), false),
        ("traceidratio", "0", Some("01"), false),
    ];
    for (sampler, argument, parent, recorded) in rows {
        let collector = Collector::start().await;
        let env = [
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ];
        let Setup { mut epp, .. } = collected(&collector, &env).await;
        let parent = parent.map(|flags| format!("00-{TRACE}-{PARENT}-{flags}"));
        let headers: Vec<(&str, &str)> = parent.iter().map(|p| ("traceparent", p.as_str())).collect();
        let set = exchange(&epp, &headers, "200").await;
        let flags = if recorded { "-01" } else { "-00" };
        assert!(
            set["traceparent"].ends_with(flags),
            "{sampler} {argument} {parent:?}: {set:?}"
        );
        assert_eq!(set["traceparent"].contains(TRACE), parent.is_some());
        epp.signal("TERM");
        epp.ended().await;
        assert_eq!(
            collector.spans().len(),
            if recorded { 4 } else { 0 },
            "{sampler} {argument} {parent:?}"
        );
    }
}

#[tokio::test]
async fn failures_are_marked_with_status_and_code() {
    let collector = Collector::start().await;
    let Setup { epp, .. } = collected(&collector, &[]).await;
    let parent = sampled();
    exchange(&epp, &[("traceparent", &parent)], "503").await;
    let root = only(collector.named("gateway.request", 1).await);
    assert_eq!(root.attributes["http.response.status_code"], "503");
    assert_eq!(root.failed.as_deref(), Some("ModelServerError"));

    let mut rejected = Exchange::open(&connect(epp.grpc).await).await;
    let headers = [(":path", "/v1/completions"), ("traceparent", &parent)];
    rejected.send(full_duplex(request_headers(&headers, false))).await;
    rejected.send(request_body("no json", true)).await;
    assert!(matches!(rejected.answer().await, Answer::Immediate(400, ..)));
    let root = collector.named("gateway.request", 2).await.remove(1);
    assert_eq!(root.attributes["http.response.status_code"], "400");
    assert_eq!(root.attributes["error.type"], "BadRequest");
    assert_eq!(root.attributes["gateway.end"], "error");
}

#[tokio::test]
async fn what_is_queued_is_sent_before_the_end() {
    let collector = Collector::start().await;
    let Setup { mut epp, .. } = collected(&collector, &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]).await;
    let parent = sampled();
    exchange(&epp, &[("traceparent", &parent)], "200").await;
    assert!(collector.spans().is_empty());
    epp.signal("TERM");
    assert_eq!(epp.ended().await.code(), Some(0));
    assert_eq!(collector.spans().len(), 4);
}

#[tokio::test]
async fn without_tracing_or_an_exporter_nothing_is_added() {
    let collector = Collector::start().await;
    let env = collector.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let parent = sampled();
    for (env, flags) in [(&env[..], &["--tracing=false"][..]), (&[], &[])] {
        let Setup { mut epp, .. } = start(env, flags).await;
        let set = exchange(&epp, &[("traceparent", &parent)], "200").await;
        assert!(
            !set.contains_key("traceparent"),
            "the client's own is left as it is: {set:?}"
        );
        epp.signal("TERM");
        epp.ended().await;
    }
    assert!(collector.spans().is_empty());
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_nothing_but_spans() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let env = [
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1000"),
    ];
    let Setup { mut epp, .. } = start(&env, &[]).await;
    let parent = sampled();
    let count = |page: &str, result: &str| -> u64 {
        let start = format!("inference_extension_trace_spans_total{{result=\"{result}\"}} ");
        page.lines()
            .find_map(|l| l.strip_prefix(&start)?.parse().ok())
            .unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        exchange(&epp, &[("traceparent", &parent)], "200").await;
        let page = epp.page().await.unwrap();
        if count(&page, "dropped") > 0 && count(&page, "failed") > 0 {
            assert_eq!(count(&page, "exported"), 0);
            break;
        }
        assert!(Instant::now() < deadline, "{page}");
    }
    assert_eq!(epp.log().matches("Spans cannot be sent").count(), 1, "said once");
    let began = Instant::now();
    epp.signal("TERM");
    assert_eq!(epp.ended().await.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the end waits a bounded time"
    );
}

#[tokio::test]
async fn a_collector_over_tls_is_verified_by_the_authorities_of_the_system() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("authorities.pem");
    let parent = sampled();
    for (trusted, result) in [(&authority, "exported"), (&Authority::new(), "failed")] {
        std::fs::write(&file, &trusted.certificate).unwrap();
        let collector = Collector::start_tls(&authority.issue("127.0.0.1")).await;
        let endpoint = format!("https://{}", collector.address);
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("SSL_CERT_FILE", file.to_str().unwrap()),
        ];
        let Setup { mut epp, .. } = start(&env, &[]).await;
        exchange(&epp, &[("traceparent", &parent)], "200").await;
        let line = format!("inference_extension_trace_spans_total{{result=\"{result}\"}} 4");
        epp.eventually(&line).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let endpoints = folder.path().join("endpoints.yaml");
    let options = Options::hermetic(&[]);
    std::fs::write(&endpoints, &options.endpoints).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_epp"))
        .arg(format!("--config-text={}", options.config(&endpoints)))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("check OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
}

#[tokio::test]
async fn variables_that_cannot_be_followed_are_said() {
    let env = [
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x"),
    ];
    let Setup { epp, .. } = start(&env, &[]).await;
    assert!(
        epp.log()
            .contains("OTEL_TRACES_EXPORTER=\"console\" is not an exporter"),
        "{}",
        epp.log()
    );
}
