//! The simulator's gRPC interface (simulator.md §13, §16.7 G), by a client of tonic. `sim_clients` has another client.

use std::time::Duration;

use endpoint_picker::simulator::grpc::messages::generate_request::Input;
use endpoint_picker::simulator::grpc::messages::generate_response::Response as Part;
use endpoint_picker::simulator::grpc::messages::{
    GenerateComplete, GenerateRequest, GenerateResponse, GenerateStreamChunk, GetModelInfoRequest,
    GetModelInfoResponse, KvTransferParams, TokenizedInput,
};
use endpoint_picker::simulator::grpc::sampling::SamplingParams;
use prost::Message;
use serde_json::json;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::support::sim::Sim;

const IDLE: [&str; 3] = [
    "vllm:num_requests_running{model_name=\"m\"} 0",
    "vllm:num_requests_waiting{model_name=\"m\"} 0",
    "vllm:kv_cache_usage_perc{model_name=\"m\"} 0",
];

const IDS: [u32; 4] = [32, 45, 78, 13];

async fn start(args: &[&str]) -> (Sim, Client) {
    let all: Vec<&str> = ["--model", "m"].iter().chain(args).copied().collect();
    let sim = Sim::start(&all).await;
    let client = Client::of(&sim).await;
    (sim, client)
}

/// A connection; every call is one of its streams.
#[derive(Clone)]
struct Client(Channel);

