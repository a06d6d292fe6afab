//! The protocol of the simulator (simulator.md §16.2).

use serde_json::{Value, json};

use crate::support::sim::{Sim, chat, text, with};

const TEST: &str = "This is a test.";

#[tokio::test]
async fn both_endpoints_in_both_modes_whole_and_as_events() {
    // The same prompt in three messages.
    let several: Vec<Value> = ["This", "is", "a test."]
        .iter()
        .map(|t| json!({"role": "user", "content": t}))
        .collect();
    for mode in ["echo", "random"] {
        let sim = Sim::start(&["--model", "m", "--mode", mode]).await;
        for (path, body, object, prefix) in [
            ("/v1/chat/completions", chat(TEST), "chat.completion", "chatcmpl-"),
            (
                "/v1/chat/completions",
                json!({"model": "m", "messages": several}),
                "chat.completion",
                "chatcmpl-",
            ),
            ("/v1/completions", text(TEST), "text_completion", "cmpl-"),
        ] {
            let (status, answer) = sim.json(path, &body).await;
            assert_eq!((status, &answer["object"]), (200, &json!(object)), "{answer}");
            assert!(answer["id"].as_str().unwrap().starts_with(prefix));
            let usage = |key: &str| answer["usage"][key].as_u64().unwrap();
            assert_eq!(
                usage("total_tokens"),
                usage("prompt_tokens") + usage("completion_tokens")
            );
            assert_eq!((&answer["model"], usage("prompt_tokens")), (&json!("m"), 5));
            let events = sim.events(path, &with(body, &json!({"stream": true}))).await;
            let role = usize::from(object == "chat.completion");
            let piece = |e: &Value| {
                let choice = &e["choices"][0];
                let text = choice.get("text").unwrap_or(&choice["delta"]["content"]);
                text.as_str().unwrap().to_owned()
            };
            let all: String = events.iter().map(piece).collect();
            if mode == "echo" {
                assert_eq!(all, TEST);
            }
            assert!(events.len() >= 2 + role && !all.is_empty());
            assert!(
                events
                    .iter()
                    .all(|e| e["usage"] == Value::Null && e["id"] == events[0]["id"])
            );
            assert!(
                ["stop", "length"].contains(
                    &events.last().unwrap()["choices"][0]["finish_reason"]
                        .as_str()
                        .unwrap()
                )
            );
        }
    }
}

#[tokio::test]
async fn usage_comes_last_only_when_asked_for() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    for (options, counted) in [
        (json!({"include_usage": true}), true),
        (json!({"include_usage": false}), false),
        (json!({}), false),
        (Value::Null, false),
    ] {
        let body = with(text(TEST), &json!({"stream": true, "stream_options": options}));
        let events = sim.events("/v1/completions", &body).await;
        let last = events.last().unwrap();
        assert_eq!(
            last["choices"].as_array().unwrap().is_empty(),
            counted,
            "{options}"
        );
        if counted {
            assert_eq!(
                last["usage"],
                json!({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10})
            );
        }
    }
}

