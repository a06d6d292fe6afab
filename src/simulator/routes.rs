//! All that one port answers: the routes of [`super::http`] and [`super::grpc`], and requests that are for neither. Called
//! by `app::sim`.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;

use super::http::paths;
use super::server::Simulator;
use super::{grpc, http};

/// The routes of a simulator.
///
/// # Errors
/// The descriptors of gRPC are not what they should be.
pub fn router(sim: Arc<Simulator>) -> io::Result<Router> {
    let routes = http::router(sim.clone())
        .merge(grpc::router(sim)?)
        .method_not_allowed_fallback(paths::other_method);
    let known = routes.clone();
    Ok(routes.fallback(move |request| other(known, request)))
}

/// Answers a request whose path is no route; a gRPC client is told in its own words.
async fn other(known: Router, request: Request<Body>) -> Response {
    match grpc::unknown(&request) {
        Some(answer) => answer,
        None => paths::other(known, request).await,
    }
}
