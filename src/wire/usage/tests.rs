//! Usage in every spelling, place, size and cut; an independent reading of whole documents as the oracle.

use super::*;
use proptest::prelude::*;

fn usage(prompt: u64, completion: u64, total: u64, cached: u64) -> Option<Usage> {
    Some(Usage {
        prompt,
        completion,
        total,
        cached,
    })
}

fn watch(content_type: &str, chunks: &[&[u8]]) -> Option<Usage> {
    let mut watcher = UsageWatcher::for_content(Some(content_type), None);
    for chunk in chunks {
        watcher.push(chunk);
    }
    watcher.finish()
}

#[test]
fn json_usage_in_every_spelling() {
    let rows: [(&str, Option<Usage>); 9] = [
        (
            r#"{"object":"text_completion","usage":{"prompt_tokens":11,"completion_tokens":100,"total_tokens":111}}"#,
            usage(11, 100, 111, 0),
        ),
        (
            r#"{"usage":{"prompt_tokens":11,"completion_tokens":100,"total_tokens":111,"prompt_token_details":{"cached_tokens":10}}}"#,
            usage(11, 100, 111, 10),
        ),
        (
            r#"{"usage":{"prompt_tokens":1,"total_tokens":1,"prompt_tokens_details":{"cached_tokens":"1"}}}"#,
            usage(1, 0, 1, 1),
        ),
        (
            r#"{"object":"response","usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7,"input_tokens_details":{"cached_tokens":2}}}"#,
            usage(3, 4, 7, 2),
        ),
        (r#"{"usage":null}"#, None),
        (r#"{"usage":"many"}"#, None),
        (
            r#"{"usage":{"prompt_tokens":"x","total_tokens":[]}}"#,
            usage(0, 0, 0, 0),
        ),
        (r#"{"usage":{"prompt_tokens":1}"#, None),
        ("no healthy upstream", None),
    ];
    for (body, expected) in rows {
        assert_eq!(watch("application/json", &[body.as_bytes()]), expected, "{body}");
    }
}

const STREAM: &str = "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\r\n\r\n\
    data: {\"object\":\"text_completion\",\"usage\":{\"prompt_tokens\":7,\"total_tokens\":17,\"completion_tokens\":10}}\r\n\r\n\
    data: [DONE]\r\n\r\n";

#[test]
fn stream_usage_is_found_wherever_the_events_are_cut() {
    for cut in 0..STREAM.len() {
        let (a, b) = STREAM.as_bytes().split_at(cut);
        assert_eq!(
            watch("text/event-stream; charset=utf-8", &[a, b]),
            usage(7, 10, 17, 0),
            "cut at {cut}"
        );
    }
    let bytes: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
    assert_eq!(watch("text/event-stream", &bytes), usage(7, 10, 17, 0));
}

#[test]
fn an_event_stream_is_complete_after_its_last_event_wherever_it_is_cut() {
    for cut in 0..=STREAM.len() {
        let mut watcher = UsageWatcher::for_content(Some("text/event-stream"), None);
        let (a, b) = STREAM.as_bytes().split_at(cut);
        watcher.push(a);
        let there = a.trim_ascii_end().ends_with(b"[DONE]");
        assert_eq!(watcher.complete(), there, "{cut} bytes seen");
        watcher.push(b);
        assert!(watcher.complete(), "cut at {cut}");
    }
    let mut json = UsageWatcher::for_content(Some("application/json"), None);
    json.push(b"data: [DONE]");
    assert!(!json.complete());
}

#[test]
fn responses_api_events_carry_usage_inside() {
    let event = b"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"object\":\"response\",\"usage\":{\"input_tokens\":5,\"output_tokens\":6,\"total_tokens\":11}}}\n\n";
    assert_eq!(watch("text/event-stream", &[event]), usage(5, 6, 11, 0));
}

#[test]
fn a_stream_without_usage_reports_none_and_the_last_usage_counts() {
    assert_eq!(
        watch("text/event-stream", &[b"data: {}\n\ndata: [DONE]\n\n"]),
        None
    );
    let two = b"data: {\"usage\":{\"total_tokens\":1}}\ndata: {\"usage\":{\"total_tokens\":2}}\ndata: {\"usage\":{\"total_tokens\":0}}";
    assert_eq!(watch("text/event-stream", &[two]).map(|u| u.total), Some(2));
}

const REPORT: &str = r#""usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#;

#[test]
fn usage_is_read_however_long_the_document_or_the_line_is() {
    let filler = "x".repeat(3 * 1024 * 1024);
    for document in [
        format!(r#"{{"text":"{filler}",{REPORT}}}"#),
        format!(r#"{{{REPORT},"text":"{filler}"}}"#),
        format!(r#"{{"response":{{"text":["{filler}"],{REPORT}}}}}"#),
    ] {
        for size in [1000, 16 * 1024, usize::MAX] {
            let pieces = |text: &str| -> Vec<Vec<u8>> {
                text.as_bytes()
                    .chunks(size.min(text.len()))
                    .map(<[u8]>::to_vec)
                    .collect()
            };
            let json = pieces(&document);
            let refs: Vec<&[u8]> = json.iter().map(Vec::as_slice).collect();
            assert_eq!(watch("application/json", &refs), usage(1, 2, 3, 0));
            let events = pieces(&format!("data: {document}\n\ndata: [DONE]\n\n"));
            let refs: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
            assert_eq!(watch("text/event-stream", &refs), usage(1, 2, 3, 0));
        }
    }
}

#[test]
fn a_message_without_a_line_break_is_read() {
    let event = format!("data: {{{REPORT}}}");
    let done = "data: [DONE]";
    for pieces in [
        vec![event.as_str()],
        vec![&event, done],
        vec![&event, "\r\n", done],
    ] {
        let refs: Vec<&[u8]> = pieces.iter().map(|p| p.as_bytes()).collect();
        assert_eq!(watch("text/event-stream", &refs), usage(1, 2, 3, 0), "{pieces:?}");
    }
}

#[test]
fn usage_is_that_of_the_document_or_of_its_response_and_of_nothing_deeper() {
    for (document, found) in [
        (format!(r#"{{"choices":[{{{REPORT}}}]}}"#), false),
        (format!(r#"{{"response":{{"response":{{{REPORT}}}}}}}"#), false),
        (format!(r#"{{"response":[{{{REPORT}}}]}}"#), false),
        (format!(r#"[{{{REPORT}}}]"#), false),
        (
            format!(r#"{{"text":"\"usage\":{{}}","response":{{{REPORT}}}}}"#),
            true,
        ),
        (
            format!(r#"{{"response":{{}},"usage":null,"response":{{{REPORT}}}}}"#),
            true,
        ),
        (format!(r#"{{"a":{{"response":{{{REPORT}}}}}}}"#), false),
        (format!(r#"{{"usage":[1],"a":"}}","b":[{{}}],{REPORT}}}"#), true),
    ] {
        let expected = usage(1, 2, 3, 0).filter(|_| found);
        assert_eq!(
            watch("application/json", &[document.as_bytes()]),
            expected,
            "{document}"
        );
        let line = format!("data:{document}\n");
        assert_eq!(
            watch("text/event-stream", &[line.as_bytes()]),
            expected,
            "{document}"
        );
    }
}

/// A nest that a recursive reader follows: each level costs it a stack frame and a scan of all that is left.
#[test]
fn a_response_within_a_response_without_end_costs_no_stack() {
    let deep = format!(
        "{}{REPORT}{}",
        r#"{"response":"#.repeat(500_000),
        "}".repeat(500_000)
    );
    let small_stack = std::thread::Builder::new().stack_size(64 * 1024);
    let watched = small_stack.spawn(move || {
        let line = format!("data: {deep}\n\n");
        (
            watch("application/json", &[deep.as_bytes()]),
            watch("text/event-stream", &[line.as_bytes()]),
        )
    });
    assert_eq!(watched.unwrap().join().unwrap(), (None, None));
}

#[test]
fn a_usage_object_without_end_is_not_kept() {
    let long = format!(r#"{{"usage":{{"total_tokens":1,"x":"{}"}},"#, "x".repeat(1 << 20));
    let mut watcher = UsageWatcher::for_content(Some("application/json"), None);
    for piece in long.as_bytes().chunks(1000) {
        watcher.push(piece);
    }
    watcher.push(format!("{REPORT}}}").as_bytes());
    assert_eq!(watcher.finish(), usage(1, 2, 3, 0), "the next one is read");
    let nested = format!(r#"{{"usage":{{"a":{}{}}}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert_eq!(watch("application/json", &[nested.as_bytes()]), None);
}

#[test]
fn encoded_or_foreign_bodies_are_not_looked_into() {
    assert!(matches!(
        UsageWatcher::for_content(Some("application/json"), Some("gzip")),
        UsageWatcher::Blind
    ));
    assert!(matches!(
        UsageWatcher::for_content(Some("audio/wav"), None),
        UsageWatcher::Blind
    ));
}

proptest! {
    #[test]
    fn arbitrary_bodies_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5)) {
        for kind in ["application/json", "text/event-stream"] {
            let refs: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let _ = watch(kind, &refs);
        }
    }
}

/// The definition, on a whole document: the total of its own usage object, else of its response's.
fn defined(json: &serde_json::Value) -> Option<u64> {
    let object = |level: &serde_json::Value| level.get("usage").filter(|u| u.is_object()).cloned();
    let usage = object(json).or_else(|| object(json.get("response")?))?;
    usage["total_tokens"].as_u64().filter(|t| *t > 0)
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<u32>().prop_map(Into::into),
        r#"[a-z"\\{}\[\],:\n]{0,8}"#.prop_map(Into::into),
        (1_u32..1000).prop_map(|n| serde_json::json!({"total_tokens": n})),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        let name = prop_oneof![
            Just("usage".to_string()),
            Just("response".to_string()),
            Just("object".to_string()),
            "[a-z\"\\\\{}]{0,6}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(name, inner, 0..5)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_cut_anywhere_reports_what_it_says(json in any_json(), size in 1_usize..20, pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let read = watch("application/json", &pieces).map(|u| u.total).filter(|t| *t > 0);
        prop_assert_eq!(read, defined(&json), "{}", text);
        let line = format!("data: {}\n\n", serde_json::to_string(&json).unwrap());
        let pieces: Vec<&[u8]> = line.as_bytes().chunks(size).collect();
        prop_assert_eq!(watch("text/event-stream", &pieces).map(|u| u.total), defined(&json), "{}", line);
        prop_assert_eq!(watch("text/event-stream", &[line.as_bytes()]).map(|u| u.total), defined(&json), "{}", line);
    }
}
