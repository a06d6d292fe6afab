//! The gRPC service: the ext_proc path opens a session, other paths go to health or are unimplemented.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Once};

use futures::future::{BoxFuture, Either};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::net::http2::Counted;
use crate::net::places::Place;
use crate::requestcontrol::CurrentDirector;
use crate::requestcontrol::streams::{StreamHandle, Streams};

use super::session::Session;
use super::stream::{Limits, Stream};

/// Name of the gRPC service.
pub const SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Serves ext_proc streams; cheap to clone.
#[derive(Clone)]
pub struct ExtProcService {
    directors: Arc<CurrentDirector>,
    streams: Arc<Streams>,
    limits: Limits,
    max_message: usize,
    unreadable: Arc<Once>,
    /// Health on the same port (`--health-checking`).
    other: Option<tonic::service::Routes>,
}

impl ExtProcService {
    /// A service that gives each new stream the director in force and a place among `streams`, refusing messages above `max_message` bytes. `other` answers every other path.
    pub fn new(
        directors: Arc<CurrentDirector>,
        streams: Arc<Streams>,
        limits: Limits,
        max_message: usize,
        other: Option<tonic::service::Routes>,
    ) -> Self {
        ExtProcService {
            directors,
            streams,
            limits,
            max_message,
            unreadable: Arc::new(Once::new()),
            other,
        }
    }
}

/// The service on one connection, which counts its streams.
pub struct Connection {
    service: ExtProcService,
    place: Arc<Place>,
}

impl Connection {
    /// `service` on the connection of `place`.
    pub fn new(service: ExtProcService, place: Arc<Place>) -> Self {
        Connection { service, place }
    }

    fn process(&self, request: Request<Incoming>) -> Response<Body> {
        let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc);
        if !grpc {
            let mut refused = Response::new(Body::empty());
            *refused.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return refused;
        }
        let service = &self.service;
        let stream = Stream::new(service.directors.load(), service.limits);
        let input = Body::new(request.into_body());
        let shared = (StreamHandle::new(service.streams.clone()), self.place.stream());
        let unreadable = service.unreadable.clone();
        let session = Session::new(input, stream, shared, service.max_message, unreadable);
        grpc_response(Body::new(session))
    }
}

type Answer = Result<Response<Body>, Infallible>;

impl Service<Request<Incoming>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, BoxFuture<'static, Answer>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if request.uri().path() == PROCESS {
            return Either::Left(ready(Ok(self.process(request))));
        }
        match &self.service.other {
            Some(routes) => {
                let (mut routes, open) = (routes.clone(), self.place.stream());
                Either::Right(Box::pin(async move {
                    let answer = tower_service::Service::call(&mut routes, request.map(Body::new)).await?;
                    Ok(answer.map(|body| Body::new(Counted::new(body, open))))
                }))
            }
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
