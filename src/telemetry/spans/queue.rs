//! The way of an ended span: a bounded queue that never makes anybody wait, and the loop of the thread that empties
//! it. The loop looks at the queue at intervals, so that putting a span in wakes nobody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::metrics::Metrics;

use super::TracingSettings;

/// Longest time between two looks at the queue.
const LOOK: Duration = Duration::from_millis(100);

/// The end of the queue that spans go into.
pub struct Entrance {
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entrance")
    }
}

impl SpanProcessor for Entrance {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.metrics.spans_dropped(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The end of the queue that spans are sent from.
pub struct Outlet<E> {
    spans: mpsc::Receiver<SpanData>,
    exporter: E,
    metrics: Arc<Metrics>,
    settings: TracingSettings,
    /// Was the last batch lost?
    failing: bool,
}

/// A queue in front of `exporter`.
pub fn queue<E: SpanExporter>(
    mut exporter: E,
    resource: &Resource,
    metrics: &Arc<Metrics>,
    settings: &TracingSettings,
) -> (Entrance, Outlet<E>) {
    exporter.set_resource(resource);
    let (send, spans) = mpsc::channel(settings.queue);
    let entrance = Entrance {
        spans: send,
        metrics: metrics.clone(),
    };
    let outlet = Outlet {
        spans,
        exporter,
        metrics: metrics.clone(),
        settings: settings.clone(),
        failing: false,
    };
    (entrance, outlet)
}

impl<E: SpanExporter> Outlet<E> {
    /// Sends until `stop`, then what is left.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        let mut oldest = Instant::now();
        loop {
            let stopped = tokio::select! {
                _ = &mut stop => true,
                () = sleep(self.settings.delay.min(LOOK)) => false,
            };
            while let Ok(span) = self.spans.try_recv() {
                if batch.is_empty() {
                    oldest = Instant::now();
                }
                batch.push(span);
                if batch.len() >= self.settings.batch {
                    self.send(&mut batch).await;
                }
            }
            if !batch.is_empty() && (stopped || oldest.elapsed() + LOOK >= self.settings.delay) {
                self.send(&mut batch).await;
            }
            if stopped {
                return;
            }
        }
    }

    async fn send(&mut self, batch: &mut Vec<SpanData>) {
        let spans = std::mem::take(batch);
        let count = spans.len() as u64;
        let sent = timeout(self.settings.timeout, self.exporter.export(spans)).await;
        let error = match sent {
            Ok(Ok(())) => {
                self.metrics.spans_exported(count);
                if std::mem::replace(&mut self.failing, false) {
                    tracing::info!("The collector takes spans again");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.settings.timeout),
        };
        self.metrics.spans_failed(count);
        // Said once until it works again; the metrics count on.
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                error,
                "Spans cannot be sent to the collector: they are dropped, requests go on"
            );
        }
    }
}