impl Client {
    async fn of(sim: &Sim) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", sim.address)).unwrap();
        Client(endpoint.connect().await.unwrap())
    }

    async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        grpc
    }

    async fn unary<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::from_static(path);
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let answer = self.grpc().await.unary(Request::new(message), path, codec).await;
        answer.map(|a| a.into_inner())
    }

    /// The stream that answers, and what comes before it.
    async fn begin(
        &self,
        ask: GenerateRequest,
    ) -> Result<tonic::Response<Streaming<GenerateResponse>>, Status> {
        let path = PathAndQuery::from_static("/vllm.grpc.engine.VllmEngine/Generate");
        let codec: ProstCodec<GenerateRequest, GenerateResponse> = ProstCodec::default();
        self.grpc()
            .await
            .server_streaming(Request::new(ask), path, codec)
            .await
    }

    /// All that comes.
    async fn generate(&self, ask: GenerateRequest) -> Result<Answered, Status> {
        let mut stream = self.begin(ask).await?.into_inner();
        let mut all = Answered::default();
        while let Some(message) = stream.message().await? {
            match message.response.unwrap() {
                Part::Chunk(chunk) => all.chunks.push(chunk),
                Part::Complete(complete) => all.complete.push(complete),
            }
        }
        Ok(all)
    }

    async fn code(&self, ask: GenerateRequest) -> (Code, String) {
        let status = self.generate(ask).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

#[derive(Debug, Default)]
struct Answered {
    chunks: Vec<GenerateStreamChunk>,
    complete: Vec<GenerateComplete>,
}

fn of_ids(ids: &[u32], sampling: SamplingParams) -> GenerateRequest {
    GenerateRequest {
        input: Some(Input::Tokenized(TokenizedInput {
            original_text: String::new(),
            input_ids: ids.to_vec(),
        })),
        sampling_params: Some(sampling),
        ..GenerateRequest::default()
    }
}

fn of_text(text: &str) -> GenerateRequest {
    GenerateRequest {
        input: Some(Input::Text(text.to_owned())),
        ..GenerateRequest::default()
    }
}

fn streamed(ask: GenerateRequest) -> GenerateRequest {
    GenerateRequest { stream: true, ..ask }
}

fn limit(max_tokens: u32) -> SamplingParams {
    SamplingParams {
        max_tokens: Some(max_tokens),
        ..SamplingParams::default()
    }
}

fn exactly(max_tokens: u32) -> SamplingParams {
    SamplingParams {
        ignore_eos: true,
        ..limit(max_tokens)
    }
}

#[tokio::test]
async fn whole_answers_have_all_tokens_and_streams_one_a_chunk() {
    let (sim, client) = start(&["--mode", "echo"]).await;
    for (max_tokens, reason) in [(128, "stop"), (3, "length")] {
        let ask = of_ids(&IDS, limit(max_tokens));
        let whole = client.generate(ask.clone()).await.unwrap();
        let expected = GenerateComplete {
            output_ids: IDS.to_vec(),
            finish_reason: reason.to_owned(),
            prompt_tokens: 4,
            completion_tokens: 4,
            ..GenerateComplete::default()
        };
        assert_eq!((whole.chunks, whole.complete), (vec![], vec![expected.clone()]));
        let parts = client.generate(streamed(ask)).await.unwrap();
        let chunk = |id: u32| GenerateStreamChunk {
            token_ids: vec![id],
            prompt_tokens: 4,
            completion_tokens: 1,
            ..GenerateStreamChunk::default()
        };
        assert_eq!(parts.chunks, IDS.map(chunk));
        let last = GenerateComplete {
            output_ids: Vec::new(),
            completion_tokens: 0,
            ..expected
        };
        assert_eq!(parts.complete, [last]);
    }
    sim.until_all(&IDLE).await;
    sim.until_all(&[
        "vllm:request_success_total{finish_reason=\"stop\",model_name=\"m\"} 2",
        "vllm:request_success_total{finish_reason=\"length\",model_name=\"m\"} 2",
        "vllm:prompt_tokens_total{model_name=\"m\"} 16",
        "vllm:generation_tokens_total{model_name=\"m\"} 16",
        "vllm:request_params_max_tokens_count{model_name=\"m\"} 4",
    ])
    .await;
}

#[tokio::test]
async fn a_text_is_cut_as_over_http() {
    let (sim, client) = start(&["--mode", "echo"]).await;
    let text = "This is a test.";
    let (_, cut) = sim
        .json("/tokenize", &json!({"model": "m", "prompt": text}))
        .await;
    let answer = client.generate(of_text(text)).await.unwrap();
    assert_eq!(json!(answer.complete[0].output_ids), cut["tokens"]);
    assert_eq!(json!(answer.complete[0].prompt_tokens), cut["count"]);
}

#[tokio::test]
async fn the_same_seed_says_the_same_as_over_http() {
    let (_grpc, client) = start(&["--seed", "7"]).await;
    let http = Sim::start(&["--model", "m", "--seed", "7"]).await;
    let answer = client.generate(of_ids(&IDS, limit(50))).await.unwrap();
    let body = json!({"token_ids": IDS, "sampling_params": {"max_tokens": 50}});
    let (_, told) = http.json("/inference/v1/generate", &body).await;
    let complete = &answer.complete[0];
    assert!(!complete.output_ids.is_empty());
    assert_eq!(json!(complete.output_ids), told["choices"][0]["token_ids"]);
    assert_eq!(json!(complete.finish_reason), told["choices"][0]["finish_reason"]);
}

#[tokio::test]
async fn samples_are_told_apart_by_their_index() {
    let (sim, client) = start(&[]).await;
    let ask = of_ids(&IDS, SamplingParams { n: 3, ..exactly(6) });
    let whole = client.generate(ask.clone()).await.unwrap();
    let told = |c: &GenerateComplete| (c.index, c.output_ids.len(), c.completion_tokens, c.prompt_tokens);
    let all: Vec<_> = whole.complete.iter().map(told).collect();
    assert_eq!(all, [(0, 6, 6, 4), (1, 6, 6, 4), (2, 6, 6, 4)]);
    let parts = client.generate(streamed(ask)).await.unwrap();
    for index in 0..3 {
        assert_eq!(parts.chunks.iter().filter(|c| c.index == index).count(), 6);
        assert_eq!(parts.complete.iter().filter(|c| c.index == index).count(), 1);
    }
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn logprobs_are_those_of_the_place() {
    let (_sim, client) = start(&["--mode", "echo"]).await;
    let sampling = SamplingParams {
        logprobs: Some(2),
        ..SamplingParams::default()
    };
    let ask = of_ids(&[7, 9], sampling);
    let whole = client.generate(ask.clone()).await.unwrap();
    let all = whole.complete[0].output_logprobs.clone().unwrap();
    assert_eq!(
        (all.token_ids, all.token_logprobs),
        (vec![7, 9], vec![-1.0, -1.1])
    );
    assert_eq!(all.top_logprobs[1].token_ids, [9, 10]);
    assert_eq!(all.top_logprobs[1].values, [-1.1, -1.6]);
    let parts = client.generate(streamed(ask)).await.unwrap();
    let second = parts.chunks[1].output_logprobs.clone().unwrap();
    assert_eq!((second.token_ids, second.token_logprobs), (vec![9], vec![-1.1]));
    assert_eq!(parts.complete[0].output_logprobs, None);
    let all = SamplingParams {
        logprobs: Some(-1),
        ..SamplingParams::default()
    };
    let whole = client.generate(of_ids(&[7], all)).await.unwrap();
    let all = whole.complete[0].output_logprobs.clone().unwrap();
    assert_eq!(all.top_logprobs[0].values.len(), 20);
    let none = client.generate(of_ids(&[7], limit(9))).await.unwrap();
    assert_eq!(none.complete[0].output_logprobs, None);
}

#[tokio::test]
async fn cached_tokens_are_told() {
    let (sim, client) = start(&["--mode", "echo", "--enable-kvcache", "--block-size", "8"]).await;
    let ids: Vec<u32> = (1..=20).collect();
    for (stream, cached) in [(false, 0), (false, 16), (true, 16)] {
        let ask = GenerateRequest {
            stream,
            ..of_ids(&ids, limit(128))
        };
        let answer = client.generate(ask).await.unwrap();
        assert_eq!(answer.complete[0].cached_tokens, cached);
        assert!(answer.chunks.iter().all(|c| c.cached_tokens == cached));
    }
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn prefill_and_decode_can_be_apart() {
    let (_sim, client) = start(&["--mode", "echo"]).await;
    let half = |json: &str| GenerateRequest {
        kv_transfer_params_json: Some(json.to_owned()),
        ..of_ids(&IDS, limit(128))
    };
    let prefill = client
        .generate(half("{\"do_remote_decode\":true}"))
        .await
        .unwrap();
    let complete = &prefill.complete[0];
    assert_eq!(complete.finish_reason, "remote_decode");
    let address = KvTransferParams {
        remote_host: "DUMMY".to_owned(),
        remote_port: 1234,
    };
    assert_eq!(complete.kv_transfer_params, Some(address.clone()));
    // What the prefill half says is what the decode half is told, in either form.
    let json = complete.kv_transfer_params_json.clone().unwrap();
    let legacy = GenerateRequest {
        kv_transfer_params: Some(address),
        ..of_ids(&IDS, limit(128))
    };
    for decode in [half(&json), legacy] {
        let decode = client.generate(streamed(decode)).await.unwrap();
        assert_eq!(decode.complete[0].finish_reason, "stop");
        assert_eq!(decode.complete[0].kv_transfer_params_json, None);
    }
    let refused = client.code(streamed(half("{\"do_remote_decode\":true}"))).await;
    let expected = "Prefill does not support streaming".to_owned();
    assert_eq!(refused, (Code::InvalidArgument, expected));
}

#[tokio::test]
async fn a_transfer_takes_the_time_of_a_transfer() {
    // The prompt would take an hour to compute here.
    let (_sim, client) = start(&["--mode", "echo", "--time-to-first-token", "1h"]).await;
    let ask = GenerateRequest {
        kv_transfer_params_json: Some("{\"do_remote_prefill\":true}".to_owned()),
        ..of_ids(&IDS, limit(128))
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), client.generate(ask));
    assert_eq!(answer.await.unwrap().unwrap().complete.len(), 1);
}

#[tokio::test]
async fn the_model_is_told_and_the_rest_of_the_service_answers_with_nothing() {
    let (sim, client) = start(&["--served-model-name", "alias", "m", "--max-model-len", "77"]).await;
    const SERVICE: &str = "/vllm.grpc.engine.VllmEngine/GetModelInfo";
    let info: GetModelInfoResponse = client.unary(SERVICE, GetModelInfoRequest {}).await.unwrap();
    let expected = GetModelInfoResponse {
        model_path: "m".to_owned(),
        is_generation: true,
        max_context_length: 77,
        served_model_name: "alias".to_owned(),
        ..GetModelInfoResponse::default()
    };
    assert_eq!(info, expected);
    for path in [
        "/vllm.grpc.engine.VllmEngine/Embed",
        "/vllm.grpc.engine.VllmEngine/Abort",
        "/vllm.grpc.engine.VllmEngine/HealthCheck",
        "/vllm.grpc.engine.VllmEngine/GetServerInfo",
    ] {
        // Any field of an answer would be read as an unknown one here.
        let answer: GetModelInfoResponse = client.unary(path, GetModelInfoRequest {}).await.unwrap();
        assert_eq!(answer, GetModelInfoResponse::default(), "{path}");
    }
    for path in [
        "/vllm.grpc.engine.VllmEngine/Nothing",
        "/grpc.health.v1.Health/Check",
    ] {
        let status = client.unary::<(), ()>(path, ()).await.unwrap_err();
        let told = (status.code(), status.message().to_owned());
        assert_eq!(told, (Code::Unimplemented, format!("{path} is not served")));
    }
    // The same paths are nothing to a client of HTTP.
    assert_eq!(sim.answered(SERVICE, &json!({})).await.0, 415);
    assert_eq!(
        sim.answered("/grpc.health.v1.Health/Check", &json!({})).await.0,
        404
    );
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_an_invalid_argument() {
    let (sim, client) = start(&["--max-model-len", "10"]).await;
    let transfer = |json: &str| GenerateRequest {
        kv_transfer_params_json: Some(json.to_owned()),
        ..of_ids(&IDS, limit(1))
    };
    let no_limit = SamplingParams {
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let many = SamplingParams { n: 129, ..limit(1) };
    let rows = [
        (
            of_ids(&IDS, limit(7)),
            "This model's maximum context length is 10 tokens. However, you requested 11 tokens",
        ),
        (of_ids(&IDS, limit(0)), "should be positive"),
        (of_ids(&IDS, no_limit), "Ignore_eos is true but"),
        (of_ids(&IDS, many), "must be at most 128"),
        (GenerateRequest::default(), "input is missing"),
        (
            transfer("[true]"),
            "kv_transfer_params_json must be a JSON object",
        ),
        (transfer("{\"do_remote_decode\":7}"), "kv_transfer_params_json"),
    ];
    for (ask, expected) in rows {
        for ask in [ask.clone(), streamed(ask)] {
            let (code, message) = client.code(ask).await;
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn failures_on_purpose_have_their_codes() {
    let rows = [
        ("rate_limit", Code::ResourceExhausted, "Rate limit reached"),
        ("invalid_api_key", Code::Unauthenticated, "Incorrect API key"),
        ("context_length", Code::InvalidArgument, "maximum context length"),
        ("server_error", Code::Unavailable, "overloaded"),
        ("invalid_request", Code::InvalidArgument, "Invalid request"),
        ("model_not_found", Code::NotFound, "does not exist"),
    ];
    for (kind, code, message) in rows {
        let (_sim, client) = start(&["--failure-injection-rate", "100", "--failure-types", kind]).await;
        let told = client.code(of_text("hi")).await;
        assert_eq!(told.0, code, "{kind}");
        assert!(told.1.contains(message), "{kind}: {}", told.1);
    }
}

#[tokio::test]
async fn a_message_over_the_limit_of_bodies_is_refused() {
    let (_sim, client) = start(&[
        "--mode",
        "echo",
        "--max-request-body-size-mb",
        "1",
        "--max-model-len",
        "2000000",
    ])
    .await;
    let within = client
        .generate(of_text(&"a".repeat((1 << 20) - 10)))
        .await
        .unwrap();
    assert_eq!(within.complete.len(), 1);
    let (code, message) = client.code(of_text(&"a".repeat(1 << 20))).await;
    assert_eq!(code, Code::ResourceExhausted, "{message}");
}

#[tokio::test]
async fn a_full_queue_is_an_exhausted_resource() {
    let args = [
        "--max-num-seqs",
        "1",
        "--max-waiting-queue-length",
        "1",
        "--inter-token-latency",
        "1h",
    ];
    let (sim, client) = start(&args).await;
    let mut running = client
        .begin(streamed(of_ids(&IDS, exactly(5))))
        .await
        .unwrap()
        .into_inner();
    running.message().await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.generate(of_ids(&IDS, exactly(5))).await.map(|_| ()) }
    });
    sim.until("vllm:num_requests_waiting{model_name=\"m\"} 1").await;
    let (code, message) = client.code(of_ids(&IDS, exactly(5))).await;
    assert_eq!(code, Code::ResourceExhausted, "{message}");
    // The stream that runs and the call that waits are given up by their client.
    waiting.abort();
    sim.until("vllm:num_requests_waiting{model_name=\"m\"} 0").await;
    drop(running);
    sim.until_all(&IDLE).await;
    // A sample that is refused ends a stream in which others speak already.
    let three = SamplingParams { n: 3, ..exactly(5) };
    let (code, message) = client.code(streamed(of_ids(&IDS, three))).await;
    assert_eq!(code, Code::ResourceExhausted, "{message}");
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn a_call_that_is_cancelled_frees_its_slot_and_blocks() {
    let args = [
        "--max-num-seqs",
        "1",
        "--enable-kvcache",
        "--inter-token-latency",
        "1h",
    ];
    let (sim, client) = start(&args).await;
    let ids: Vec<u32> = (1..=64).collect();
    for stream in [true, false] {
        let ask = GenerateRequest {
            stream,
            ..of_ids(&ids, exactly(5))
        };
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.generate(ask).await.map(|_| ()) }
        });
        sim.until("vllm:num_requests_running{model_name=\"m\"} 1").await;
        call.abort();
        sim.until_all(&IDLE).await;
        // The connection and its other calls go on, in the only slot.
        let one = client.generate(of_ids(&IDS, limit(1))).await;
        assert_eq!(one.unwrap().complete.len(), 1);
        sim.until_all(&IDLE).await;
    }
    // Those that were cancelled count for nothing.
    sim.until("vllm:request_success_total{finish_reason=\"length\",model_name=\"m\"} 2")
        .await;
}

#[tokio::test]
async fn a_deadline_of_the_client_frees_the_slot() {
    let (sim, client) = start(&["--time-to-first-token", "1h"]).await;
    let path = PathAndQuery::from_static("/vllm.grpc.engine.VllmEngine/Generate");
    let codec: ProstCodec<GenerateRequest, GenerateResponse> = ProstCodec::default();
    let mut request = Request::new(of_ids(&IDS, limit(1)));
    request.set_timeout(Duration::from_millis(50));
    let ended = client.grpc().await.server_streaming(request, path, codec).await;
    assert!(ended.is_err());
    sim.until_all(&IDLE).await;
}

#[tokio::test]
async fn answers_carry_the_headers_of_the_pod() {
    let env = [("POD_IP", "127.0.0.1"), ("POD_NAME", "pod-7")];
    let sim = Sim::start_with(&["--model", "m", "--enable-request-id-headers"], &env).await;
    let client = Client::of(&sim).await;
    let ask = GenerateRequest {
        request_id: "mine".to_owned(),
        ..of_text("hi")
    };
    let answer = client.begin(ask).await.unwrap();
    let told = |name: &str| answer.metadata().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(told("x-inference-pod"), "pod-7");
    assert_eq!(told("x-request-id"), "mine");
}

#[tokio::test]
async fn a_small_message_does_not_unfold_into_a_large_memory() {
    let (sim, client) = start(&[]).await;
    // 12 MB of empty stop texts, which are not read, and of ids of one byte.
    let stops = TextsAtTen {
        stop: vec![String::new(); 6_000_000],
    };
    let ask = Laden {
        sampling_params: Some(stops),
        text: "hi".to_owned(),
    };
    let path = "/vllm.grpc.engine.VllmEngine/Generate";
    client.unary::<Laden, GenerateResponse>(path, ask).await.unwrap();
    let (code, message) = client.code(of_ids(&vec![1; 12_000_000], limit(1))).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(message, "input_ids has more than 4194304 entries");
    let peak = sim.peak_memory();
    assert!(peak < 120 << 20, "{peak} bytes");
}

/// A request with parameters the simulator does not read.
#[derive(Clone, PartialEq, prost::Message)]
struct Laden {
    #[prost(string, tag = "3")]
    text: String,
    #[prost(message, optional, tag = "4")]
    sampling_params: Option<TextsAtTen>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TextsAtTen {
    #[prost(string, repeated, tag = "10")]
    stop: Vec<String>,
}
