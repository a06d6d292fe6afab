//! What a real Envoy does on this wire and the picker has to bear, point by point: empty end-of-stream chunks,
//! resets at the normal end, half-close as cancellation, Envoy's own replies before the pick, repeated ends,
//! trailers, other body modes, limits, thousands of streams on one connection.

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
use pb::processing_request::Request;
use pb::processing_response::Response;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{
    Answer, Exchange, connect, message, request_body, request_headers, response_body, response_headers,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

const BODY: &str = r#"{"model":"m","prompt":"hello","stream":true}"#;
const LABELS: &str = "{model_name=\"m\",target_model_name=\"m\"}";

async fn start(flags: &[&str]) -> (Epp, SocketAddr) {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let options = flags
        .iter()
        .fold(Options::hermetic(&[server.address]), |o, f| o.flag(f));
    (Epp::start(&options, 1).await, server.address)
}

async fn routed(exchange: &mut Exchange) {
    exchange
        .send(request_headers(&[(":path", "/v1/completions")], false))
        .await;
    exchange.send(request_body(BODY, false)).await;
    // The body's end comes as an empty message of its own.
    exchange.send(request_body("", true)).await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    assert_eq!(exchange.answer().await, Answer::RequestBody(BODY.into(), true));
}

#[tokio::test]
async fn a_whole_exchange_ends_with_ok_and_is_counted_once() {
    let (mut epp, _) = start(&[]).await;
    let client = connect(epp.grpc).await;
    let mut exchange = Exchange::open(&client).await;
    routed(&mut exchange).await;
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 1")
        .await;
    exchange
        .send(response_headers(
            &[(":status", "200"), ("content-type", "text/event-stream")],
            false,
        ))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    let events = "data: {\"choices\":[]}\n\ndata: {\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":5,\"total_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\ndata: [DONE]\n\n";
    for i in 0..events.len() {
        exchange.send(response_body(&events[i..=i], false)).await;
        assert_eq!(
            exchange.answer().await,
            Answer::ResponseBody(events[i..=i].into(), false)
        );
    }
    exchange.send(response_body("", true)).await;
    assert_eq!(exchange.answer().await, Answer::ResponseBody(String::new(), true));
    assert_eq!(exchange.next().await.unwrap(), None);
    for line in [
        format!("inference_objective_request_total{LABELS} 1"),
        format!("inference_objective_request_duration_seconds_count{LABELS} 1"),
        format!("inference_objective_response_sizes_sum{LABELS} {}", events.len()),
        format!("inference_objective_input_tokens_sum{LABELS} 2"),
        format!("inference_objective_output_tokens_sum{LABELS} 5"),
        format!("inference_objective_prompt_cached_tokens_sum{LABELS} 1"),
        "inference_objective_running_requests{model_name=\"m\"} 0".to_owned(),
    ] {
        epp.eventually(&line).await;
    }
    assert!(
        !epp.page().await.unwrap().contains("request_error_total{"),
        "nothing went wrong"
    );
}

#[tokio::test]
async fn whatever_ends_an_exchange_the_gauge_returns_to_zero() {
    let (mut epp, _) = start(&[]).await;
    let client = connect(epp.grpc).await;
    let running = |n: usize| format!("inference_objective_running_requests{{model_name=\"m\"}} {n}");
    // Half-close (the client left), reset, and a response cut by each.
    for (respond, close) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut exchange = Exchange::open(&client).await;
        routed(&mut exchange).await;
        if respond {
            exchange
                .send(response_headers(&[(":status", "200")], false))
                .await;
            exchange.send(response_body("half", false)).await;
            assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
            assert!(matches!(exchange.answer().await, Answer::ResponseBody(..)));
        }
        epp.eventually(&running(1)).await;
        if close {
            exchange.half_close();
            assert_eq!(exchange.next().await.unwrap(), None);
        }
        drop(exchange);
        epp.eventually(&running(0)).await;
    }
    // Before the pick: headers only, and half a body.
    for pieces in 0..2 {
        let mut exchange = Exchange::open(&client).await;
        exchange.send(request_headers(&[], false)).await;
        if pieces == 1 {
            exchange.send(request_body(&BODY[..10], false)).await;
        }
        exchange.half_close();
        assert_eq!(exchange.next().await.unwrap(), None);
    }
    epp.eventually(&running(0)).await;
    epp.eventually(&format!("inference_objective_request_total{LABELS} 4"))
        .await;
}

