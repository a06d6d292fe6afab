//! The rows of request.md §9.1 that need no CRDs, over a real gRPC stream against the real `epp`, with model
//! servers that answer scrapes. Pods are `127.0.0.<i+1>:<port>` instead of `192.168.1.<i+1>:8000`; headers the
//! proxy brought are not echoed (decision 12), control headers are removed.

use std::net::SocketAddr;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, request_body, request_headers, response_body, response_headers, with_subset,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

/// A pod of a row: queue, kv, active adapters.
type Pod = (u32, f64, &'static [&'static str]);

struct Row {
    name: &'static str,
    model: &'static str,
    target: &'static str,
    prompt: &'static str,
    pods: &'static [Pod],
    /// Hosts of the subset hint, each with the pool's port.
    subset: Option<&'static [u8]>,
    /// Pod that must be chosen, or the rejection.
    expected: Result<usize, (i32, &'static str, Option<&'static str>)>,
}

const NO_CANDIDATES: &str =
    "inference gateway: ServiceUnavailable - failed to find candidate pods for serving the request";

const ROWS: [Row; 8] = [
    Row {
        name: "lower queue and kv win",
        model: "my-model",
        target: "my-model-12345",
        prompt: "test1",
        pods: &[(3, 0.2, &[]), (0, 0.1, &[]), (10, 0.2, &[])],
        subset: None,
        expected: Ok(1),
    },
    Row {
        name: "an active adapter with a low queue wins",
        model: "sql-lora",
        target: "sql-lora-1fdg2",
        prompt: "test2",
        pods: &[
            (0, 0.2, &["foo", "bar"]),
            (0, 0.1, &["foo", "sql-lora-1fdg2"]),
            (10, 0.2, &["foo", "bar"]),
        ],
        subset: None,
        expected: Ok(1),
    },
    Row {
        name: "adapter affinity beats kv",
        model: "sql-lora",
        target: "sql-lora-1fdg2",
        prompt: "test3",
        pods: &[
            (10, 0.2, &["foo", "bar"]),
            (10, 0.4, &["foo", "sql-lora-1fdg2"]),
            (10, 0.3, &["foo"]),
        ],
        subset: None,
        expected: Ok(1),
    },
    Row {
        name: "nothing is shed without a negative priority",
        model: "sql-lora",
        target: "sql-lora-1fdg3",
        prompt: "test4",
        pods: &[
            (6, 0.2, &["foo", "bar", "sql-lora-1fdg3"]),
            (6, 0.85, &["foo"]),
            (10, 0.9, &["foo"]),
        ],
        subset: None,
        expected: Ok(0),
    },
    Row {
        name: "the best of the subset is chosen",
        model: "sql-lora",
        target: "sql-lora-1fdg2",
        prompt: "test5",
        pods: &[
            (0, 0.2, &["foo"]),
            (0, 0.1, &["foo", "sql-lora-1fdg2"]),
            (10, 0.2, &["foo"]),
        ],
        subset: Some(&[1, 2, 3]),
        expected: Ok(1),
    },
    Row {
        name: "only the subset is considered",
        model: "sql-lora",
        target: "sql-lora-1fdg2",
        prompt: "test6",
        pods: &[
            (0, 0.2, &["foo"]),
            (0, 0.1, &["foo", "sql-lora-1fdg2"]),
            (10, 0.2, &["foo"]),
        ],
        subset: Some(&[3]),
        expected: Ok(2),
    },
    Row {
        name: "a subset that matches nothing is 503",
        model: "sql-lora",
        target: "sql-lora-1fdg2",
        prompt: "test7",
        pods: &[(0, 0.2, &["foo"]), (0, 0.1, &["foo", "sql-lora-1fdg2"])],
        subset: Some(&[99]),
        expected: Err((503, NO_CANDIDATES, Some("rejected-no-endpoints"))),
    },
    Row {
        name: "an unknown model passes through",
        model: "direct-model",
        target: "direct-model",
        prompt: "test8",
        pods: &[(4, 0.2, &["foo", "bar", "direct-model"]), (4, 0.85, &["foo"])],
        subset: None,
        expected: Ok(0),
    },
];

