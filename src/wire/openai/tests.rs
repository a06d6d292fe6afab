//! Bodies of every API, good and bad, and what a spliced model leaves.

use super::*;
use proptest::prelude::*;

fn read(body: &str, api: Api) -> Result<RequestBody, NotAnObject> {
    parse(&Bytes::copy_from_slice(body.as_bytes()), api)
}

fn prompt(body: &str, api: Api) -> Result<String, &'static str> {
    read(body, api).unwrap().prompt.map(|p| {
        let text: Vec<u8> = p.slices().flatten().copied().collect();
        String::from_utf8(text).unwrap()
    })
}

#[test]
fn what_is_not_an_object_is_refused() {
    let deep = format!(
        "{{\"model\":\"m\",\"x\":{}1{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let deep_object = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    for body in [
        "",
        "[]",
        "[1]",
        "3",
        "\"x\"",
        "no healthy upstream",
        "{",
        "{} {}",
        "{\"a\":NaN}",
        "\u{feff}{}",
        "{'a':1}",
        "{\"a\":1,}",
        &deep,
        &deep_object,
    ] {
        assert_eq!(
            read(body, Api::Completions).err(),
            Some(NotAnObject),
            "{:.40}",
            body
        );
    }
    assert!(parse(&Bytes::from_static(b"{\"model\":\"\xff\"}"), Api::Completions).is_err());
}

#[test]
fn null_has_no_model() {
    assert!(read(" null\n", Api::Completions).unwrap().model.is_none());
}

#[test]
fn the_last_duplicate_wins_and_its_place_is_known() {
    let body = Bytes::from_static(br#"{"model":"a","prompt":"p", "model" : "b\u0041" , "n":1}"#);
    let (model, span) = parse(&body, Api::Completions).unwrap().model.unwrap();
    assert_eq!(model, "bA");
    let spliced = splice_model(&body, span, "say \"hi\"").concat();
    let expected = br#"{"model":"a","prompt":"p", "model" : "say \"hi\"" , "n":1}"#;
    assert_eq!(
        String::from_utf8_lossy(&spliced),
        String::from_utf8_lossy(expected)
    );
}

#[test]
fn a_model_must_be_a_string_and_may_be_empty() {
    for (body, model) in [
        (r#"{"model":""}"#, Some("")),
        (r#"{"model":3}"#, None),
        (r#"{"model":null}"#, None),
        (r#"{"model":["m"]}"#, None),
        (r#"{"mod\u0065l":"m"}"#, Some("m")),
    ] {
        assert_eq!(
            read(body, Api::Completions)
                .unwrap()
                .model
                .map(|m| m.0)
                .as_deref(),
            model,
            "{body}"
        );
    }
}

#[test]
fn paths_choose_the_api() {
    for (path, api) in [
        ("/v1/completions", Api::Completions),
        ("/v1/chat/completions?x=/v1/responses", Api::ChatCompletions),
        ("/prefix/v1/responses", Api::Responses),
        ("/v1/conversations/c1/items", Api::Conversations),
        ("", Api::Completions),
    ] {
        assert_eq!(api_of_path(path), api, "{path}");
    }
}

#[test]
fn prompts_of_every_api() {
    let chat = r#"{"messages":[{"role":"system","content":"be\nnice"},{"content":[{"type":"text","text":"hi"}],"role":"user"}]}"#;
    let rows: [(Api, &str, Option<&str>); 10] = [
        (
            Api::Completions,
            r#"{"prompt":"say \"x\""}"#,
            Some(r#"say \"x\""#),
        ),
        (Api::Completions, r#"{"prompt":["a","b"]}"#, Some(r#"["a","b"]"#)),
        (Api::Completions, r#"{"prompt":[1,2]}"#, Some("[1,2]")),
        (Api::Completions, r#"{"prompt":[1,"b"]}"#, None),
        (Api::Completions, r#"{"prompt":""}"#, None),
        (Api::Completions, r#"{"prompt":[]}"#, None),
        (
            Api::ChatCompletions,
            chat,
            Some(r#""system""be\nnice""user"[{"type":"text","text":"hi"}]"#),
        ),
        (
            Api::Responses,
            r#"{"input":"","tools":[1],"instructions":"i"}"#,
            Some(r#""i"[1]"""#),
        ),
        (Api::Responses, r#"{"input":null}"#, None),
        (
            Api::Conversations,
            r#"{"items":[{"type":"message","role":"user","content":3}]}"#,
            Some(r#"[{"type":"message","role":"user","content":3}]"#),
        ),
    ];
    for (api, body, expected) in rows {
        assert_eq!(prompt(body, api).ok().as_deref(), expected, "{body}");
    }
}

#[test]
fn a_mistyped_field_of_the_chat_api_refuses_the_request() {
    let rows = [
        "\"tools\":{}",
        "\"documents\":1",
        "\"chat_template\":[]",
        "\"add_generation_prompt\":\"yes\"",
        "\"continue_final_message\":1",
        "\"return_assistant_tokens_mask\":{}",
        "\"chat_template_kwargs\":[]",
        "\"cache_salt\":1",
    ];
    for row in rows {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"x"}}],{row}}}"#);
        assert!(prompt(&body, Api::ChatCompletions).is_err(), "{row}");
    }
    for messages in [
        "[]",
        "{}",
        "[1]",
        r#"[{"role":1}]"#,
        r#"[{"content":1}]"#,
        r#"[{"content":["x"]}]"#,
        r#"[{"content":[{"type":1}]}]"#,
    ] {
        assert!(
            prompt(&format!(r#"{{"messages":{messages}}}"#), Api::ChatCompletions).is_err(),
            "{messages}"
        );
    }
    assert!(prompt(r#"{"messages":[{}],"tools":null}"#, Api::ChatCompletions).is_ok());
}

#[test]
fn stream_and_cache_salt_are_read() {
    let body = read(
        r#"{"prompt":"x","stream":true,"cache_salt":"s"}"#,
        Api::Completions,
    )
    .unwrap();
    assert!(body.streaming);
    assert_eq!(body.prompt.unwrap().cache_salt, "s");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&Bytes::from(bytes), Api::ChatCompletions);
    }

    #[test]
    fn almost_json_never_panics(text in r#"[\{\}\[\]":,a-z0-9\\ ]{0,60}"#) {
        for api in [Api::Completions, Api::ChatCompletions, Api::Responses, Api::Conversations] {
            let _ = read(&text, api);
        }
    }

    #[test]
    fn a_spliced_body_differs_only_in_its_model(model in "\\PC{0,20}", other in "\\PC{0,20}") {
        let body = serde_json::json!({"a": 1.0, "model": model, "z": [model]}).to_string();
        let bytes = Bytes::from(body);
        let (found, span) = parse(&bytes, Api::Completions).unwrap().model.unwrap();
        prop_assert_eq!(&found, &model);
        let spliced = splice_model(&bytes, span, &other).concat();
        let value: serde_json::Value = serde_json::from_slice(&spliced).unwrap();
        prop_assert_eq!(value, serde_json::json!({"a": 1.0, "model": other, "z": [model]}));
    }
}
