//! The gRPC surface (simulator.md §13), on the port of HTTP: vLLM's engine service and reflection. Requests take the same
//! way as those of HTTP. Joined to [`super::http`]'s routes by `app::sim`.

mod engine;
mod generate;
mod status;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tonic::Status;
use tower_service::Service;

use super::http::{body, with_headers};
use super::server::Simulator;
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

/// The routes of a simulator's gRPC services, and the answer to calls of services that are not there.
///
/// # Errors
/// The descriptors are not what they should be.
pub fn router(sim: Arc<Simulator>) -> io::Result<Router> {
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let v1 = reflection().build_v1().map_err(io::Error::other)?;
    let v1alpha = reflection().build_v1alpha().map_err(io::Error::other)?;
    Ok(Router::new()
        .route("/vllm.grpc.engine.VllmEngine/{method}", post(call))
        .with_state(sim)
        .route_service("/grpc.reflection.v1.ServerReflection/{method}", v1)
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", v1alpha)
        .fallback(unknown))
}

/// A call of the engine. Its message is read as the body of a request of HTTP is, with the same limits.
async fn call(State(sim): State<Arc<Simulator>>, request: Request<Body>) -> Response {
    let (head, sent) = request.into_parts();
    if !is_grpc(head.version, &head.headers) {
        let text = "a gRPC call needs HTTP/2 and content-type application/grpc";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let limit = sim.config.max_body + PREFIX;
    let answer = match body::read_within(&sim, limit, &head.headers, sent).await {
        Err(refusal) => status::of(&refusal)
            .into_http::<tonic::body::Body>()
            .into_response(),
        Ok(whole) => {
            let request = Request::from_parts(head, Body::from(whole.into_bytes()));
            let mut service = VllmEngineServer::new(Engine(sim.clone())).max_decoding_message_size(limit);
            let Ok(answer) = service.call(request).await;
            answer.into_response()
        }
    };
    with_headers(&sim, None, answer)
}

/// No route: a gRPC client is told in its own words.
async fn unknown(request: Request<Body>) -> Response {
    if is_grpc(request.version(), request.headers()) {
        let text = format!("there is no {}", request.uri().path());
        return Status::unimplemented(text)
            .into_http::<tonic::body::Body>()
            .into_response();
    }
    StatusCode::NOT_FOUND.into_response()
}

fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let rest = content.and_then(|content| content.strip_prefix("application/grpc"));
    version == Version::HTTP_2 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}
