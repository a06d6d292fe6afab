//! An OpenTelemetry collector for tests: takes OTLP over gRPC with the published types, keeps the spans.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::tls::Pair;

/// A span as it arrived; ids in hex.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its name.
    pub name: String,
    /// Trace.
    pub trace: String,
    /// Span.
    pub id: String,
    /// Parent, or empty.
    pub parent: String,
    /// Kind.
    pub kind: SpanKind,
    /// Start and end, nanoseconds since the Unix epoch.
    pub times: (u64, u64),
    /// Status message of a failed span.
    pub failed: Option<String>,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Attributes of the resource as text.
    pub resource: BTreeMap<String, String>,
    /// Name of the instrumentation.
    pub scope: String,
}

/// The collector; ends with its runtime.
#[derive(Clone)]
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Arrived>>>,
}

struct Service(Arc<Mutex<Vec<Arrived>>>);

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|v| v.value) {
        Some(Value::StringValue(s)) => s,
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(Value::DoubleValue(x)) => x.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    list.into_iter().map(|kv| (kv.key, text(kv.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for group in request.into_inner().resource_spans {
            let resource = attributes(group.resource.unwrap_or_default().attributes);
            for scoped in group.scope_spans {
                let scope = scoped.scope.unwrap_or_default().name;
                for span in scoped.spans {
                    let failed = span.status.clone().filter(|s| s.code == 2).map(|s| s.message);
                    self.0.lock().unwrap().push(Arrived {
                        kind: span.kind(),
                        name: span.name,
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        times: (span.start_time_unix_nano, span.end_time_unix_nano),
                        failed,
                        attributes: attributes(span.attributes),
                        resource: resource.clone(),
                        scope: scope.clone(),
                    });
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one.
    pub async fn start() -> Self {
        Self::serve(Server::builder()).await
    }

    async fn serve(mut server: Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let service = TraceServiceServer::new(Service(spans.clone()));
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(server.add_service(service).serve_with_incoming(connections));
        Collector { address, spans }
    }

    /// Starts one that speaks TLS with the certificate of `pair`.
    pub async fn start_tls(pair: &Pair) -> Self {
        let identity = Identity::from_pem(&pair.certificate, &pair.key);
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity));
        Self::serve(server.unwrap()).await
    }

    /// The variables that send spans here at once.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("OTEL_TRACES_EXPORTER", "otlp".into()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_BSP_SCHEDULE_DELAY", "20".into()),
        ]
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Arrived> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits for `n` spans called `name`; those.
    pub async fn named(&self, name: &str, n: usize) -> Vec<Arrived> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found: Vec<Arrived> = self.spans().into_iter().filter(|s| s.name == name).collect();
            if found.len() >= n {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{n} spans {name} in {:?}",
                self.spans()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
