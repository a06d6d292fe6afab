//! The gRPC health service (`grpc.health.v1`: Check, List, Watch). Called by `app`, which sets the flags of
//! [`HealthState`] and serves [`HealthService`] on its own plaintext port; with `--health-checking` a second
//! one stands beside ext_proc.
//!
//! | service | leader election off | on |
//! |---|---|---|
//! | `liveness` | SERVING | SERVING |
//! | `""`, `readiness`, the ext_proc service | SERVING while synced and not draining | and leader |
//! | any other name | the same | SERVICE_UNKNOWN |
//!
//! `liveness` follows nothing but the process: a pod without a pool must not be restarted for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::datastore::Datastore;
use crate::net::accept::{self, WORKER_BACKLOG};
use crate::net::http2::{Counted, Http2};
use crate::net::incoming::HANDSHAKE_TIMEOUT;
use crate::net::places::{Limits, Place, Places};
use crate::telemetry::logging::verbose;

/// The service Envoy calls.
pub const EXT_PROC: &str = "envoy.service.ext_proc.v3.ExternalProcessor";

const LIVENESS: &str = "liveness";
const READINESS: &str = "readiness";

/// Longest service name a probe may send, generously.
const MAX_REQUEST_BYTES: usize = 4096;

/// Streams of one connection to the health port.
const MAX_STREAMS: u32 = 64;

/// Open `Watch` calls, all connections together. `Check` is always answered.
const MAX_WATCHES: usize = 512;

/// Longest time a connection may stay without a call.
const IDLE: Duration = Duration::from_secs(300);

/// A peer that does not answer a ping for this long is gone, and its `Watch` with it.
const PING: Duration = Duration::from_secs(20);

/// What the answers depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags {
    synced: bool,
    leader: bool,
    draining: bool,
}

/// The flags behind the answers; `app` keeps it and sets them. When it is dropped, open watches end.
#[derive(Debug)]
pub struct HealthState {
    election: bool,
    flags: watch::Sender<Flags>,
}

impl HealthState {
    /// Nothing synced, not leader, not draining. `election`: only a leader is ready.
    pub fn new(election: bool) -> Self {
        HealthState {
            election,
            flags: watch::Sender::new(Flags::default()),
        }
    }

    /// Discovery has reported a pool, or lost it.
    pub fn set_synced(&self, synced: bool) {
        self.set(|f| f.synced = synced);
    }

    /// This replica leads, or no longer.
    pub fn set_leader(&self, leader: bool) {
        self.set(|f| f.leader = leader);
    }

    /// The process is about to end: not ready from now on.
    pub fn set_draining(&self) {
        self.set(|f| f.draining = true);
    }

    /// Would `readiness` be answered with SERVING?
    pub fn ready(&self) -> bool {
        status(self.election, *self.flags.borrow(), READINESS) == ServingStatus::Serving
    }

    /// Follows the datastore's sync until that is dropped.
    pub async fn follow(&self, store: &Datastore) {
        let mut changes = store.watch();
        loop {
            self.set_synced(store.synced());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn set(&self, change: impl FnOnce(&mut Flags)) {
        self.flags.send_if_modified(|flags| {
            let before = *flags;
            change(flags);
            before != *flags
        });
    }
}

/// The table of this module's head.
fn status(election: bool, flags: Flags, service: &str) -> ServingStatus {
    let ready = flags.synced && !flags.draining && (flags.leader || !election);
    match service {
        LIVENESS => ServingStatus::Serving,
        "" | READINESS | EXT_PROC => serving(ready),
        _ if election => ServingStatus::ServiceUnknown,
        _ => serving(ready),
    }
}

fn serving(yes: bool) -> ServingStatus {
    if yes {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

/// Whose health is told.
#[derive(Clone, Debug)]
enum Subject {
    /// The picker's: follows the flags.
    Picker {
        election: bool,
        flags: watch::Receiver<Flags>,
    },
    /// The ext_proc port's: it serves whenever it can be asked. Other names are not found.
    ExtProcPort,
}

impl Subject {
    fn check(&self, service: &str) -> Result<ServingStatus, Status> {
        match self {
            Subject::Picker { election, flags } => Ok(status(*election, *flags.borrow(), service)),
            Subject::ExtProcPort if service.is_empty() || service == EXT_PROC => Ok(ServingStatus::Serving),
            Subject::ExtProcPort => Err(Status::not_found("unknown service")),
        }
    }

    fn names(&self) -> &'static [&'static str] {
        match self {
            Subject::Picker { election: true, .. } => &[LIVENESS, READINESS, EXT_PROC],
            Subject::Picker { .. } => &[EXT_PROC],
            Subject::ExtProcPort => &["", EXT_PROC],
        }
    }
}

/// The answer of List: the published types of the health protocol stop short of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthListResponse {
    /// Status by service.
    #[prost(map = "string, message", tag = "1")]
    pub statuses: HashMap<String, HealthCheckResponse>,
}

/// The request of List.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct HealthListRequest {}

/// `grpc.health.v1.Health` as a tower service. Clone it for every server that carries it.
#[derive(Clone, Debug)]
pub struct HealthService {
    subject: Subject,
    published: HealthServer<Answers>,
}

/// The calls of the published protocol.
#[derive(Clone, Debug)]
struct Answers {
    subject: Subject,
    watches: Arc<Semaphore>,
}

impl HealthService {
    /// The service that follows `state`.
    pub fn new(state: &HealthState) -> Self {
        HealthService::of(Subject::Picker {
            election: state.election,
            flags: state.flags.subscribe(),
        })
    }

    /// The service for the ext_proc port itself (`--health-checking`).
    pub fn for_ext_proc_port() -> Self {
        HealthService::of(Subject::ExtProcPort)
    }

    fn of(subject: Subject) -> Self {
        let answers = Answers {
            subject: subject.clone(),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        };
        let published = HealthServer::new(answers).max_decoding_message_size(MAX_REQUEST_BYTES);
        HealthService { subject, published }
    }
}

impl NamedService for HealthService {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl Service<http::Request<Body>> for HealthService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != "/grpc.health.v1.Health/List" {
            return self.published.call(request);
        }
        let list = List(self.subject.clone());
        Box::pin(async move {
            let mut grpc =
                Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(MAX_REQUEST_BYTES), None);
            Ok(grpc.unary(list, request).await)
        })
    }
}