#[tokio::test]
async fn limits_of_tokens_are_kept() {
    let sim = Sim::start(&["--model", "m", "--max-model-len", "4096"]).await;
    for more in [
        json!({"max_tokens": 2}),
        json!({"max_completion_tokens": 2}),
        json!({"max_completion_tokens": 2, "max_tokens": 500}),
    ] {
        let (_, answer) = sim.json("/v1/chat/completions", &with(chat(TEST), &more)).await;
        let n = answer["usage"]["completion_tokens"].as_u64().unwrap();
        let reason = if n == 2 { "length" } else { "stop" };
        assert!(
            n <= 2 && answer["choices"][0]["finish_reason"] == reason,
            "{answer}"
        );
    }
    let exactly = with(text(TEST), &json!({"ignore_eos": true, "max_tokens": 1000}));
    let (_, answer) = sim.json("/v1/completions", &exactly).await;
    assert_eq!(
        (
            &answer["usage"]["completion_tokens"],
            &answer["choices"][0]["finish_reason"]
        ),
        (&json!(1000), &json!("length"))
    );
    let small = Sim::start(&["--model", "m", "--max-model-len", "10"]).await;
    let message = "This is a test message";
    let (status, error) = small
        .json("/v1/completions", &with(text(message), &json!({"max_tokens": 8})))
        .await;
    let expected = "This model's maximum context length is 10 tokens. However, you requested 13 tokens (5 in the messages, 8 in the completion)";
    assert!(
        status == 400 && error["error"]["message"].as_str().unwrap().contains(expected),
        "{error}"
    );
    let (status, _) = small
        .json("/v1/completions", &with(text(message), &json!({"max_tokens": 5})))
        .await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn several_prompts_and_several_answers_to_each() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo", "--max-num-seqs", "1"]).await;
    let body = json!({"model": "m", "prompt": ["a b", "c"], "n": 2});
    let (_, answer) = sim.json("/v1/completions", &body).await;
    let texts: Vec<&Value> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["text"])
        .collect();
    assert_eq!(texts, ["a b", "a b", "c", "c"]);
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9})
    );
    let events = sim
        .events("/v1/completions", &with(body, &json!({"stream": true})))
        .await;
    let mut said = vec![String::new(); 4];
    for event in &events {
        let choice = &event["choices"][0];
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        said[index].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(
        said,
        ["a b", "a b", "c", "c"],
        "one slot serves them one after the other"
    );
    for (body, expected) in [
        (json!({"model": "m", "prompt": [1, 22, 3]}), json!("1,22,3")),
        (json!({"model": "m", "prompt": [[1, 2]]}), json!("1,2")),
    ] {
        let (_, answer) = sim.json("/v1/completions", &body).await;
        assert_eq!(answer["choices"][0]["text"], expected);
    }
    for (n, message) in [
        (0, "n must be at least 1"),
        (1000, "n times the number of prompts must be at most 128"),
    ] {
        let (status, error) = sim
            .json("/v1/completions", &with(text("x"), &json!({"n": n})))
            .await;
        assert_eq!((status, &error["error"]["message"]), (400, &json!(message)));
    }
    // A later choice that finds the queue full ends the stream with an error.
    let narrow = [
        "--model",
        "m",
        "--max-num-seqs",
        "1",
        "--max-waiting-queue-length",
        "1",
        "--time-to-first-token",
        "1h",
    ];
    let sim = Sim::start(&narrow).await;
    let body = with(text("x"), &json!({"n": 3, "stream": true}));
    let (status, error) = sim
        .json("/v1/completions", &with(text("x"), &json!({"n": 3})))
        .await;
    assert_eq!(status, 429, "{error}");
    let answer = sim
        .post("/v1/completions", &body)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(answer.contains("RateLimitError"), "{answer}");
    sim.until("vllm:num_requests_running{model_name=\"m\"} 0").await;
}

#[tokio::test]
async fn no_token_of_many_answers_is_lost() {
    let args = ["--model", "m", "--mode", "echo", "--max-num-seqs", "100"];
    let limits = ["--max-model-len", "16", "--max-waiting-queue-length", "1"];
    let sim = Sim::start(&[&args[..], &limits].concat()).await;
    let words = |n: usize| (0..n).map(|i| format!("tok{i}")).collect::<Vec<_>>().join(" ");
    let body = with(text(&words(15)), &json!({"n": 10}));
    let asked = (0..10).map(|_| sim.json("/v1/completions", &body));
    for (status, answer) in futures::future::join_all(asked).await {
        let choices = answer["choices"].as_array().unwrap();
        assert!(status == 200 && choices.len() == 10, "{answer}");
        assert!(choices.iter().all(|c| c["text"] == words(15)), "{answer}");
        let usage = json!({"prompt_tokens": 15, "completion_tokens": 150, "total_tokens": 165});
        assert_eq!(answer["usage"], usage, "a prompt counts once");
    }
    let prompts = [words(15), words(14), words(13)];
    let body = json!({"model": "m", "prompt": prompts, "n": 3});
    let (_, answer) = sim.json("/v1/completions", &body).await;
    for (i, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(choice["text"], prompts[i / 3]);
    }
    sim.until_all(&[
        "vllm:request_success_total{finish_reason=\"stop\",model_name=\"m\"} 109",
        "vllm:request_generation_tokens_count{model_name=\"m\"} 109",
        "vllm:generation_tokens_total{model_name=\"m\"} 1626",
        "vllm:num_requests_running{model_name=\"m\"} 0",
    ])
    .await;
}

