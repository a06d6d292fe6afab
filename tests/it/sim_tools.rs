//! Tool calls of the simulator (simulator.md §16.3).

use serde_json::{Value, json};

use crate::support::sim::Sim;

fn tool(name: &str, parameters: &Value) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}})
}

fn chat(tools: &[Value], choice: &Value) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "This is a test."}], "tools": tools,
        "tool_choice": choice})
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn two() -> [Value; 2] {
    let first = object(
        &json!({"city": {"type": "string"}, "days": {"type": "integer"}}),
        &["city"],
    );
    let second = object(&json!({"on": {"type": "boolean"}}), &["on"]);
    [tool("first", &first), tool("second", &second)]
}

#[tokio::test]
async fn the_choice_says_what_is_called() {
    let sim = Sim::start(&["--model", "m", "--seed", "3"]).await;
    let ask = async |choice: Value| {
        let (status, answer) = sim.json("/v1/chat/completions", &chat(&two(), &choice)).await;
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0].clone()
    };
    let mut auto = Vec::new();
    for _ in 0..10 {
        let required = ask(json!("required")).await;
        let calls = required["message"]["tool_calls"].as_array().unwrap().clone();
        assert!((1..=2).contains(&calls.len()) && required["finish_reason"] == "tool_calls");
        assert_eq!(required["message"]["content"], "");
        for (i, call) in calls.iter().enumerate() {
            let arguments: Value =
                serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            let key = if call["function"]["name"] == "first" {
                "city"
            } else {
                "on"
            };
            assert!(arguments.get(key).is_some(), "{call}");
            assert_eq!((&call["type"], &call["index"]), (&json!("function"), &json!(i)));
            let id = call["id"]
                .as_str()
                .unwrap()
                .strip_prefix("chatcmpl-tool-")
                .unwrap();
            assert!(id.len() == 10 && id.bytes().all(|b| b.is_ascii_digit()), "{call}");
        }
        let named = ask(json!({"type": "function", "function": {"name": "second"}})).await;
        let calls = named["message"]["tool_calls"].as_array().unwrap();
        assert!(calls.len() == 1 && calls[0]["function"]["name"] == "second");
        let none = ask(json!("none")).await;
        assert!(none["message"].get("tool_calls").is_none() && none["message"]["content"] != "");
        auto.push(ask(Value::Null).await["message"].get("tool_calls").is_some());
    }
    assert!(auto.contains(&true) && auto.contains(&false), "{auto:?}");
}

#[tokio::test]
async fn a_call_counts_three_tokens_and_its_arguments() {
    let sim = Sim::start(&[
        "--model",
        "m",
        "--min-tool-call-integer-param",
        "7",
        "--max-tool-call-integer-param",
        "7",
        "--tool-call-not-required-param-probability",
        "0",
    ])
    .await;
    let parameters = object(
        &json!({"n": {"type": "integer"}, "o": {"type": "string"}}),
        &["n"],
    );
    let body = chat(&[tool("f", &parameters)], &json!("required"));
    let (_, answer) = sim.json("/v1/chat/completions", &body).await;
    let arguments = &answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, "{\"n\":7}");
    // { " n " : 7 }
    assert_eq!(answer["usage"]["completion_tokens"], 3 + 7);
}

#[tokio::test]
async fn fragments_join_to_arguments() {
    let sim = Sim::start(&["--model", "m", "--tool-call-extra-call-probability", "100"]).await;
    let mut body = chat(&two(), &json!("required"));
    body["stream"] = json!(true);
    body["logprobs"] = json!(true);
    let events = sim.events("/v1/chat/completions", &body).await;
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let mut calls: Vec<(String, String, usize)> = Vec::new();
    for event in &events[1..] {
        let choice = &event["choices"][0];
        assert!(choice.get("logprobs").is_none(), "none with calls");
        let call = &choice["delta"]["tool_calls"][0];
        let at = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
        let function = &call["function"];
        if calls.len() == at {
            calls.push((function["name"].as_str().unwrap().to_owned(), String::new(), 0));
        } else {
            assert_eq!(
                function["name"],
                Value::Null,
                "only the first fragment has the name"
            );
        }
        calls[at].1.push_str(function["arguments"].as_str().unwrap());
        calls[at].2 += usize::from(choice["finish_reason"] == "tool_calls");
    }
    assert_eq!(calls.len(), 2);
    for (name, arguments, ends) in calls {
        serde_json::from_str::<Value>(&arguments).unwrap();
        assert!(
            ["first", "second"].contains(&name.as_str()) && ends == 1,
            "{name}: {ends}"
        );
    }
}

