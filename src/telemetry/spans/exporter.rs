//! Starts and stops the sending of spans.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::oneshot;

use crate::telemetry::metrics::Metrics;

use super::{Tracer, TracingSettings, queue};

/// Name of the instrumentation, as in the reference.
const SCOPE: &str = "gateway-api-inference-extension";

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The exporter cannot be built.
    #[error(
        "tracing: the OTLP exporter cannot be built: {0}; check OTEL_EXPORTER_OTLP_ENDPOINT, or use --tracing=false"
    )]
    Build(String),
    /// The thread that sends cannot be started.
    #[error("tracing: {0}")]
    Start(#[from] io::Error),
}

/// The thread that sends spans.
#[derive(Debug)]
pub struct Exporter {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts it. The collector need not be there: it is connected to when there is something to send.
    ///
    /// # Errors
    /// The endpoint is not a URL, or no thread can be started.
    pub fn start(
        settings: &TracingSettings,
        version: &'static str,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, Tracer), ExportError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let exporter = {
            let _inside = runtime.enter();
            let builder = SpanExporter::builder().with_tonic();
            if settings.tls {
                // The exporter's own default trusts nobody.
                let trusted = ClientTlsConfig::new().with_native_roots();
                builder.with_tls_config(trusted).build()
            } else {
                builder.build()
            }
        };
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                // Dropping a runtime waits, which must not be done inside another one.
                runtime.shutdown_background();
                return Err(ExportError::Build(error.to_string()));
            }
        };
        let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", version));
        if let Some(name) = settings.service_name {
            resource = resource.with_service_name(name);
        }
        let resource = resource.build();
        let (entrance, outlet) = queue::queue(exporter, &resource, metrics, settings);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(settings.sampler.clone())
            .with_span_processor(entrance)
            .build();
        let ((stop, stopped), (finished, done)) = (oneshot::channel(), oneshot::channel());
        std::thread::Builder::new().name("otlp".into()).spawn(move || {
            runtime.block_on(outlet.run(stopped));
            let _ = finished.send(());
        })?;
        Ok((Exporter { stop, done }, Tracer::new(provider.tracer(SCOPE))))
    }

    /// Sends what is queued and ends, waiting at most `limit`.
    pub async fn stop(self, limit: Duration) {
        let _ = self.stop.send(());
        if tokio::time::timeout(limit, self.done).await.is_err() {
            tracing::warn!(?limit, "The last spans could not be sent in time");
        }
    }
}