#[tokio::test]
async fn bodies_are_read_as_the_reference_reads_them() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let rows: [(&[u8], &str); 4] = [
        (br#"{"Model":"m","PROMPT":"any case"}"#, "any case"),
        (
            br#"{"model":"x","prompt":"first","model":"m","prompt":"last"}"#,
            "last",
        ),
        (br#"{"model":"m","prompt":"lone \ud800."}"#, "lone \u{fffd}."),
        (
            b"{\"model\":\"m\",\"prompt\":\"bytes \xff\xe2\x82.\"}",
            "bytes \u{fffd}\u{fffd}\u{fffd}.",
        ),
    ];
    for (body, expected) in rows {
        let url = format!("http://{}/v1/completions", sim.address);
        let answer = sim.client.post(url).body(body.to_vec()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{expected}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["choices"][0]["text"], expected);
    }
}

#[tokio::test]
async fn tokens_are_counted_without_generating() {
    let sim = Sim::start(&["--model", "m"]).await;
    let (_, cut) = sim.json("/tokenize", &json!({"prompt": "Hello, world! "})).await;
    assert_eq!(
        cut,
        json!({"count": 4, "max_model_len": 1024, "tokens": [4116459851u32, 2312110321u32, 933488787, 2344826916u32],
            "token_strs": null})
    );
    // An underscore is a token where a token begins, with the id of its own.
    let (_, cut) = sim
        .json("/tokenize", &json!({"prompt": "snake_case __init__ _x"}))
        .await;
    let underscore = 3658226030u32;
    assert_eq!(cut["count"], 6);
    for at in [1, 2, 4] {
        assert_eq!(cut["tokens"][at], underscore);
    }
    let (_, cut) = sim
        .json("/tokenize", &json!({"messages": chat("a b")["messages"]}))
        .await;
    assert_eq!(cut["count"], 2);
    let both = json!({"prompt": "a", "messages": []});
    let (status, error) = sim.json("/tokenize", &both).await;
    assert_eq!(
        (status, &error["error"]["message"]),
        (400, &json!("both prompt and messages fields in tokenize request"))
    );
    let bad = sim.post("/tokenize", &json!([])).send().await.unwrap();
    assert_eq!(
        (
            bad.status().as_u16(),
            bad.headers().get("content-type").unwrap().to_str().unwrap()
        ),
        (400, "text/plain; charset=utf-8")
    );
    let (_, rendered) = sim
        .json(
            "/v1/completions/render",
            &json!({"model": "m", "prompt": ["Hello", [3]]}),
        )
        .await;
    assert!(
        rendered["error"]["message"].is_string(),
        "texts and ids do not mix: {rendered}"
    );
    let (_, rendered) = sim
        .json(
            "/v1/completions/render",
            &json!({"model": "m", "prompt": ["Hello", "world"]}),
        )
        .await;
    assert_eq!(rendered[1]["token_ids"], json!([933488787]));
    let (_, rendered) = sim.json("/v1/chat/completions/render", &chat("Hello")).await;
    assert_eq!(rendered["token_ids"], json!([4116459851u32]));
}

#[tokio::test]
async fn a_cache_threshold_ends_a_request_at_once() {
    let sim = Sim::start(&["--model", "m", "--time-to-first-token", "1h"]).await;
    for (path, body) in [
        ("/v1/chat/completions", chat(TEST)),
        ("/v1/completions", text(TEST)),
    ] {
        let request = sim
            .post(path, &body)
            .header("X-Cache-Threshold-Finish-Reason", "true");
        let answer: Value =
            serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        let choice = &answer["choices"][0];
        let said = choice.get("text").unwrap_or(&choice["message"]["content"]);
        assert_eq!(
            (&choice["finish_reason"], said),
            (&json!("cache_threshold"), &json!(""))
        );
        assert_eq!(answer["usage"]["completion_tokens"], 0);
        let streamed = sim
            .post(path, &with(body, &json!({"stream": true})))
            .header("X-Cache-Threshold-Finish-Reason", "T");
        let events = streamed.send().await.unwrap().text().await.unwrap();
        let frames: Vec<&str> = events.split_terminator("\n\n").collect();
        assert!(
            frames.len() == 2 && frames[0].contains("cache_threshold") && !frames[0].contains("role"),
            "{events}"
        );
    }
}

#[tokio::test]
async fn a_request_may_ask_for_a_share_of_its_prompt_in_the_cache() {
    let args = [
        "--model",
        "m",
        "--enable-kvcache",
        "--block-size",
        "8",
        "--mode",
        "echo",
    ];
    let sim = Sim::start(&args).await;
    let prompt = "one two three four five six seven eight nine ten";
    let body = with(text(prompt), &json!({"cache_hit_threshold": 0.5}));
    for reason in ["cache_threshold", "stop"] {
        let (_, answer) = sim.json("/v1/completions", &body).await;
        assert_eq!(answer["choices"][0]["finish_reason"], reason, "{answer}");
    }
}

#[tokio::test]
async fn prefill_and_decode_may_be_apart() {
    let sim = Sim::start(&["--model", "m"]).await;
    let prefill = with(
        text(TEST),
        &json!({"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": true}}),
    );
    let (_, answer) = sim.json("/v1/completions", &prefill).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "remote_decode");
    assert_eq!(
        answer["kv_transfer_params"],
        json!({"do_remote_decode": false, "do_remote_prefill": true, "remote_engine_id": "DUMMY_ID",
            "remote_block_ids": ["DUMMY_ID"], "remote_host": "DUMMY", "remote_port": 1234, "tp_size": 1})
    );
    let (status, error) = sim
        .json("/v1/completions", &with(prefill, &json!({"stream": true})))
        .await;
    assert_eq!(
        (status, &error["error"]["message"]),
        (400, &json!("Prefill does not support streaming"))
    );
    let decode = with(
        text(TEST),
        &json!({"kv_transfer_params": answer["kv_transfer_params"]}),
    );
    let (status, answer) = sim.json("/v1/completions", &decode).await;
    assert_eq!((status, &answer["kv_transfer_params"]), (200, &Value::Null));
}

