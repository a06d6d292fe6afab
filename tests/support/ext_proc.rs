//! An ext_proc client of published types (`envoy-types` on tonic) that plays Envoy in tests.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use pb::external_processor_client::ExternalProcessorClient;
use pb::processing_request::Request;
use pb::processing_response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// A connection.
pub async fn connect(to: SocketAddr) -> ExternalProcessorClient<Channel> {
    let channel = Channel::from_shared(format!("http://{to}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    ExternalProcessorClient::new(channel)
}

/// One exchange.
pub struct Exchange {
    send: Option<mpsc::Sender<pb::ProcessingRequest>>,
    receive: Streaming<pb::ProcessingResponse>,
}

/// Header changes of an answer: set (sorted by name), removed (sorted).
pub type Changes = (Vec<(String, String)>, Vec<String>);

/// An answer, as tests compare it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To request headers: changes, destination in metadata, clear_route_cache.
    RequestHeaders(Changes, Option<String>, bool),
    /// A piece of the request body and whether it is the last.
    RequestBody(String, bool),
    /// To response headers.
    ResponseHeaders(Changes),
    /// A piece of the response body and whether it is the last.
    ResponseBody(String, bool),
    /// Status, text, header changes.
    Immediate(i32, String, Changes),
    /// Anything else, as it came.
    Other(Box<pb::ProcessingResponse>),
}

impl Exchange {
    /// Opens a stream.
    pub async fn open(client: &ExternalProcessorClient<Channel>) -> Self {
        let (send, messages) = mpsc::channel(64);
        let receive = client
            .clone()
            .process(ReceiverStream::new(messages))
            .await
            .unwrap()
            .into_inner();
        Exchange {
            send: Some(send),
            receive,
        }
    }

    /// Sends one message.
    pub async fn send(&self, message: pb::ProcessingRequest) {
        self.send.as_ref().unwrap().send(message).await.unwrap();
    }

    /// Half-closes the stream, as Envoy does when the client leaves.
    pub fn half_close(&mut self) {
        self.send = None;
    }

    /// The next answer, `None` at the end.
    ///
    /// # Errors
    /// The stream ended with that status.
    pub async fn next(&mut self) -> Result<Option<Answer>, tonic::Status> {
        let message = tokio::time::timeout(Duration::from_secs(20), self.receive.message());
        Ok(message.await.expect("an answer within 20 s")?.map(answer))
    }

    /// The next answer, which must come.
    pub async fn answer(&mut self) -> Answer {
        self.next().await.unwrap().expect("an answer")
    }
}

/// A message without metadata.
pub fn message(request: Request) -> pb::ProcessingRequest {
    pb::ProcessingRequest {
        request: Some(request),
        ..Default::default()
    }
}

/// Headers with text values.
pub fn http_headers(pairs: &[(&str, &str)], end: bool) -> pb::HttpHeaders {
    let header = |(k, v): &(&str, &str)| core::HeaderValue {
        key: (*k).into(),
        value: (*v).into(),
        ..Default::default()
    };
    let headers = core::HeaderMap {
        headers: pairs.iter().map(header).collect(),
    };
    pb::HttpHeaders {
        headers: Some(headers),
        end_of_stream: end,
        ..Default::default()
    }
}

/// Request headers.
pub fn request_headers(pairs: &[(&str, &str)], end: bool) -> pb::ProcessingRequest {
    message(Request::RequestHeaders(http_headers(pairs, end)))
}

/// Says that both bodies are streamed in full duplex, as Envoy does in its first message.
pub fn full_duplex(mut message: pb::ProcessingRequest) -> pb::ProcessingRequest {
    message.protocol_config = Some(pb::ProtocolConfiguration {
        request_body_mode: 4,
        response_body_mode: 4,
        ..Default::default()
    });
    message
}

/// A piece of the request body.
pub fn request_body(bytes: impl AsRef<[u8]>, end: bool) -> pb::ProcessingRequest {
    let body = pb::HttpBody {
        body: bytes.as_ref().to_vec(),
        end_of_stream: end,
        ..Default::default()
    };
    message(Request::RequestBody(body))
}

/// Response headers.
pub fn response_headers(pairs: &[(&str, &str)], end: bool) -> pb::ProcessingRequest {
    message(Request::ResponseHeaders(http_headers(pairs, end)))
}

/// A piece of the response body.
pub fn response_body(bytes: impl AsRef<[u8]>, end: bool) -> pb::ProcessingRequest {
    let body = pb::HttpBody {
        body: bytes.as_ref().to_vec(),
        end_of_stream: end,
        ..Default::default()
    };
    message(Request::ResponseBody(body))
}

/// Adds the subset hint to a message.
pub fn with_subset(mut message: pb::ProcessingRequest, subset: &[&str]) -> pb::ProcessingRequest {
    let text = |s: &&str| Value {
        kind: Some(Kind::StringValue((*s).into())),
    };
    let list = Value {
        kind: Some(Kind::ListValue(ListValue {
            values: subset.iter().map(text).collect(),
        })),
    };
    let fields = [("x-gateway-destination-endpoint-subset".to_owned(), list)].into();
    let filter_metadata = [("envoy.lb.subset_hint".to_owned(), Struct { fields })].into();
    message.metadata_context = Some(core::Metadata {
        filter_metadata,
        ..Default::default()
    });
    message
}

fn changes(mutation: Option<pb::HeaderMutation>) -> Changes {
    let mutation = mutation.unwrap_or_default();
    let mut set: Vec<_> = mutation
        .set_headers
        .into_iter()
        .map(|o| {
            let h = o.header.unwrap();
            (h.key, String::from_utf8(h.raw_value).unwrap())
        })
        .collect();
    set.sort();
    let mut removed = mutation.remove_headers;
    removed.sort();
    (set, removed)
}

fn streamed(body: &pb::BodyResponse) -> Option<(String, bool)> {
    match body
        .response
        .as_ref()?
        .body_mutation
        .as_ref()?
        .mutation
        .as_ref()?
    {
        pb::body_mutation::Mutation::StreamedResponse(s) => {
            Some((String::from_utf8_lossy(&s.body).into_owned(), s.end_of_stream))
        }
        _ => None,
    }
}

fn destination(message: &pb::ProcessingResponse) -> Option<String> {
    let Some(Kind::StructValue(lb)) = &message.dynamic_metadata.as_ref()?.fields.get("envoy.lb")?.kind else {
        return None;
    };
    match &lb.fields.get("x-gateway-destination-endpoint")?.kind {
        Some(Kind::StringValue(s)) => Some(s.clone()),
        _ => None,
    }
}

fn answer(message: pb::ProcessingResponse) -> Answer {
    match &message.response {
        Some(Response::RequestHeaders(h)) => {
            let common = h.response.clone().unwrap_or_default();
            let clear = common.clear_route_cache;
            Answer::RequestHeaders(changes(common.header_mutation), destination(&message), clear)
        }
        Some(Response::ResponseHeaders(h)) => {
            Answer::ResponseHeaders(changes(h.response.clone().unwrap_or_default().header_mutation))
        }
        Some(Response::RequestBody(b)) if streamed(b).is_some() => {
            let (text, end) = streamed(b).unwrap();
            Answer::RequestBody(text, end)
        }
        Some(Response::ResponseBody(b)) if streamed(b).is_some() => {
            let (text, end) = streamed(b).unwrap();
            Answer::ResponseBody(text, end)
        }
        Some(Response::ImmediateResponse(i)) => Answer::Immediate(
            i.status.as_ref().unwrap().code,
            String::from_utf8(i.body.to_vec()).unwrap(),
            changes(i.headers.clone()),
        ),
        _ => Answer::Other(Box::new(message)),
    }
}
