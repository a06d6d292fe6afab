//! The exchanges Envoy has with an Endpoint Picker, as gRPC frames made once. Written with the published types.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
use pb::processing_request::Request;
use prost::Message as _;

/// One exchange: what is sent, and how many answers are awaited before the next step.
#[derive(Clone)]
pub struct Shape {
    /// Name for tables.
    pub name: &'static str,
    /// Steps in order: the bytes to send, and the body bytes and end that the answers must carry.
    pub steps: Vec<Step>,
}

/// Frames sent together, and what must come back before the next step.
#[derive(Clone)]
pub struct Step {
    /// gRPC frames.
    pub frames: Bytes,
    /// Answers awaited, counted by [`Awaited`].
    pub awaited: Awaited,
}

/// What a step waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// That many messages.
    Messages(usize),
    /// Messages until one that ends the body.
    EndOfBody,
    /// Nothing.
    Nothing,
}

fn frame(request: Request, first: bool) -> Vec<u8> {
    let mut message = pb::ProcessingRequest {
        request: Some(request),
        ..Default::default()
    };
    if first {
        message.protocol_config = Some(pb::ProtocolConfiguration {
            request_body_mode: 4,
            response_body_mode: 4,
            ..Default::default()
        });
    }
    let bytes = message.encode_to_vec();
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&bytes);
    out
}

fn http_headers(pairs: &[(&str, &str)], end: bool) -> pb::HttpHeaders {
    let header = |(k, v): &(&str, &str)| core::HeaderValue {
        key: (*k).into(),
        raw_value: v.as_bytes().to_vec(),
        ..Default::default()
    };
    pb::HttpHeaders {
        headers: Some(core::HeaderMap {
            headers: pairs.iter().map(header).collect(),
        }),
        end_of_stream: end,
        ..Default::default()
    }
}

fn http_body(bytes: &[u8], end: bool) -> pb::HttpBody {
    pb::HttpBody {
        body: bytes.to_vec(),
        end_of_stream: end,
        ..Default::default()
    }
}

/// Request headers as Envoy sends them for a small POST.
pub fn request_headers(path: &str) -> Vec<u8> {
    let pairs = [
        (":authority", "gateway.example.com"),
        (":path", path),
        (":method", "POST"),
        (":scheme", "http"),
        ("content-type", "application/json"),
        ("user-agent", "OpenAI/Python 1.99.0"),
        ("accept", "application/json"),
        ("authorization", "Bearer sk-0123456789abcdef0123456789abcdef"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "5f2b7a8e-7f0e-4f6c-9d58-1f1a6f6f7c11"),
        ("x-envoy-expected-rq-timeout-ms", "15000"),
    ];
    frame(Request::RequestHeaders(http_headers(&pairs, false)), true)
}

/// A request body in pieces of at most `piece` bytes and the empty end.
pub fn request_body(body: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(piece) {
        out.extend(frame(Request::RequestBody(http_body(chunk, false)), false));
    }
    out.extend(frame(Request::RequestBody(http_body(b"", true)), false));
    out
}

fn response_headers(content_type: &str) -> Vec<u8> {
    let pairs = [
        (":status", "200"),
        ("content-type", content_type),
        ("date", "Tue, 24 Nov 2026 10:00:00 GMT"),
        ("server", "uvicorn"),
    ];
    frame(Request::ResponseHeaders(http_headers(&pairs, false)), false)
}

fn response_body(bytes: &[u8], end: bool) -> Vec<u8> {
    frame(Request::ResponseBody(http_body(bytes, end)), false)
}

/// A chat body of about `size` bytes, different for each `seed` after its first `shared` bytes of content.
pub fn chat_body(size: usize, shared: usize, seed: u64) -> Vec<u8> {
    let words = [
        "the ", "quick ", "brown ", "fox ", "jumps ", "over ", "a ", "lazy\\n", "dog. ",
    ];
    let mut state = seed | 1;
    let mut text = String::with_capacity(size);
    let mut i = 0usize;
    while text.len() < size {
        let pick = if text.len() < shared {
            i
        } else {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        text.push_str(words[pick % words.len()]);
        i += 1;
    }
    format!(
        r#"{{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{{"role":"system","content":"You are helpful."}},{{"role":"user","content":"{text}"}}],"max_tokens":100,"temperature":0,"stream":true}}"#
    )
    .into_bytes()
}

fn sse_chunk(i: usize) -> Vec<u8> {
    let mut chunk = format!(
        "data: {{\"id\":\"chatcmpl-7f0e4f6c9d58\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" token{i}\"}}}}]}}\n\n"
    );
    while chunk.len() < 200 {
        chunk.insert(chunk.len() - 2, ' ');
    }
    chunk.into_bytes()
}

fn request_step(body: &[u8], piece: usize) -> Step {
    let mut frames = request_headers("/v1/chat/completions");
    frames.extend(request_body(body, piece));
    Step {
        frames: frames.into(),
        awaited: Awaited::EndOfBody,
    }
}

/// 2 KB chat request, 300 B JSON back.
pub fn short() -> Shape {
    let json = format!(
        r#"{{"id":"cmpl-1","object":"chat.completion","created":1764000000,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":500,"total_tokens":520,"completion_tokens":20}}}}"#,
        "word ".repeat(14)
    );
    let mut back = response_headers("application/json");
    back.extend(response_body(json.as_bytes(), false));
    back.extend(response_body(b"", true));
    Shape {
        name: "short: 2 KB request, 300 B JSON",
        steps: vec![
            request_step(&chat_body(1850, 1000, 7), 65_536),
            Step {
                frames: back.into(),
                awaited: Awaited::EndOfBody,
            },
        ],
    }
}

/// 2 KB chat request, 100 SSE chunks of 200 B back, each echoed before the next comes.
pub fn streamed() -> Shape {
    let mut steps = vec![
        request_step(&chat_body(1850, 1000, 9), 65_536),
        Step {
            frames: response_headers("text/event-stream").into(),
            awaited: Awaited::Messages(1),
        },
    ];
    for i in 0..100 {
        steps.push(Step {
            frames: response_body(&sse_chunk(i), false).into(),
            awaited: Awaited::Messages(1),
        });
    }
    let usage = b"data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":500,\"total_tokens\":600,\"completion_tokens\":100}}\n\ndata: [DONE]\n\n";
    let mut last = response_body(usage, false);
    last.extend(response_body(b"", true));
    steps.push(Step {
        frames: last.into(),
        awaited: Awaited::EndOfBody,
    });
    Shape {
        name: "streamed: 2 KB request, 100 SSE chunks",
        steps,
    }
}

/// 400 KB chat request in pieces of 64 KB, 300 B JSON back.
pub fn large() -> Shape {
    let back = short().steps.remove(1);
    Shape {
        name: "large: 400 KB request, 300 B JSON",
        steps: vec![request_step(&chat_body(400_000, 400_000, 11), 65_536), back],
    }
}

/// A request with a 60 KB body whose response never comes: the stream waits for its first token.
pub fn waiting() -> Shape {
    Shape {
        name: "waiting: 60 KB request",
        steps: vec![request_step(&chat_body(60_000, 60_000, 13), 65_536)],
    }
}
