//! Bodies of every API, good and bad, and what a spliced model leaves.

use super::*;
use proptest::prelude::*;

fn read(body: &str, api: Api) -> Result<RequestBody, JsonError> {
    parse(&Bytes::copy_from_slice(body.as_bytes()), api)
}

fn prompt(body: &str, api: Api) -> Result<String, &'static str> {
    read(body, api).unwrap().prompt.map(|p| {
        let slices = p.segments.into_iter().map(|s| &body[s]);
        slices.collect()
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
        assert!(read(body, Api::Completions).is_err(), "{body:.40}");
    }
    assert!(parse(&Bytes::from_static(b"{\"model\":\"\xff\"}"), Api::Completions).is_err());
}

#[test]
fn null_has_no_model() {
    let model = read(" null\n", Api::Completions).unwrap().model;
    assert_eq!(model, Err(ModelError::Missing));
}

fn model(body: &str) -> Result<String, ModelError> {
    read(body, Api::Completions).unwrap().model.map(|m| m.name)
}

fn spliced(body: &str, name: &str) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let model = parse(&bytes, Api::Completions).unwrap().model.unwrap();
    String::from_utf8(splice_model(&bytes, &model.places, name).concat()).unwrap()
}

#[test]
fn the_last_duplicate_wins_and_all_are_replaced() {
    for (body, name, ambiguous, expected) in [
        (
            r#"{"model":"a","prompt":"p", "model" : "b\u0041" , "n":1}"#,
            "bA",
            true,
            r#"{"model":"say \"hi\"","prompt":"p", "model" : "say \"hi\"" , "n":1}"#,
        ),
        (
            r#"{"mo\u0064el":"a","model":{"model":[1]},"MODEL":"c","model":"b"}"#,
            "b",
            true,
            r#"{"mo\u0064el":"say \"hi\"","model":"say \"hi\"","MODEL":"c","model":"say \"hi\""}"#,
        ),
        (
            r#"{"m":{"model":"x"},"model":"b"}"#,
            "b",
            false,
            r#"{"m":{"model":"x"},"model":"say \"hi\""}"#,
        ),
    ] {
        let found = read(body, Api::Completions).unwrap().model.unwrap();
        assert_eq!(
            (&*found.name, found.places.ambiguous()),
            (name, ambiguous),
            "{body}"
        );
        assert_eq!(spliced(body, "say \"hi\""), expected);
    }
}

/// Keys and string values of an object in the order of the text, duplicates included.
struct Pairs(Vec<(String, serde_json::Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> serde::de::Visitor<'de> for All {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(All)
    }
}

#[test]
fn readers_that_take_the_first_or_the_last_of_duplicates_see_the_same_model() {
    for body in [
        r#"{"model":"other","prompt":"p","model":"m"}"#,
        r#"{"mo\u0064el":"other","prompt":"p","model":"m"}"#,
        r#"{"model":"other","prompt":"p","\u006d\u006F\u0064\u0065\u006C":"m"}"#,
        r#"{"model":3,"model":null,"model":["other"],"model":"m"}"#,
    ] {
        let Pairs(pairs) = serde_json::from_str(&spliced(body, "target")).unwrap();
        let models: Vec<_> = pairs
            .iter()
            .filter(|(k, _)| k == "model")
            .map(|(_, v)| v)
            .collect();
        assert!(
            models.len() >= 2 && models.iter().all(|m| **m == "target"),
            "{body}: {models:?}"
        );
    }
}

