//! The gRPC service: the ext_proc path opens a session, other paths go to health or are unimplemented.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Once};
use std::task::{Context, Poll};

use futures::future::Either;
use http::{HeaderValue, Request, Response, header};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::requestcontrol::CurrentDirector;

use super::session::Session;
use super::stream::{Limits, Stream};

/// Name of the gRPC service.
pub const SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Serves ext_proc streams; cheap to clone.
#[derive(Clone)]
pub struct ExtProcService {
    directors: Arc<CurrentDirector>,
    limits: Limits,
    max_message: usize,
    unreadable: Arc<Once>,
    /// Health on the same port (`--health-checking`).
    other: Option<tonic::service::Routes>,
}

impl ExtProcService {
    /// A service that gives each new stream the director in force, refusing messages above `max_message` bytes. `other` answers every other path.
    pub fn new(
        directors: Arc<CurrentDirector>,
        limits: Limits,
        max_message: usize,
        other: Option<tonic::service::Routes>,
    ) -> Self {
        ExtProcService {
            directors,
            limits,
            max_message,
            unreadable: Arc::new(Once::new()),
            other,
        }
    }
}

type Answer = Result<Response<Body>, Infallible>;

impl Service<Request<Body>> for ExtProcService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, <tonic::service::Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == PROCESS {
            let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc);
            if !grpc {
                let mut refused = Response::new(Body::empty());
                *refused.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
                return Either::Left(ready(Ok(refused)));
            }
            let stream = Stream::new(self.directors.load(), self.limits);
            let session = Session::new(
                request.into_body(),
                stream,
                self.max_message,
                self.unreadable.clone(),
            );
            return Either::Left(ready(Ok(grpc_response(Body::new(session)))));
        }
        match &mut self.other {
            Some(routes) => Either::Right(routes.call(request)),
            None => Either::Left(ready(Ok(unimplemented()))),
        }
    }
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

fn grpc_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn unimplemented() -> Response<Body> {
    Status::new(Code::Unimplemented, "unknown service or method").into_http()
}
