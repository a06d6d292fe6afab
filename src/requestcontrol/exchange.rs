//! One exchange: routed, answered, finished exactly once however it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::body::Body;
use crate::model::error::RequestError;
use crate::model::exchange::{Completion, End, Picked};
use crate::model::headers::Headers;
use crate::model::metadata::Metadata;
use crate::model::usage::Usage;
use crate::plugin::{Mutation, ResponseView};
use crate::telemetry::logging::{request_scope, verbose};
use crate::telemetry::metrics::ModelMetrics;
use crate::telemetry::spans::{ExchangeSpan, names};
use crate::wire::usage::UsageWatcher;

use super::director::Director;
use super::engaged::{Engaged, Running};
use super::reach;
use super::record::Ended;
use super::routed::Routed;

/// The error code of a response whose status is 400 or above.
const MODEL_SERVER_ERROR: &str = "ModelServerError";

/// A request from its first header to its last byte. Dropping it counts as the client leaving.
pub struct Exchange {
    director: Arc<Director>,
    received: Instant,
    picked: Picked,
    models: Option<Arc<ModelMetrics>>,
    engaged: Engaged,
    running: Option<Running>,
    error: Option<&'static str>,
    usage: UsageWatcher,
    response_bytes: u64,
    /// The body of this response may be the proxy's own words.
    proxy_reply: bool,
    finished: bool,
    span: ExchangeSpan,
}

impl Exchange {
    /// An exchange that begins now.
    pub fn begin(director: Arc<Director>) -> Self {
        Exchange {
            received: director.clock.now(),
            director,
            picked: Picked::default(),
            models: None,
            engaged: Engaged::default(),
            running: None,
            error: None,
            usage: UsageWatcher::Blind,
            response_bytes: 0,
            proxy_reply: false,
            finished: false,
            span: ExchangeSpan::default(),
        }
    }

    /// Routes a request that has no body.
    ///
    /// # Errors
    /// The rejection the client is to see; it is counted.
    pub fn route_without_body(
        &mut self,
        request: &Headers,
        metadata: &Metadata,
    ) -> Result<Routed, RequestError> {
        self.trace(request);
        let picked = &mut self.picked;
        match self
            .director
            .route_without_body(request, metadata, picked, &mut self.engaged)
        {
            Ok(mut routed) => {
                self.span
                    .set(names::REQUEST_ID, || self.picked.request_id.clone());
                self.span.set(names::ENDPOINT, || routed.destination.to_string());
                routed.hand_on(&self.span);
                Ok(routed)
            }
            Err(e) => Err(self.rejected(e)),
        }
    }

    /// Routes a request with its whole body.
    ///
    /// # Errors
    /// The rejection the client is to see; it is counted.
    pub fn route(
        &mut self,
        request: Headers,
        body: &mut Body,
        metadata: &Metadata,
    ) -> Result<Routed, RequestError> {
        self.trace(&request);
        let (picked, engaged, span) = (&mut self.picked, &mut self.engaged, &mut self.span);
        match self
            .director
            .route(request, body, metadata, (picked, engaged), span)
        {
            Ok(mut routed) => {
                routed.hand_on(&self.span);
                let models = self.models();
                models.accepted(routed.body_len() as u64);
                self.running = Some(Running::begin(models));
                Ok(routed)
            }
            Err(e) => Err(self.rejected(e)),
        }
    }

    /// Begins the span of a request.
    fn trace(&mut self, request: &Headers) {
        let director = &self.director;
        self.span = director
            .tracer
            .exchange(self.received, director.clock.now(), |name| request.get(name));
        self.span.set(names::PATH, || {
            let path = request.get(":path").unwrap_or_default();
            path.split('?').next().unwrap_or_default().to_owned()
        });
    }

    /// Id of the request, once it is known; else empty.
    pub fn request_id(&self) -> &str {
        &self.picked.request_id
    }

    /// Notes a rejection decided by the front end or the director.
    pub fn rejected(&mut self, error: RequestError) -> RequestError {
        self.error = Some(error.code.name());
        self.span
            .set(names::STATUS, || i64::from(error.code.http_status()));
        error
    }

    /// Notes that handling this exchange failed inside.
    pub fn failed(&mut self) {
        self.error.get_or_insert("Unknown");
    }

