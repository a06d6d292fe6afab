//! The gRPC surface (simulator.md §13), on the port of HTTP: vLLM's engine service and reflection. Requests take the same
//! way as those of HTTP ([`super::order`]). Joined to [`super::http`]'s routes by `app::sim`.

pub mod bounded;
mod engine;
pub mod generate;
pub mod sampling;
mod status;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tonic::Status;
use tower_service::Service;

use super::api::Refusal;
use super::http::{body, with_headers};
use super::server::Simulator;
use bounded::MAX_IDS;
use engine::Engine;
use messages::vllm_engine_server::VllmEngineServer;

/// Bytes of a message's head: whether it is compressed, and how long it is.
const PREFIX: usize = 5;

/// Messages and service, made of `proto/vllm_engine.proto`.
pub mod messages {
    #![allow(missing_docs, unused_qualifications, clippy::all)]
    tonic::include_proto!("vllm.grpc.engine");
}

/// What reflection tells of them.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vllm_engine.binpb"));

/// The routes of a simulator's gRPC services.
///
/// # Errors
/// The descriptors are not what they should be.
pub fn router(sim: Arc<Simulator>) -> io::Result<Router> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().map_err(io::Error::other)?;
    let v1alpha = reflection().build_v1alpha().map_err(io::Error::other)?;
    Ok(Router::new()
        .route("/vllm.grpc.engine.VllmEngine/Generate", post(call))
        .route("/vllm.grpc.engine.VllmEngine/Embed", post(call))
        .route("/vllm.grpc.engine.VllmEngine/HealthCheck", post(call))
        .route("/vllm.grpc.engine.VllmEngine/Abort", post(call))
        .route("/vllm.grpc.engine.VllmEngine/GetModelInfo", post(call))
        .route("/vllm.grpc.engine.VllmEngine/GetServerInfo", post(call))
        .with_state(sim)
        .route_service("/grpc.reflection.v1.ServerReflection/{method}", v1)
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", v1alpha))
}

async fn call(State(sim): State<Arc<Simulator>>, request: Request<Body>) -> Response {
    let (head, sent) = request.into_parts();
    if !is_grpc(head.version, &head.headers) {
        let text = "a gRPC call needs HTTP/2 and content-type application/grpc";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let answer = serve(&sim, head, sent).await;
    with_headers(
        &sim,
        None,
        answer.unwrap_or_else(|refusal| end(status::of(&refusal))),
    )
}

/// Serves a call of the engine. Its message is read as the body of an HTTP request is, with the same limits.
async fn serve(sim: &Arc<Simulator>, head: Parts, sent: Body) -> Result<Response, Refusal> {
    let limit = sim.config.max_body + PREFIX;
    let whole = body::read_within(sim, limit, &head.headers, sent)
        .await?
        .into_bytes();
    if whole.len() > MAX_IDS && bounded::ids(&whole[PREFIX..]) > MAX_IDS {
        let text = format!("input_ids has more than {MAX_IDS} entries");
        return Err(Refusal::new(400, text));
    }
    let mut service = VllmEngineServer::new(Engine(sim.clone())).max_decoding_message_size(limit);
    let Ok(answer) = service.call(Request::from_parts(head, Body::from(whole))).await;
    Ok(answer.into_response())
}

/// The answer to a gRPC call of what is not served; `None`: it is no gRPC call.
pub fn unknown(request: &Request<Body>) -> Option<Response> {
    is_grpc(request.version(), request.headers()).then(|| {
        let text = format!("{} is not served", request.uri().path());
        end(Status::unimplemented(text))
    })
}

/// The end of a call that has no other answer.
fn end(status: Status) -> Response {
    status.into_http::<tonic::body::Body>().into_response()
}

fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let rest = content.and_then(|content| content.strip_prefix("application/grpc"));
    version == Version::HTTP_2 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}