#[tokio::test]
async fn envoys_own_reply_passes_through_before_the_pick() {
    let (mut epp, _) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange.send(request_headers(&[], false)).await;
    exchange.send(request_body(&BODY[..10], false)).await;
    exchange
        .send(response_headers(
            &[(":status", "504"), ("content-type", "text/plain")],
            false,
        ))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body("stream timeout", true)).await;
    assert_eq!(
        exchange.answer().await,
        Answer::ResponseBody("stream timeout".into(), true)
    );
    assert_eq!(exchange.next().await.unwrap(), None);
    let labels = "{model_name=\"\",target_model_name=\"\",error_code=\"ModelServerError\"}";
    epp.eventually(&format!("inference_objective_request_error_total{labels} 1"))
        .await;
}

#[tokio::test]
async fn errors_of_the_model_server_are_counted_by_their_status() {
    let (mut epp, _) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    routed(&mut exchange).await;
    exchange.send(response_headers(&[(":status", "503")], true)).await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    assert_eq!(
        exchange.next().await.unwrap(),
        None,
        "headers that end the response end the exchange"
    );
    let labels = "{model_name=\"m\",target_model_name=\"m\",error_code=\"ModelServerError\"}";
    epp.eventually(&format!("inference_objective_request_error_total{labels} 1"))
        .await;
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 0")
        .await;
}

#[tokio::test]
async fn a_repeated_end_of_the_request_body_is_not_answered() {
    let (epp, _) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    routed(&mut exchange).await;
    exchange.send(request_body("", true)).await;
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(
        matches!(exchange.answer().await, Answer::ResponseHeaders(_)),
        "the next answer is for the headers"
    );
}

#[tokio::test]
async fn trailers_end_a_body_and_are_answered() {
    let (epp, _) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange.send(request_headers(&[], false)).await;
    exchange.send(request_body(BODY, false)).await;
    exchange
        .send(message(Request::RequestTrailers(pb::HttpTrailers::default())))
        .await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    assert_eq!(exchange.answer().await, Answer::RequestBody(BODY.into(), false));
    let Answer::Other(answer) = exchange.answer().await else {
        panic!("not trailers")
    };
    assert!(matches!(answer.response, Some(Response::RequestTrailers(_))));
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    exchange.send(response_body("x", false)).await;
    exchange
        .send(message(Request::ResponseTrailers(pb::HttpTrailers::default())))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    assert_eq!(exchange.answer().await, Answer::ResponseBody("x".into(), false));
    let Answer::Other(answer) = exchange.answer().await else {
        panic!("not trailers")
    };
    assert!(matches!(answer.response, Some(Response::ResponseTrailers(_))));
    assert_eq!(exchange.next().await.unwrap(), None);
}

fn with_modes(mut message: pb::ProcessingRequest, request: i32, response: i32) -> pb::ProcessingRequest {
    message.protocol_config = Some(pb::ProtocolConfiguration {
        request_body_mode: request,
        response_body_mode: response,
        ..Default::default()
    });
    message
}