    /// Response headers arrived. Returns the headers to set.
    pub fn response_headers(&mut self, response: &Headers, metadata: &Metadata) -> Mutation {
        let status = response.get(":status").or_else(|| response.get("status"));
        if status.is_some_and(|s| !s.starts_with(['1', '2', '3'])) {
            self.error.get_or_insert(MODEL_SERVER_ERROR);
        } else if let Some(models) = self
            .models
            .as_ref()
            .filter(|_| status.is_some_and(|s| s.starts_with('2')))
        {
            let (model, target) = (&self.picked.incoming_model, &self.picked.target_model);
            self.director.metrics.served(model, target, models);
        }
        if let (Some(policy), Some(target)) = (self.director.health, &self.picked.target) {
            self.proxy_reply = reach::response_head(target, status, response, metadata, policy);
        }
        if let Some(status) = status.and_then(|s| s.parse::<i64>().ok()) {
            self.span.set(names::STATUS, || status);
        }
        self.usage =
            UsageWatcher::for_content(response.get("content-type"), response.get("content-encoding"));
        let _lines = request_scope(&self.picked.request_id);
        let mut mutation = Mutation::default();
        let view = ResponseView {
            picked: &self.picked,
            metadata,
        };
        for (plugin, timer) in &self.director.response_headers {
            let started = Instant::now();
            plugin.response_headers(&view, &mut mutation);
            timer.observe(started.elapsed());
        }
        mutation
    }

    /// Response body bytes went by.
    pub fn response_chunk(&mut self, chunk: &[u8]) {
        self.response_bytes += chunk.len() as u64;
        self.usage.push(chunk);
        if self.proxy_reply && !chunk.is_empty() {
            self.proxy_reply = false;
            if let (Some(policy), Some(target)) = (self.director.health, &self.picked.target) {
                reach::reply_body(target, chunk, policy);
            }
        }
    }

    /// Bytes of memory held of the response.
    pub fn held(&self) -> usize {
        self.usage.held()
    }

    /// Lets go of what is held of the response; its usage is not counted.
    pub fn forget_usage(&mut self) {
        self.usage = UsageWatcher::Blind;
    }

    /// The exchange is over. Only the first call counts. A client that leaves after the last event of a stream has
    /// everything: such an end is natural.
    pub fn finish(&mut self, end: End) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let _lines = request_scope(&self.picked.request_id);
        let end = match end {
            End::Disconnected if self.error.is_none() && self.usage.complete() => End::Natural,
            End::Disconnected if self.error.is_some() => End::Error,
            end => end,
        };
        let took = self.director.clock.now().saturating_duration_since(self.received);
        let usage = self.count(end, took);
        self.end_span(end, usage);
        verbose!(
            3,
            end = ?end,
            error_code = self.error.unwrap_or_default(),
            response_bytes = self.response_bytes,
            ms = took.as_secs_f64() * 1e3,
            "Request ended"
        );
        self.engaged.left();
        if let (Some(sequence), Some(_)) = (self.picked.decision, &self.picked.target) {
            let ended = Ended {
                end,
                error: self.error,
                took,
                usage,
            };
            self.director.decisions.ended(sequence, ended);
        }
        self.complete_hooks(&Completion {
            end,
            usage,
            response_bytes: self.response_bytes,
        });
    }

    /// Counts the end in the metrics of the model; the usage, if the response told.
    fn count(&mut self, end: End, took: Duration) -> Option<Usage> {
        let streamed = matches!(self.usage, UsageWatcher::Events(_));
        let usage = std::mem::take(&mut self.usage).finish();
        let ran = self.running.take().is_some();
        if let Some(code) = self.error {
            self.models().error(code);
        }
        if end == End::Natural && (self.response_bytes > 0 || ran) {
            let models = self.models();
            models.completed(took, self.response_bytes);
            if let Some(u) = usage {
                // The normalized time per token is that of streams; zero leaves it out.
                let took = if streamed { took } else { Duration::ZERO };
                models.tokens(u.prompt, u.completion, u.cached, took);
            }
        }
        usage
    }

    /// Runs the completion hooks that are due; one that panics does not keep the others from running.
    fn complete_hooks(&self, completion: &Completion) {
        let director = &self.director;
        for hook in director
            .response_complete
            .iter()
            .filter(|h| self.engaged.completes(h.after))
        {
            let started = Instant::now();
            let run = || hook.plugin.response_complete(&self.picked, completion);
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                tracing::error!("A completion hook panicked");
            }
            hook.timer.observe(started.elapsed());
        }
    }

    fn end_span(&mut self, end: End, usage: Option<Usage>) {
        let span = &mut self.span;
        if let Some(code) = self.error {
            span.fail(code);
        }
        if let Some(usage) = usage.filter(|_| span.recording()) {
            let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            span.set(names::INPUT_TOKENS, || whole(usage.prompt));
            span.set(names::OUTPUT_TOKENS, || whole(usage.completion));
            span.set(names::CACHED_TOKENS, || whole(usage.cached));
        }
        span.set(names::RESPONSE_BYTES, || {
            i64::try_from(self.response_bytes).unwrap_or(i64::MAX)
        });
        span.set(names::END, || match end {
            End::Natural => "natural",
            End::Disconnected => "disconnected",
            End::Error => "error",
        });
        span.end();
    }

    fn models(&mut self) -> Arc<ModelMetrics> {
        let (metrics, picked) = (&self.director.metrics, &self.picked);
        self.models
            .get_or_insert_with(|| metrics.model(&picked.incoming_model, &picked.target_model))
            .clone()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish(End::Disconnected);
    }
}
