//! Whole exchanges through a running `epp`, for tests that look at what it tells about them afterwards.

use std::net::SocketAddr;

use super::ext_proc::{
    Answer, Exchange, connect, request_body, request_headers, response_body, response_headers, with_subset,
};

/// Text of every prompt: it must be on no page.
pub const PROMPT: &str = "a-prompt-nobody-may-see";

/// The body of a completion request for `model`.
pub fn body(model: &str) -> String {
    format!(r#"{{"model":"{model}","prompt":"{PROMPT}"}}"#)
}

/// Routes a request with this id; gives the open exchange and the answer to its headers.
pub async fn route(to: SocketAddr, id: &str, model: &str, subset: Option<&[&str]>) -> (Exchange, Answer) {
    let headers = [("x-request-id", id), (":path", "/v1/completions")];
    route_with(to, &headers, model, subset).await
}

/// The same with these headers.
pub async fn route_with(
    to: SocketAddr,
    headers: &[(&str, &str)],
    model: &str,
    subset: Option<&[&str]>,
) -> (Exchange, Answer) {
    let mut exchange = Exchange::open(&connect(to).await).await;
    exchange.send(request_headers(headers, false)).await;
    let message = request_body(body(model), true);
    let message = match subset {
        Some(hosts) => with_subset(message, hosts),
        None => message,
    };
    exchange.send(message).await;
    let answer = exchange.answer().await;
    (exchange, answer)
}

/// Lets the response of a routed exchange arrive, with usage, and waits for its end.
pub async fn respond(mut exchange: Exchange) {
    while !matches!(exchange.answer().await, Answer::RequestBody(_, true)) {}
    let headers = [("content-type", "application/json"), (":status", "200")];
    exchange.send(response_headers(&headers, false)).await;
    let usage =
        r#"{"object":"text_completion","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
    exchange.send(response_body(usage, true)).await;
    while exchange.next().await.unwrap().is_some() {}
}