#[tokio::test]
async fn buffered_mode_routes_with_the_body() {
    let (epp, target) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let headers = request_headers(&[("x-gateway-model-name-rewrite", "other")], false);
    exchange.send(with_modes(headers, 2, 2)).await;
    // Envoy waits for this answer before it sends the body.
    assert_eq!(
        exchange.answer().await,
        Answer::RequestHeaders(Default::default(), None, false)
    );
    exchange.send(request_body(BODY, true)).await;
    let Answer::Other(answer) = exchange.answer().await else {
        panic!("not a buffered body")
    };
    let Some(Response::RequestBody(body)) = answer.response else {
        panic!("not a body")
    };
    let common = body.response.unwrap();
    let set = common.header_mutation.unwrap().set_headers;
    let destination = set
        .iter()
        .map(|o| o.header.clone().unwrap())
        .find(|h| h.key == "x-gateway-destination-endpoint");
    assert_eq!(destination.unwrap().raw_value, target.to_string().as_bytes());
    assert!(common.clear_route_cache);
    let Some(pb::body_mutation::Mutation::Body(forwarded)) = common.body_mutation.unwrap().mutation else {
        panic!("the model changed, so the body is replaced")
    };
    assert_eq!(forwarded, BODY.replace("\"m\"", "\"other\"").as_bytes());
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body("{}", true)).await;
    let Answer::Other(answer) = exchange.answer().await else {
        panic!("not a buffered answer")
    };
    let unchanged = pb::BodyResponse {
        response: Some(pb::CommonResponse::default()),
    };
    assert_eq!(answer.response, Some(Response::ResponseBody(unchanged)));
    assert_eq!(exchange.next().await.unwrap(), None);
}

#[tokio::test]
async fn streamed_and_bodiless_modes_route_by_headers_and_say_so() {
    let (epp, target) = start(&[]).await;
    let client = connect(epp.grpc).await;
    for mode in [0, 1] {
        let mut exchange = Exchange::open(&client).await;
        exchange
            .send(with_modes(request_headers(&[], false), mode, 4))
            .await;
        let Answer::RequestHeaders(_, destination, true) = exchange.answer().await else {
            panic!("not routed")
        };
        assert_eq!(destination, Some(target.to_string()));
    }
    assert!(epp.log().contains("set FULL_DUPLEX_STREAMED"), "{}", epp.log());
}

#[tokio::test]
async fn usage_counts_when_the_client_leaves_after_the_last_event() {
    let (mut epp, _) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    routed(&mut exchange).await;
    let headers = [(":status", "200"), ("content-type", "text/event-stream")];
    exchange.send(response_headers(&headers, false)).await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    let events = "data: {\"usage\":{\"completion_tokens\":5,\"total_tokens\":7}}\n\ndata: [DONE]\n\n";
    exchange.send(response_body(events, false)).await;
    assert_eq!(
        exchange.answer().await,
        Answer::ResponseBody(events.into(), false)
    );
    drop(exchange);
    epp.eventually(&format!("inference_objective_output_tokens_sum{LABELS} 5"))
        .await;
    epp.eventually(&format!(
        "inference_objective_request_duration_seconds_count{LABELS} 1"
    ))
    .await;
}

#[tokio::test]
async fn a_response_that_ends_before_the_request_has_come_leaves_no_request_running() {
    let (mut epp, _) = start(&[]).await;
    let client = connect(epp.grpc).await;
    let trailers = || message(Request::ResponseTrailers(Default::default()));
    for end in [response_body("x", true), trailers()] {
        let mut exchange = Exchange::open(&client).await;
        exchange
            .send(request_headers(&[(":path", "/v1/completions")], false))
            .await;
        exchange.send(end).await;
        // The rest of the request comes too late.
        exchange.send(request_body(BODY, true)).await;
        while let Ok(Some(answer)) = exchange.next().await {
            assert!(!matches!(answer, Answer::RequestHeaders(..)), "routed too late");
        }
    }
    let mut exchange = Exchange::open(&client).await;
    routed(&mut exchange).await;
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 1")
        .await;
    drop(exchange);
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 0")
        .await;
}