#[test]
fn names_and_fields_of_models_are_limited() {
    let named = |name: &str| model(&format!(r#"{{"model":"{name}"}}"#));
    assert_eq!(
        named(&"x".repeat(MAX_MODEL_BYTES)).unwrap().len(),
        MAX_MODEL_BYTES
    );
    assert_eq!(
        named(&r"\u0041".repeat(MAX_MODEL_BYTES)).unwrap().len(),
        MAX_MODEL_BYTES
    );
    for long in [
        "x".repeat(MAX_MODEL_BYTES + 1),
        r"\u0041".repeat(MAX_MODEL_BYTES + 1),
        r"\u00e9".repeat(MAX_MODEL_BYTES / 2 + 1),
        "x".repeat(1 << 20),
    ] {
        assert_eq!(named(&long), Err(ModelError::TooLong));
    }
    let repeated = |n: usize| model(&format!(r#"{{"a":0{}}}"#, r#","model":"m""#.repeat(n)));
    assert_eq!(repeated(MAX_MODEL_FIELDS), Ok("m".into()));
    assert_eq!(repeated(MAX_MODEL_FIELDS + 1), Err(ModelError::Repeated));
    assert_eq!(repeated(100_000), Err(ModelError::Repeated));
}

#[test]
fn a_model_must_be_a_string_and_may_be_empty() {
    for (body, expected) in [
        (r#"{"model":""}"#, Some("")),
        (r#"{"model":3}"#, None),
        (r#"{"model":null}"#, None),
        (r#"{"model":["m"]}"#, None),
        (r#"{"model":"\ud800"}"#, None),
        (r#"{"mod\u0065l":"m"}"#, Some("m")),
    ] {
        assert_eq!(model(body).ok().as_deref(), expected, "{body}");
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
    let prompt = body.prompt.unwrap();
    assert_eq!(&prompt.bytes[prompt.cache_salt], b"s");
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
    fn a_spliced_body_differs_only_in_its_models(
        name in "\\PC{0,20}", other in "\\PC{0,20}", parts in prop::collection::vec("\\PC{0,9}", 1..5),
    ) {
        let string = |s: &str| serde_json::Value::from(s).to_string();
        let around: Vec<String> = parts.iter().map(|p| format!("{{\"a\\/\":{} ,\"model\" :\t", string(p))).collect();
        let body = |name: &str| {
            let fields: Vec<String> = around.iter().map(|a| format!("{}{}\r\n", &a[1..], string(name))).collect();
            format!(" {{{}}} ", fields.join(","))
        };
        prop_assert_eq!(model(&body(&name)).unwrap(), name.clone());
        prop_assert_eq!(spliced(&body(&name), &other), body(&other));
    }

    #[test]
    fn bodies_are_read_as_the_oracle_reads_them(body in any_body(), pretty in any::<bool>(), junk in "[\\[\\]{}\",: ]{0,2}", at in 0_usize..200) {
        let mut text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let at = text.floor_char_boundary(at.min(text.len()));
        text.insert_str(at, &junk);
        for api in [Api::Completions, Api::ChatCompletions, Api::Responses, Api::Conversations] {
            let ours = read(&text, api).map(|r| {
                let model = r.model.ok().map(|m| (m.name, m.places.last));
                let prompt = r.prompt.map(|p| {
                    let salt = text.get(p.cache_salt.start.wrapping_sub(1)..p.cache_salt.end + 1);
                    (p.segments, salt.and_then(decode_string).unwrap_or_default())
                });
                (model, prompt, r.streaming)
            });
            prop_assert_eq!(ours.ok(), oracle::parse(&text, api).ok(), "{:?} {}", api, text);
        }
    }
}

fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u32>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,4}".prop_map(Into::into),
        r#"[a-c"\\/\n{}\[\],:]{0,12}"#.prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        let name = prop::sample::select(vec!["role", "content", "type", "text", "a", ""]);
        let strings = prop::collection::vec("[ab\"]{0,3}", 0..4);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec(any::<u32>(), 0..4).prop_map(serde_json::Value::from),
            strings.prop_map(serde_json::Value::from),
            prop::collection::btree_map(name.prop_map(String::from), inner, 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_messages() -> impl Strategy<Value = serde_json::Value> {
    let blocks = prop::collection::vec(("[a-z]{0,3}", "\\PC{0,3}"), 0..3).prop_map(|blocks| {
        let block = |(kind, text)| serde_json::json!({"type": kind, "text": text});
        blocks.into_iter().map(block).collect::<serde_json::Value>()
    });
    let content = prop_oneof![any_value(), blocks, "\\PC{0,6}".prop_map(Into::into)];
    let message = (prop::option::of("[a-z]{0,4}"), content)
        .prop_map(|(role, content)| serde_json::json!({"role": role, "content": content}));
    prop::collection::vec(message, 0..4).prop_map(serde_json::Value::from)
}

/// Objects with the fields that matter, some of them of the right type.
fn any_body() -> impl Strategy<Value = serde_json::Value> {
    let name = prop::sample::select(vec![
        "model",
        "stream",
        "cache_salt",
        "prompt",
        "messages",
        "input",
        "instructions",
        "tools",
        "items",
        "metadata",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "chat_template_kwargs",
        "x",
        "",
    ]);
    let value = prop_oneof![3 => any_value(), 2 => any_messages(), 1 => "[a-c\"]{0,5}".prop_map(Into::into)];
    prop::collection::btree_map(name.prop_map(String::from), value, 0..6)
        .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect()))
}

#[test]
fn large_honest_bodies_are_read() {
    let messages = r#"{"role":"user","content":"hi"},"#.repeat(10_000);
    let chat = format!(
        r#"{{"model":"m","messages":[{}]}}"#,
        messages.trim_end_matches(',')
    );
    let chat = read(&chat, Api::ChatCompletions).unwrap().prompt.unwrap();
    assert_eq!(chat.segments.len(), 20_000);
    let ids: Vec<u32> = (0..200_000).collect();
    let ids = serde_json::json!({"model": "m", "prompt": ids}).to_string();
    assert!(prompt(&ids, Api::Completions).is_ok());
    let image = format!("data:image/png;base64,{}", "iVBORw0K".repeat(1 << 18));
    let image = serde_json::json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "what is it?"}]}]});
    assert!(prompt(&image.to_string(), Api::ChatCompletions).is_ok());
}

#[test]
fn a_chat_of_very_many_messages_keeps_few_slices_and_all_of_the_text() {
    let chat = |n: usize, last: &str| {
        let messages = r#"{"role":"a","content":"b"},"#.repeat(n);
        format!(r#"{{"messages":[{messages}{{"content":"{last}"}}]}}"#)
    };
    let of = |body: &str| read(body, Api::ChatCompletions).unwrap().prompt.unwrap();
    let (one, other) = (chat(40_000, "x"), chat(40_000, "y"));
    let segments = of(&one).segments;
    assert!(segments.len() <= (1 << 16) + 1, "{}", segments.len());
    assert_eq!(
        segments.last().unwrap().end,
        one.len() - 1,
        "the rest is one slice"
    );
    assert_eq!(
        prompt(&one, Api::ChatCompletions).unwrap().len() - 1,
        prompt(&other, Api::ChatCompletions).unwrap().len() - 1
    );
    assert_ne!(
        prompt(&one, Api::ChatCompletions),
        prompt(&other, Api::ChatCompletions)
    );
}
