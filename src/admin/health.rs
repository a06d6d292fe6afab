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
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
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
use crate::net::incoming::{HANDSHAKE_TIMEOUT, incoming};
use crate::telemetry::logging::verbose;

/// The service Envoy calls.
pub const EXT_PROC: &str = "envoy.service.ext_proc.v3.ExternalProcessor";

const LIVENESS: &str = "liveness";
const READINESS: &str = "readiness";

/// Longest service name a probe may send, generously.
const MAX_REQUEST_BYTES: usize = 4096;

/// Streams of one connection to the health port.
const MAX_STREAMS: u32 = 64;

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
    published: HealthServer<Subject>,
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
        let published = HealthServer::new(subject.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
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
impl Health for Subject {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        let status = Subject::check(self, service)?;
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
        Ok(Response::new(match self {
            Subject::Picker { election, flags } => follow(*election, flags.clone(), service),
            Subject::ExtProcPort => {
                // The protocol has a watch of an unknown service stay open and say so.
                let status = Subject::check(self, &service).unwrap_or(ServingStatus::ServiceUnknown);
                let once = stream::once(async move { Ok(answer(status)) });
                once.chain(stream::pending()).boxed()
            }
        }))
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

/// Serves the health port in plaintext until `stop`, then lets what is open end; the caller bounds that.
///
/// # Errors
/// When the transport cannot be set up.
pub async fn serve(
    listener: TcpListener,
    service: HealthService,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (to_us, sockets) = mpsc::channel(WORKER_BACKLOG);
    let accepting = accept::run(listener, vec![to_us], stop.clone());
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .serve_with_incoming_shutdown(
            service,
            incoming(sockets, None, HANDSHAKE_TIMEOUT),
            stop.cancelled_owned(),
        );
    let ((), served) = tokio::join!(accepting, serving);
    served
}