#[tokio::test]
async fn a_websocket_is_routed_before_it_has_a_body() {
    let (epp, target) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let headers = [
        (":method", "GET"),
        (":path", "/v1/realtime"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    exchange.send(request_headers(&headers, false)).await;
    let Answer::RequestHeaders(_, destination, _) = exchange.answer().await else {
        panic!("not routed")
    };
    assert_eq!(destination, Some(target.to_string()));
    exchange.send(request_body("frame", false)).await;
    assert_eq!(
        exchange.answer().await,
        Answer::RequestBody("frame".into(), false)
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_the_rest_is_ignored() {
    let (mut epp, _) = start(&["--max-request-body-size=100"]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    exchange.send(request_headers(&[], false)).await;
    exchange.send(request_body("x".repeat(60), false)).await;
    exchange.send(request_body("x".repeat(60), false)).await;
    let text = "inference gateway: PayloadTooLarge - request body is larger than the limit of 100 bytes";
    assert_eq!(
        exchange.answer().await,
        Answer::Immediate(413, text.into(), Default::default())
    );
    assert_eq!(exchange.next().await.unwrap(), None);
    let labels = "{model_name=\"\",target_model_name=\"\",error_code=\"PayloadTooLarge\"}";
    epp.eventually(&format!("inference_objective_request_error_total{labels} 1"))
        .await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_only_its_stream() {
    let (epp, _) = start(&["--grpc-max-recv-msg-size=1000"]).await;
    let client = connect(epp.grpc).await;
    let mut whole = Exchange::open(&client).await;
    routed(&mut whole).await;
    let mut exchange = Exchange::open(&client).await;
    exchange.send(request_headers(&[], false)).await;
    exchange.send(request_body("x".repeat(2000), false)).await;
    let status = exchange.next().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    whole.send(response_headers(&[(":status", "200")], true)).await;
    assert!(
        matches!(whole.answer().await, Answer::ResponseHeaders(_)),
        "the other stream goes on"
    );
}

#[tokio::test]
async fn control_headers_of_the_client_are_removed() {
    let (epp, _) = start(&[]).await;
    let mut exchange = Exchange::open(&connect(epp.grpc).await).await;
    let sent = [
        ("x-request-id", "r"),
        ("x-llm-d-inference-objective", "o"),
        ("x-gateway-destination-endpoint", "10.9.9.9:1"),
        ("x-gateway-destination-endpoint-subset", "10.9.9.9"),
        ("x-prefiller-host-port", "10.9.9.9:1"),
        ("x-encoder-hosts-ports", "10.9.9.9:1,10.9.9.8:1"),
        ("X-KV-Cache-Source-Host-Port", "10.9.9.9:1"),
        ("x-other", "stays"),
    ];
    exchange.send(request_headers(&sent, false)).await;
    exchange.send(request_body(BODY, true)).await;
    let Answer::RequestHeaders((set, removed), ..) = exchange.answer().await else {
        panic!("not routed")
    };
    let expected = [
        "x-encoder-hosts-ports",
        "x-gateway-destination-endpoint-subset",
        "x-kv-cache-source-host-port",
        "x-llm-d-inference-objective",
        "x-prefiller-host-port",
    ];
    assert_eq!(removed, expected);
    let destination = set
        .iter()
        .find(|(n, _)| n == "x-gateway-destination-endpoint")
        .unwrap();
    assert!(
        destination.1.starts_with("127.0.0.1:"),
        "the client's own destination is overwritten"
    );
}

#[tokio::test]
async fn thousands_of_streams_share_one_connection() {
    let (mut epp, _) = start(&[]).await;
    let client = connect(epp.grpc).await;
    let mut open = Vec::new();
    for _ in 0..3000 {
        let mut exchange = Exchange::open(&client).await;
        routed(&mut exchange).await;
        open.push(exchange);
    }
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 3000")
        .await;
    drop(open);
    epp.eventually("inference_objective_running_requests{model_name=\"m\"} 0")
        .await;
}

#[tokio::test]
async fn the_first_signal_drains_and_lets_open_streams_finish() {
    let (mut epp, _) = start(&[]).await;
    let client = connect(epp.grpc).await;
    let mut exchange = Exchange::open(&client).await;
    routed(&mut exchange).await;
    epp.signal("TERM");
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body("done", true)).await;
    assert_eq!(exchange.answer().await, Answer::ResponseBody("done".into(), true));
    assert_eq!(exchange.next().await.unwrap(), None);
    drop(client);
    assert_eq!(epp.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    let (mut epp, _) = start(&["--drain-timeout=10m"]).await;
    let client = connect(epp.grpc).await;
    let mut exchange = Exchange::open(&client).await;
    routed(&mut exchange).await;
    epp.signal("TERM");
    while !epp.log().contains("Draining") {
        tokio::task::yield_now().await;
    }
    epp.signal("TERM");
    assert_eq!(epp.ended().await.code(), Some(1));
}
