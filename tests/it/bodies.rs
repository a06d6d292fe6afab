//! Bodies as hostile clients and broken model servers send them, over a real gRPC stream against the real `epp`.

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{Exchange, connect, response_body, response_headers};

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
