//! The plain ext_proc server all CPU bars are measured against: as small as it can be, the usual way to write
//! one with tonic: published types, a spawned task, a channel. It picks nothing and echoes.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
use pb::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
use pb::processing_request::Request;
use pb::processing_response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

struct Echo {
    destination: String,
}

#[tonic::async_trait]
impl ExternalProcessor for Echo {
    type ProcessStream = ReceiverStream<Result<pb::ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: tonic::Request<Streaming<pb::ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, Status> {
        let mut messages = request.into_inner();
        let (send, receive) = mpsc::channel(16);
        let destination = self.destination.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                for answer in message.request.into_iter().flat_map(|r| answers(r, &destination)) {
                    if send.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receive)))
    }
}

fn answers(request: Request, destination: &str) -> Vec<pb::ProcessingResponse> {
    let responses = match request {
        Request::RequestHeaders(_) => {
            vec![Response::RequestHeaders(headers(
                "x-gateway-destination-endpoint",
                destination,
                true,
            ))]
        }
        Request::ResponseHeaders(_) => vec![Response::ResponseHeaders(headers(
            "x-went-into-resp-headers",
            "true",
            false,
        ))],
        Request::RequestBody(b) => pieces(b).map(Response::RequestBody).collect(),
        Request::ResponseBody(b) => pieces(b).map(Response::ResponseBody).collect(),
        Request::RequestTrailers(_) => vec![Response::RequestTrailers(pb::TrailersResponse::default())],
        Request::ResponseTrailers(_) => vec![Response::ResponseTrailers(pb::TrailersResponse::default())],
    };
    let message = |r| pb::ProcessingResponse {
        response: Some(r),
        ..Default::default()
    };
    responses.into_iter().map(message).collect()
}

fn headers(name: &str, value: &str, clear_route_cache: bool) -> pb::HeadersResponse {
    let header = HeaderValue {
        key: name.into(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let set = HeaderValueOption {
        header: Some(header),
        ..Default::default()
    };
    let mutation = pb::HeaderMutation {
        set_headers: vec![set],
        ..Default::default()
    };
    let response = pb::CommonResponse {
        header_mutation: Some(mutation),
        clear_route_cache,
        ..Default::default()
    };
    pb::HeadersResponse {
        response: Some(response),
    }
}

fn pieces(body: pb::HttpBody) -> impl Iterator<Item = pb::BodyResponse> {
    let end = body.end_of_stream;
    let mut chunks: Vec<Vec<u8>> = match body.body.len() {
        0..=62_000 => vec![body.body],
        _ => body.body.chunks(62_000).map(<[u8]>::to_vec).collect(),
    };
    let last = chunks.pop();
    let pieces = chunks
        .into_iter()
        .map(|c| (c, false))
        .chain(last.map(|c| (c, end)));
    pieces.map(|(body, end_of_stream)| {
        let streamed = pb::StreamedBodyResponse {
            body,
            end_of_stream,
            ..Default::default()
        };
        let mutation = pb::BodyMutation {
            mutation: Some(pb::body_mutation::Mutation::StreamedResponse(streamed)),
        };
        let response = pb::CommonResponse {
            body_mutation: Some(mutation),
            ..Default::default()
        };
        pb::BodyResponse {
            response: Some(response),
        }
    })
}

/// Serves until killed, on one thread. Names `destination` (`ip:port`) for every request.
pub fn serve(address: SocketAddr, destination: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let destination = destination.to_owned();
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(ExternalProcessorServer::new(Echo { destination }));
    runtime.block_on(server.serve(address)).expect("the server runs");
}
