//! Bodies as hostile clients and broken model servers send them, over a real gRPC stream against the real `epp`.

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, request_body, request_headers, response_body, response_headers,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

#[tokio::test]
async fn a_response_nested_in_itself_is_passed_on_and_hurts_nobody() {
    let mut epp = Epp::start(&Options::hermetic(&[]), 0).await;
    let client = connect(epp.grpc).await;
    let nest = format!("{}1{}", r#"{"response":"#.repeat(100_000), "}".repeat(100_000));
    let usage = r#"{"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
    for (kind, nest, usage) in [
        ("application/json", nest.clone(), usage.to_owned()),
        (
            "text/event-stream",
            format!("data: {{\"usage\":{nest}}}\n\n"),
            format!("data: {usage}"),
        ),
    ] {
        for body in [nest, usage] {
            let mut exchange = Exchange::open(&client).await;
            let headers = [("content-type", kind), ("status", "200")];
            exchange.send(response_headers(&headers, false)).await;
            exchange.send(response_body(&body, true)).await;
            let mut pieces = 0;
            while exchange.next().await.unwrap().is_some() {
                pieces += 1;
            }
            assert!(pieces >= 2, "headers and body are answered");
        }
    }
    let labels = "{model_name=\"\",target_model_name=\"\"}";
    epp.eventually(&format!("inference_objective_input_tokens_count{labels} 2"))
        .await;
}

const UNREADABLE: &str = "inference gateway: BadRequest - Error unmarshaling request body";

/// The answer to a request with this body, in pieces of `piece` bytes.
async fn ask(epp: &Epp, path: &str, body: &str, piece: usize) -> Answer {
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange.send(request_headers(&[(":path", path)], false)).await;
    for chunk in body.as_bytes().chunks(piece) {
        exchange.send(request_body(chunk, false)).await;
    }
    exchange.send(request_body("", true)).await;
    exchange.answer().await
}

#[tokio::test]
async fn bodies_of_very_many_values_are_refused_with_the_reason_and_honest_large_ones_are_routed() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let epp = Epp::start(&Options::hermetic(&[server.address]), 1).await;
    let list = |unit: &str| vec![unit; (24 << 20) / (unit.len() + 1)].join(",");
    for (path, body) in [
        (
            "/v1/completions",
            format!(r#"{{"model":"m","prompt":[{}]}}"#, list("1")),
        ),
        (
            "/v1/completions",
            format!(r#"{{"model":"m","prompt":[{}]}}"#, list(r#""""#)),
        ),
        (
            "/v1/chat/completions",
            format!(r#"{{"model":"m","messages":[{}]}}"#, list("{}")),
        ),
        (
            "/v1/chat/completions",
            format!(
                r#"{{"model":"m","messages":[{{"content":[{}]}}]}}"#,
                list(r#"{"":0}"#)
            ),
        ),
    ] {
        let Answer::Immediate(status, text, _) = ask(&epp, path, &body, 1 << 20).await else {
            panic!("{path} {body:.60}: answered")
        };
        let reason = format!("{UNREADABLE}: more than 2097152 values");
        assert_eq!((status, text), (400, reason), "{body:.60}");
    }
    let ids: Vec<u32> = (0..300_000).collect();
    let image = "iVBORw0K".repeat(1 << 20);
    let message = r#"{"role":"user","content":"what is it?"}"#;
    for (path, body) in [
        ("/v1/completions", format!(r#"{{"model":"m","prompt":{ids:?}}}"#)),
        (
            "/v1/completions",
            format!(r#"{{"model":"m","prompt":"{}"}}"#, r"a\n".repeat(8 << 20)),
        ),
        (
            "/v1/chat/completions",
            format!(
                r#"{{"model":"m","messages":[{}]}}"#,
                vec![message; 10_000].join(",")
            ),
        ),
        (
            "/v1/chat/completions",
            format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
            ),
        ),
    ] {
        let answer = ask(&epp, path, &body, 1 << 20).await;
        assert!(
            matches!(answer, Answer::RequestHeaders(..)),
            "{body:.60}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_long_model_name_is_refused_and_not_logged() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let options = Options::hermetic(&[server.address]).flag("-v=5");
    let mut epp = Epp::start(&options, 1).await;
    for length in [1025, 1 << 20] {
        let name = "n".repeat(length);
        let body = format!(r#"{{"model":"{name}","prompt":"p"}}"#);
        let expected = "inference gateway: BadRequest - model name in request body is longer than 1024 bytes";
        let Answer::Immediate(400, text, _) = ask(&epp, "/v1/completions", &body, 1 << 20).await else {
            panic!("answered")
        };
        assert_eq!(text, expected);
    }
    let name = "n".repeat(1024);
    let body = format!(r#"{{"model":"{name}","prompt":"p"}}"#);
    let answer = ask(&epp, "/v1/completions", &body, 1 << 20).await;
    assert!(matches!(answer, Answer::RequestHeaders(..)), "{answer:?}");
    epp.eventually("inference_objective_request_error_total{model_name=\"\",target_model_name=\"\",error_code=\"BadRequest\"} 2")
        .await;
    assert!(!epp.log().contains(&"n".repeat(1025)), "the name is in the log");
}

#[tokio::test]
async fn models_made_up_by_clients_do_not_take_the_place_of_one_that_is_served() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut epp = Epp::start(&Options::hermetic(&[server.address]), 1).await;
    let client = connect(epp.grpc).await;
    let exchange = async |model: &str, status: &str| {
        let mut exchange = Exchange::open(&client).await;
        exchange.send(request_headers(&[], false)).await;
        let body = format!(r#"{{"model":"{model}","prompt":"p"}}"#);
        exchange.send(request_body(body, true)).await;
        exchange
            .send(response_headers(&[(":status", status)], false))
            .await;
        exchange.send(response_body("{}", true)).await;
        while exchange.next().await.unwrap().is_some() {}
    };
    for i in 0..200 {
        exchange(&format!("{i:0128}"), "404").await;
    }
    for _ in 0..3 {
        exchange("real", "200").await;
    }
    epp.eventually("inference_objective_request_total{model_name=\"real\",target_model_name=\"real\"} 2")
        .await;
    epp.eventually("inference_objective_request_total{model_name=\"other\",target_model_name=\"other\"} 137")
        .await;
    epp.eventually("inference_objective_running_requests{model_name=\"other\"} 0")
        .await;
}

#[tokio::test]
async fn affinity_does_not_depend_on_how_characters_are_escaped() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut epp = Epp::start(&Options::hermetic(&[server.address]), 1).await;
    let chat = |text: &str| {
        format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"{text}"}}]}}]}}"#
        )
    };
    // 256 bytes and more of text: four blocks of 64.
    for text in ["é😀".repeat(50), r"\u00e9\ud83d\ude00".repeat(50)] {
        let answer = ask(&epp, "/v1/chat/completions", &chat(&text), 1 << 20).await;
        assert!(matches!(answer, Answer::RequestHeaders(..)), "{answer:?}");
    }
    epp.eventually("inference_extension_prefix_indexer_hit_ratio_bucket{le=\"0.9\"} 1")
        .await;
    epp.eventually("inference_extension_prefix_indexer_hit_ratio_count 2")
        .await;
}

#[tokio::test]
async fn the_log_says_which_filter_left_no_endpoint() {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut options = Options::hermetic(&[server.address]).flag("-v=2");
    options.plugins.push_str("- type: header-based-testing-filter\n");
    options
        .profiles
        .push_str("  - {pluginRef: header-based-testing-filter}\n");
    let epp = Epp::start(&options, 1).await;
    let answer = ask(&epp, "/v1/completions", r#"{"model":"m","prompt":"p"}"#, 1 << 20).await;
    let Answer::Immediate(429, text, _) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        text.ends_with("failed to find target pod: failed to run scheduler profile 'default'"),
        "{text}"
    );
    epp.says("filter 'header-based-testing-filter' left none").await;
}