async fn pods(pods: &[Pod]) -> Vec<SocketAddr> {
    let port = ports::free();
    let mut addresses = Vec::new();
    for (i, (queue, kv, adapters)) in pods.iter().enumerate() {
        let state = State {
            queue: *queue,
            kv: *kv,
            running: 0,
            adapters: adapters.iter().map(|a| (*a).to_owned()).collect(),
            max_adapters: 2,
        };
        addresses.push(
            ModelServer::start(u8::try_from(i + 1).unwrap(), port, state)
                .await
                .address,
        );
    }
    addresses
}

fn body(model: &str, prompt: &str) -> String {
    format!(r#"{{"max_tokens":100,"model":"{model}","prompt":"{prompt}","temperature":0}}"#)
}

#[tokio::test]
async fn the_right_endpoint_for_every_row() {
    for row in &ROWS {
        let addresses = pods(row.pods).await;
        let mut epp = Epp::start(&Options::hermetic(&addresses), addresses.len()).await;
        let client = connect(epp.grpc).await;
        // Whole, then split: both must give the same.
        for split in [false, true] {
            let mut exchange = Exchange::open(&client).await;
            let headers = [
                ("hi", "mom"),
                ("x-request-id", "test-request-id"),
                ("x-gateway-inference-objective", row.model),
                ("x-gateway-model-name-rewrite", row.target),
            ];
            exchange.send(request_headers(&headers, false)).await;
            let hint: Vec<String> = row
                .subset
                .unwrap_or(&[])
                .iter()
                .map(|h| format!("127.0.0.{h}:{}", addresses[0].port()))
                .collect();
            let hint: Vec<&str> = hint.iter().map(String::as_str).collect();
            let hinted = |m| {
                if row.subset.is_some() {
                    with_subset(m, &hint)
                } else {
                    m
                }
            };
            let text = body(row.model, row.prompt);
            let (first, last) = text.split_at(if split { 20 } else { 0 });
            if split {
                exchange.send(hinted(request_body(first, false))).await;
                exchange.send(request_body(last, true)).await;
            } else {
                exchange.send(hinted(request_body(last, true))).await;
            }
            match row.expected {
                Ok(pod) => {
                    let forwarded = body(row.target, row.prompt);
                    let target = addresses[pod].to_string();
                    let set = vec![
                        ("Content-Length".to_owned(), forwarded.len().to_string()),
                        ("x-gateway-destination-endpoint".to_owned(), target.clone()),
                    ];
                    let removed = vec![
                        "x-gateway-inference-objective".into(),
                        "x-gateway-model-name-rewrite".into(),
                    ];
                    let expected = Answer::RequestHeaders((set, removed), Some(target), true);
                    assert_eq!(exchange.answer().await, expected, "{}", row.name);
                    let (mut got, mut end) = (String::new(), false);
                    while !end {
                        let Answer::RequestBody(piece, last) = exchange.answer().await else {
                            panic!("{}: not a body", row.name)
                        };
                        got.push_str(&piece);
                        end = last;
                    }
                    assert_eq!(got, forwarded, "{}", row.name);
                }
                Err((status, text, reason)) => {
                    let Answer::Immediate(code, got, (set, _)) = exchange.answer().await else {
                        panic!("{}: not rejected", row.name)
                    };
                    let reason = reason.map(|r| ("x-llm-d-request-dropped-reason".to_owned(), r.to_owned()));
                    assert_eq!((code, got.as_str()), (status, text), "{}", row.name);
                    assert_eq!(set, reason.into_iter().collect::<Vec<_>>(), "{}", row.name);
                    assert_eq!(
                        exchange.next().await.unwrap(),
                        None,
                        "{}: the stream closes with OK",
                        row.name
                    );
                }
            }
        }
        let (kind, labels) = match row.expected {
            Ok(_) => ("total", String::new()),
            Err(_) => ("error_total", ",error_code=\"ServiceUnavailable\"".to_owned()),
        };
        epp.eventually(&format!(
            "inference_objective_request_{kind}{{model_name=\"{}\",target_model_name=\"{}\"{labels}}} 2",
            row.model, row.target
        ))
        .await;
    }
}

#[tokio::test]
async fn a_request_without_a_body_goes_to_any_endpoint_of_the_subset() {
    let addresses = pods(&[(0, 0.1, &[]), (0, 0.1, &[]), (0, 0.1, &[])]).await;
    let epp = Epp::start(&Options::hermetic(&addresses), 3).await;
    let client = connect(epp.grpc).await;
    for _ in 0..10 {
        let mut exchange = Exchange::open(&client).await;
        let headers = request_headers(&[(":method", "GET"), (":path", "/v1/models")], true);
        let only = addresses[2].to_string();
        exchange.send(with_subset(headers, &[&only])).await;
        let Answer::RequestHeaders((set, _), destination, true) = exchange.answer().await else {
            panic!("not routed")
        };
        assert_eq!(destination.as_deref(), Some(&*only));
        // An id is made for a request that has none; there is no Content-Length without a body.
        let names: Vec<&str> = set.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["x-gateway-destination-endpoint", "x-request-id"]);
        let mut empty = Exchange::open(&client).await;
        empty
            .send(with_subset(request_headers(&[(":method", "GET")], true), &[]))
            .await;
        let rejected = empty.answer().await;
        assert!(
            matches!(rejected, Answer::Immediate(503, ref t, _) if t == NO_CANDIDATES),
            "{rejected:?}"
        );
    }
}