struct List(Subject);

impl UnaryService<HealthListRequest> for List {
    type Response = HealthListResponse;
    type Future = std::future::Ready<Result<Response<HealthListResponse>, Status>>;

    fn call(&mut self, _: Request<HealthListRequest>) -> Self::Future {
        let statuses = self.0.names().iter().filter_map(|name| {
            let status = self.0.check(name).ok()?;
            Some((name.to_string(), answer(status)))
        });
        let statuses = statuses.collect();
        std::future::ready(Ok(Response::new(HealthListResponse { statuses })))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for Answers {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        let status = self.subject.check(service)?;
        if status == ServingStatus::Serving {
            tracing::trace!(service, "Health asked: serving");
        } else {
            verbose!(
                2,
                service,
                status = status.as_str_name(),
                "Health asked: not serving"
            );
        }
        Ok(Response::new(answer(status)))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let Ok(permit) = self.watches.clone().try_acquire_owned() else {
            let text = format!("too many open watches, the limit is {MAX_WATCHES}: use Check");
            return Err(Status::resource_exhausted(text));
        };
        let statuses = match &self.subject {
            Subject::Picker { election, flags } => follow(*election, flags.clone(), service),
            Subject::ExtProcPort => {
                // The protocol has a watch of an unknown service stay open and say so.
                let status = self
                    .subject
                    .check(&service)
                    .unwrap_or(ServingStatus::ServiceUnknown);
                let once = stream::once(async move { Ok(answer(status)) });
                once.chain(stream::pending()).boxed()
            }
        };
        // The permit is given back with the stream.
        let held = statuses.map(move |status| {
            let _held = &permit;
            status
        });
        Ok(Response::new(held.boxed()))
    }
}

/// The status now and each time it changes, until the state is dropped.
fn follow(
    election: bool,
    flags: watch::Receiver<Flags>,
    service: String,
) -> BoxStream<'static, Result<HealthCheckResponse, Status>> {
    let start = (flags, None, service);
    stream::unfold(start, move |(mut flags, told, service)| async move {
        loop {
            let now = status(election, *flags.borrow_and_update(), &service);
            if told != Some(now) {
                return Some((Ok(answer(now)), (flags, Some(now), service)));
            }
            flags.changed().await.ok()?;
        }
    })
    .boxed()
}

/// The service on one connection of the health port.
struct Connection {
    service: HealthService,
    place: Arc<Place>,
}

impl hyper::service::Service<http::Request<Incoming>> for Connection {
    type Response = http::Response<Counted<Body>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let (mut service, open) = (self.service.clone(), self.place.stream());
        Box::pin(async move {
            let answer = Service::call(&mut service, request.map(Body::new)).await?;
            Ok(answer.map(|body| Counted::new(body, open)))
        })
    }
}

/// What the connections of the health port may take: a newcomer always finds a place, if need be that of the oldest.
pub fn limits(connections: usize) -> Limits {
    Limits {
        connections,
        spare_busy: false,
        begin: HANDSHAKE_TIMEOUT,
        idle: IDLE,
    }
}

/// Serves the health port in plaintext until `stop`; what is open is cut then.
pub async fn serve(
    listener: TcpListener,
    service: HealthService,
    places: Arc<Places>,
    stop: CancellationToken,
) {
    let (to_us, guests) = mpsc::channel(WORKER_BACKLOG);
    let accepting = accept::admit(listener, places.clone(), vec![to_us], stop.clone());
    let serving = Http2::new(None)
        .limited(MAX_STREAMS, PING)
        .serve(guests, move |place| Connection {
            service: service.clone(),
            place,
        });
    tokio::join!(accepting, serving, places.sweep(stop));
}