#[tokio::test]
async fn bad_tools_are_refused() {
    let sim = Sim::start(&["--model", "m", "--enable-request-id-headers"]).await;
    let property = |p: Value| vec![tool("f", &object(&json!({"p": p}), &["p"]))];
    let invalid = "Tool validation failed: ";
    let rows = [
        (property(json!({"description": "x"})), json!("auto"), 400, invalid),
        (property(json!({"type": "date"})), json!("auto"), 400, invalid),
        (
            property(json!({"type": "string", "enum": [1]})),
            json!("auto"),
            400,
            invalid,
        ),
        (property(json!({"type": "array"})), json!("auto"), 400, invalid),
        (property(json!({"type": "object"})), json!("auto"), 400, invalid),
        (
            property(json!({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 1})),
            json!("required"),
            500,
            "minItems (3) is greater than maxItems(1)",
        ),
        (
            two().to_vec(),
            json!({"type": "function", "function": {"name": "third"}}),
            500,
            " (req id known) tool with name 'third' requested in tool_choice but not found in the tools list",
        ),
        (
            two().to_vec(),
            json!({"type": "magic"}),
            400,
            "unknown ToolChoice type: magic",
        ),
    ];
    for (tools, choice, code, text) in rows {
        let request = sim.post("/v1/chat/completions", &chat(&tools, &choice));
        let answer = request.header("x-request-id", "known").send().await.unwrap();
        let status = answer.status().as_u16();
        let error: Value = answer.json().await.unwrap();
        assert_eq!(status, code, "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(text), "{message}");
    }
    sim.until("vllm:num_requests_running{model_name=\"m\"} 0").await;
}

#[tokio::test]
async fn tools_and_choices_are_taken_as_the_reference_takes_them() {
    let sim = Sim::start(&["--model", "m"]).await;
    let schema = json!({"type": "object", "properties": {}});
    let nameless = json!({"type": "function", "function": {"parameters": schema}});
    let strict = json!({"function": {"name": "f", "strict": true, "parameters": schema}});
    for (tool, choice) in [
        (&nameless, json!("required")),
        (&strict, json!("required")),
        (&strict, json!("sometimes")),
        (&strict, json!({"type": "custom", "custom": {"name": "g"}})),
        (&strict, json!({"type": "custom"})),
    ] {
        let (status, answer) = sim
            .json("/v1/chat/completions", &chat(std::slice::from_ref(tool), &choice))
            .await;
        assert_eq!(status, 200, "{choice}: {answer}");
        let choice_made = &answer["choices"][0];
        if choice == "required" {
            let name = tool["function"].get("name").cloned().unwrap_or(json!(""));
            assert_eq!(choice_made["message"]["tool_calls"][0]["function"]["name"], name);
        }
    }
    // Nothing to call: a text, whatever is chosen.
    let named = json!({"type": "function", "function": {"name": "third"}});
    let (status, answer) = sim.json("/v1/chat/completions", &chat(&[], &named)).await;
    assert_eq!(
        (status, &answer["choices"][0]["message"]["role"]),
        (200, &json!("assistant"))
    );
}

#[tokio::test]
async fn unchecked_tools_are_taken_when_asked_for() {
    let sim = Sim::start(&["--model", "m", "--skip-tool-validation"]).await;
    let odd = json!({"type": "function", "function": {"name": "f", "colour": 1}});
    let (status, answer) = sim
        .json("/v1/chat/completions", &chat(&[odd], &json!("required")))
        .await;
    assert_eq!(status, 200, "{answer}");
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!((&call["name"], &call["arguments"]), (&json!("f"), &json!("{}")));
}