#[tokio::test]
async fn an_empty_pool_rejects_a_request_without_a_body_with_500() {
    let epp = Epp::start(&Options::hermetic(&[]), 0).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange
        .send(request_headers(&[("x-request-id", "r")], true))
        .await;
    let text = "inference gateway: Internal - no pods available in datastore";
    assert_eq!(
        exchange.answer().await,
        Answer::Immediate(500, text.into(), Default::default())
    );
}

const UNREADABLE: &str = "inference gateway: BadRequest - Error unmarshaling request body";
const NO_MODEL: &str = "inference gateway: BadRequest - model not found in request body";

#[tokio::test]
async fn bodies_that_cannot_be_read_are_400_with_the_text_of_the_specification() {
    let addresses = pods(&[(0, 0.1, &[])]).await;
    let epp = Epp::start(&Options::hermetic(&addresses), 1).await;
    let client = connect(epp.grpc).await;
    let deep = format!(
        "{{\"model\":\"m\",\"prompt\":\"p\",\"x\":{}{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let data =
        "inference gateway: BadRequest - failed to extract request data: inference gateway: BadRequest - ";
    let extract = |t: &str| format!("{data}{t}");
    let rows: [(&[u8], String); 12] = [
        (b"no healthy upstream", UNREADABLE.into()),
        (b"", UNREADABLE.into()),
        (b"[1]", UNREADABLE.into()),
        (b"{\"model\":\"m\",\"prompt\":\"p\",\"n\":NaN}", UNREADABLE.into()),
        (
            b"\xef\xbb\xbf{\"model\":\"m\",\"prompt\":\"p\"}",
            UNREADABLE.into(),
        ),
        (b"{\"model\":\"m\",\"prompt\":\"\xff\"}", UNREADABLE.into()),
        (
            deep.as_bytes(),
            format!("{UNREADABLE}: nested deeper than 1000 levels"),
        ),
        (b"{\"hello\":\"world\"}", NO_MODEL.into()),
        (b"null", NO_MODEL.into()),
        (b"{\"model\":7,\"prompt\":\"p\"}", NO_MODEL.into()),
        (
            b"{\"model\":\"m\"}",
            extract("invalid completions request: must have prompt field"),
        ),
        (
            b"{\"model\":\"m\",\"prompt\":\"\"}",
            extract("invalid completions request: must have prompt field"),
        ),
    ];
    for (bytes, expected) in rows {
        let mut exchange = Exchange::open(&client).await;
        exchange
            .send(request_headers(&[("x-request-id", "r")], false))
            .await;
        exchange.send(request_body(bytes, true)).await;
        let Answer::Immediate(400, text, _) = exchange.answer().await else {
            panic!("{expected}")
        };
        assert_eq!(
            text,
            expected,
            "{}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
        assert_eq!(exchange.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn the_last_of_duplicate_models_is_the_one_that_counts_and_all_readers_see_it() {
    let addresses = pods(&[(0, 0.1, &[])]).await;
    let mut epp = Epp::start(&Options::hermetic(&addresses), 1).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange.send(request_headers(&[], false)).await;
    let text = r#"{"model":"first","prompt":"p","model":"last"}"#;
    exchange.send(request_body(text, true)).await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    let text = r#"{"model":"last","prompt":"p","model":"last"}"#;
    let (mut forwarded, mut ended) = (String::new(), false);
    while !ended {
        let Answer::RequestBody(piece, end) = exchange.answer().await else {
            panic!("not a piece of the body")
        };
        forwarded.push_str(&piece);
        ended = end;
    }
    assert_eq!(forwarded, text);
    epp.eventually("inference_objective_request_total{model_name=\"last\",target_model_name=\"last\"} 1")
        .await;
}

#[tokio::test]
async fn response_only_streams_are_echoed() {
    let epp = Epp::start(&Options::hermetic(&[]), 0).await;
    let client = connect(epp.grpc).await;
    let json =
        r#"{"object":"text_completion","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
    let rows: [(&str, Vec<&str>); 4] = [
        ("application/json", vec![&json[..30], &json[30..]]),
        ("application/json", vec!["no healthy upstream"]),
        ("application/json", vec![json, ""]),
        (
            "text/event-stream",
            vec![
                "data: {}\n\n",
                "data: {\"usage\":{\"total_tokens\":1}}\ndata: [DONE]",
                "",
            ],
        ),
    ];
    for (content_type, chunks) in rows {
        let mut exchange = Exchange::open(&client).await;
        exchange
            .send(response_headers(
                &[("content-type", content_type), ("status", "200")],
                false,
            ))
            .await;
        let marked = vec![("x-went-into-resp-headers".to_owned(), "true".to_owned())];
        assert_eq!(exchange.answer().await, Answer::ResponseHeaders((marked, vec![])));
        for (i, chunk) in chunks.iter().enumerate() {
            let end = i + 1 == chunks.len();
            exchange.send(response_body(chunk, end)).await;
            assert_eq!(
                exchange.answer().await,
                Answer::ResponseBody((*chunk).into(), end)
            );
        }
        assert_eq!(
            exchange.next().await.unwrap(),
            None,
            "the picker ends the stream after the response"
        );
    }
}

#[tokio::test]
async fn usage_of_a_stream_is_recorded_once_without_a_request_phase() {
    let mut epp = Epp::start(&Options::hermetic(&[]), 0).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange
        .send(response_headers(
            &[("content-type", "text/event-stream"), ("status", "200")],
            false,
        ))
        .await;
    let usage = "data: {\"object\":\"text_completion\",\"usage\":{\"prompt_tokens\":7,\"total_tokens\":17,\"completion_tokens\":10}}\ndata: [DONE]";
    exchange.send(response_body("data: {}\n", false)).await;
    exchange.send(response_body(usage, false)).await;
    exchange.send(response_body("", true)).await;
    while exchange.next().await.unwrap().is_some() {}
    let labels = "{model_name=\"\",target_model_name=\"\"}";
    epp.eventually(&format!("inference_objective_input_tokens_sum{labels} 7"))
        .await;
    epp.eventually(&format!("inference_objective_input_tokens_count{labels} 1"))
        .await;
}