#[tokio::test]
async fn log_probabilities_match_the_tokens() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let asked = |more: Value| with(chat(TEST), &more);
    let (_, answer) = sim
        .json(
            "/v1/chat/completions",
            &asked(json!({"logprobs": true, "top_logprobs": 2})),
        )
        .await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let column: Vec<f64> = content.iter().map(|p| p["logprob"].as_f64().unwrap()).collect();
    assert_eq!(column, [-1.0, -1.1, -1.2, -1.0, -1.1]);
    assert!(
        content
            .iter()
            .all(|p| p["top_logprobs"].as_array().unwrap().len() == 2)
    );
    let (_, answer) = sim
        .json("/v1/chat/completions", &asked(json!({"logprobs": true})))
        .await;
    assert_eq!(
        answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for none in [
        json!({"logprobs": false, "top_logprobs": 2}),
        json!({"top_logprobs": 2}),
        json!({}),
    ] {
        let (_, answer) = sim.json("/v1/chat/completions", &asked(none)).await;
        assert!(answer["choices"][0].get("logprobs").is_none(), "{answer}");
    }
    let body = with(text(TEST), &json!({"logprobs": 2, "stream": true}));
    let events = sim.events("/v1/completions", &body).await;
    let offsets: Vec<&Value> = events[..5]
        .iter()
        .map(|e| &e["choices"][0]["logprobs"]["text_offset"][0])
        .collect();
    assert_eq!(offsets, [0, 5, 8, 10, 14], "each token has its real place");
    assert!(events[5]["choices"][0].get("logprobs").is_none());
}

#[tokio::test]
async fn v0_5_0_has_its_own_shapes() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo", "--compat-version", "v0.5.0"]).await;
    let messages = json!([{"role": "user", "content": "first"}, {"role": "user", "content": "last of all"},
        {"role": "assistant", "content": "no"}]);
    let body = json!({"model": "m", "messages": messages, "max_tokens": 2, "do_remote_decode": true});
    let (_, answer) = sim.json("/v1/chat/completions", &body).await;
    assert_eq!(
        answer["choices"][0]["message"]["content"], "last of ",
        "the last user message, cut"
    );
    assert_eq!(
        (&answer["do_remote_decode"], &answer["remote_port"]),
        (&json!(true), &json!(1234))
    );
    assert!(answer.get("kv_transfer_params").is_none());
    let events = sim
        .events("/v1/completions", &with(text(TEST), &json!({"stream": true})))
        .await;
    assert!(
        events
            .iter()
            .all(|e| e["id"].as_str().unwrap().starts_with("chatcmpl-"))
    );
    assert_ne!(
        events[0]["id"], events[1]["id"],
        "every event has an id of its own"
    );
}

#[tokio::test]
async fn echo_may_repeat_the_last_message_only() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo", "--echo-chat", "last"]).await;
    let messages = json!([{"role": "system", "content": "be"}, {"role": "user", "content": "brief"}]);
    let (_, answer) = sim
        .json(
            "/v1/chat/completions",
            &json!({"model": "m", "messages": messages}),
        )
        .await;
    assert_eq!(answer["choices"][0]["message"]["content"], "brief");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn token_ids_are_answered_with_token_ids() {
    let sim = Sim::start(&["--model", "m", "--mode", "echo"]).await;
    let body = json!({"token_ids": [5, 6, 7], "sampling_params": {"max_tokens": 9}, "request_id": "r"});
    let (_, answer) = sim.json("/inference/v1/generate", &body).await;
    let choice = json!({"index": 0, "finish_reason": "stop", "token_ids": [5, 6, 7]});
    assert_eq!(
        answer,
        json!({"choices": [choice], "request_id": "r", "ec_transfer_params": null})
    );
    let events = sim
        .events("/inference/v1/generate", &with(body, &json!({"stream": true})))
        .await;
    assert_eq!(events[1]["choices"][0]["token_ids"], json!([6]));
    for missing in [json!({"token_ids": [1]}), json!({"sampling_params": {}})] {
        let (status, error) = sim.json("/inference/v1/generate", &missing).await;
        assert_eq!(status, 400, "{error}");
    }
}
