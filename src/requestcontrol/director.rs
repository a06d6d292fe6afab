//! The director: parse, rewrite, objective, admission, candidates, schedule, pre-request: in the order of
//! request.md §4.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use crate::base::clock::Clock;
use crate::datastore::{Datastore, Fleet};
use crate::model::body::Body;
use crate::model::endpoint_list::EndpointList;
use crate::model::error::{Code, DropReason, RequestError};
use crate::model::exchange::Picked;
use crate::model::headers::{self, Headers};
use crate::model::health::HealthPolicy;
use crate::model::metadata::Metadata;
use crate::model::request::InferenceRequest;
use crate::model::sample::Signals;
use crate::plugin::{Cycle, Mutation, PluginInstance, PreRequest, ResponseComplete, ResponseHeaders};
use crate::saturation::UtilizationDetector;
use crate::scheduling::{PluginTimers, Scheduler};
use crate::telemetry::logging::{request_scope, verbose};
use crate::telemetry::metrics::{Metrics, PluginTimer};
use crate::telemetry::spans::{ExchangeSpan, Tracer};
use crate::wire::openai::{self, JsonError};

use super::avoid::Avoided;
use super::draw;
use super::engaged::Engaged;
use super::kept::Numbers;
use super::plan::Plan;
use super::record::{DecisionRing, Entry, Made};
use super::routed::{Routed, destination, fallbacks};
use super::subset::Subset;
use super::trace::{self, Stages};
use super::workspace::{self, Workspace};

/// What a director is made of.
pub struct DirectorParts {
    /// The pool.
    pub datastore: Arc<Datastore>,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// All plugin instances; those with request or response hooks are called in this order.
    pub plugins: Vec<PluginInstance>,
    /// Tells when the pool is full.
    pub detector: UtilizationDetector,
    /// Where decisions are recorded.
    pub decisions: Arc<DecisionRing>,
    /// Where to record.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
    /// Ignore subset hints (`--disable-endpoint-subset-filter`).
    pub ignore_subset: bool,
    /// How the health of endpoints is judged; `None` uses all endpoints alike (`--endpoint-health=off`).
    pub health: Option<HealthPolicy>,
    /// Endpoints named after the picked one for retries, at most (`--fallback-endpoints`).
    pub fallbacks: usize,
    /// Records exchanges.
    pub tracer: Tracer,
}

/// Routes requests. Immutable; share it in an `Arc`.
pub struct Director {
    datastore: Arc<Datastore>,
    scheduler: Scheduler,
    timers: PluginTimers,
    plan: Arc<Plan>,
    detector: UtilizationDetector,
    pub(super) decisions: Arc<DecisionRing>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    ignore_subset: bool,
    pub(super) health: Option<HealthPolicy>,
    fallbacks: usize,
    pub(super) tracer: Tracer,
    pre_request: Vec<(Arc<dyn PreRequest>, PluginTimer)>,
    pub(super) response_headers: Vec<(Arc<dyn ResponseHeaders>, PluginTimer)>,
    pub(super) response_complete: Vec<CompleteHook>,
}

/// A completion hook.
pub(super) struct CompleteHook {
    pub plugin: Arc<dyn ResponseComplete>,
    pub timer: PluginTimer,
    /// Position of the same plugin's pre-request hook, if it has one.
    pub after: Option<usize>,
}

impl Director {
    /// A director over `parts`.
    pub fn new(parts: DirectorParts) -> Self {
        let DirectorParts {
            datastore,
            scheduler,
            plugins,
            detector,
            decisions,
            metrics,
            clock,
            ignore_subset,
            health,
            fallbacks,
            tracer,
        } = parts;
        let timer = |point: &str, p: &PluginInstance| metrics.plugin_timer(point, p.type_name, &p.name);
        let pre_request = plugins
            .iter()
            .filter_map(|p| Some((p.roles.pre_request.clone()?, timer("PreRequest", p))));
        let response_headers = plugins
            .iter()
            .filter_map(|p| Some((p.roles.response_headers.clone()?, timer("ResponseReceived", p))));
        let mut begun = 0..;
        let response_complete = plugins.iter().filter_map(|p| {
            let after = p.roles.pre_request.as_ref().and_then(|_| begun.next());
            Some(CompleteHook {
                plugin: p.roles.response_complete.clone()?,
                timer: timer("ResponseComplete", p),
                after,
            })
        });
        Director {
            pre_request: pre_request.collect(),
            response_headers: response_headers.collect(),
            response_complete: response_complete.collect(),
            plan: Arc::new(Plan::new(&scheduler, &plugins)),
            timers: PluginTimers::new(&scheduler, &metrics, clock.clone()),
            datastore,
            scheduler,
            detector,
            decisions,
            metrics,
            clock,
            ignore_subset,
            health,
            fallbacks,
            tracer,
        }
    }

    /// What this director decides with.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Routes a request that has no body: a uniformly random endpoint, inside the subset (decision 16).
    ///
    /// # Errors
    /// 500 when the pool is empty, 503 when the subset is.
    pub(super) fn route_without_body(
        &self,
        request: &Headers,
        metadata: &Metadata,
        picked: &mut Picked,
        engaged: &mut Engaged,
    ) -> Result<Routed, RequestError> {
        let fleet = self.datastore.fleet();
        if fleet.endpoints.is_empty() {
            return Err(RequestError::new(
                Code::Internal,
                "no pods available in datastore",
            ));
        }
        let seed = draw::seed();
        let target = workspace::with(|w| {
            let hinted = self.hinted(metadata);
            let candidates = self.candidates(&fleet, metadata, &mut w.subset);
            if candidates.is_empty() {
                return Err(no_candidates());
            }
            let avoided = self.avoided(&fleet, candidates, hinted, &mut w.avoided);
            let left = candidates.len() - avoided.len();
            let chosen = nth_other(draw::endpoint(seed, left), avoided);
            Ok(candidates[chosen].clone())
        });
        let (request_id, generated) = request_id(request);
        let decision = self.record(&Entry {
            at: self.clock.now(),
            seed,
            request_id: &request_id,
            incoming_model: "",
            target_model: "",
            priority: 0,
            fleet: &fleet,
            plan: &self.plan,
            hinted: self.hinted(metadata),
            scheduled: false,
            outcome: target.as_ref().map(Some),
        });
        let target = target?;
        let id = generated.then_some(&*request_id);
        let routed = Routed::new(target.authority.clone(), request, id);
        engaged.begin(&target);
        *picked = Picked {
            request_id,
            target: Some(target),
            decision,
            ..Picked::default()
        };
        Ok(routed)
    }

    /// Routes a request with its whole body; lines written meanwhile carry its id. `picked` is filled as far as the request was understood, also
    /// when it is rejected, so that errors are counted under the right model; `engaged` as far as things were begun, also when a hook panics.
    ///
    /// # Errors
    /// The rejection the client is to see.
    pub(super) fn route(
        &self,
        request_headers: Headers,
        body: &mut Body,
        metadata: &Metadata,
        (picked, engaged): (&mut Picked, &mut Engaged),
        span: &mut ExchangeSpan,
    ) -> Result<Routed, RequestError> {
        let (id, generated) = request_id(&request_headers);
        let _lines = request_scope(&id);
        picked.request_id.clone_from(&id);
        let routed = self.understand(
            request_headers,
            body,
            metadata,
            (id, generated),
            (picked, engaged),
            span,
        );
        match &routed {
            Ok(routed) => verbose!(
                3,
                model = picked.incoming_model,
                target_model = picked.target_model,
                priority = picked.priority,
                destination = &*routed.destination,
                "Request picked"
            ),
            Err(error) => verbose!(
                2,
                code = error.code.name(),
                model = picked.incoming_model,
                error = %error,
                "Request rejected"
            ),
        }
        routed
    }

    fn understand(
        &self,
        request_headers: Headers,
        body: &mut Body,
        metadata: &Metadata,
        (id, generated): (String, bool),
        (picked, engaged): (&mut Picked, &mut Engaged),
        span: &mut ExchangeSpan,
    ) -> Result<Routed, RequestError> {
        let bytes = body.contiguous();
        let path = headers::PATHS
            .iter()
            .find_map(|n| request_headers.get(n).filter(|p| !p.is_empty()));
        let api = openai::api_of_path(path.unwrap_or("/v1/completions"));
        let parsed = openai::parse(&bytes, api).map_err(unreadable)?;
        let openai::Model {
            name: incoming_model,
            places,
        } = parsed
            .model
            .map_err(|e| RequestError::new(Code::BadRequest, e.to_string()))?;
        let seed = draw::seed();
        let target_model = self.target_model(&incoming_model, &request_headers, seed)?;
        let changed = target_model != incoming_model || places.ambiguous();
        picked.incoming_model.clone_from(&incoming_model);
        picked.target_model.clone_from(&target_model);
        let prompt = parsed.prompt.map_err(|text| {
            let inner = RequestError::new(Code::BadRequest, text);
            RequestError::new(
                Code::BadRequest,
                format!("failed to extract request data: {inner}"),
            )
        })?;

        let fairness = request_headers
            .first_of(&headers::FAIRNESS_ID)
            .filter(|f| !f.is_empty());
        let objective = request_headers.first_of(&headers::OBJECTIVE);
        let named = objective.filter(|_| span.recording()).map(str::to_owned);
        let request = InferenceRequest {
            fairness_id: fairness.unwrap_or(headers::DEFAULT_FAIRNESS_ID).to_owned(),
            priority: objective.map_or(0, |o| self.datastore.objectives().priority(o)),
            headers: request_headers,
            size: bytes.len(),
            streaming: parsed.streaming,
            id,
            api,
            incoming_model,
            target_model,
            prompt,
        };
        trace::request(span, &request, named.as_deref());
        let mut routed = self.schedule(&request, metadata, (generated, seed), (picked, engaged), span)?;
        if changed {
            routed.body = openai::splice_model(&bytes, &places, &request.target_model);
            routed.body_changed = true;
        } else {
            routed.body = vec![bytes];
        }
        routed
            .set
            .push((Cow::Borrowed("Content-Length"), routed.body_len().to_string()));
        picked.fairness_id = request.fairness_id;
        picked.priority = request.priority;
        Ok(routed)
    }

    /// The client's choice by header, or its model; a rewrite rule overrides both.
    fn target_model(&self, incoming: &str, request: &Headers, seed: u64) -> Result<String, RequestError> {
        let rewrites = self.datastore.rewrites();
        let Some(hit) = rewrites.find(incoming) else {
            let chosen = request
                .first_of(&headers::MODEL_REWRITE)
                .filter(|m| !m.is_empty());
            let chosen = chosen.unwrap_or(incoming);
            if chosen.len() > openai::MAX_MODEL_BYTES {
                let text = format!(
                    "model name in header {} is longer than {} bytes",
                    headers::MODEL_REWRITE[0],
                    openai::MAX_MODEL_BYTES
                );
                return Err(RequestError::new(Code::BadRequest, text));
            }
            return Ok(chosen.to_owned());
        };
        let target = hit.choose(|n| draw::rewrite(seed, n));
        self.metrics.rewritten(hit.name, incoming, target);
        Ok(target.to_owned())
    }

    fn schedule(
        &self,
        request: &InferenceRequest,
        metadata: &Metadata,
        (generated_id, seed): (bool, u64),
        (picked, engaged): (&mut Picked, &mut Engaged),
        span: &mut ExchangeSpan,
    ) -> Result<Routed, RequestError> {
        let fleet = self.datastore.fleet();
        let now = self.clock.now();
        let mut scheduled = false;
        let outcome = workspace::with(|w| {
            let Workspace {
                subset,
                gathered,
                avoided,
                signals,
                prefix,
                decision,
            } = w;
            let endpoints = self.candidates(&fleet, metadata, subset);
            let signals: &[Signals] = if self.hinted(metadata) {
                signals.extend(endpoints.iter().map(|e| e.signals(&request.target_model)));
                signals
            } else {
                gathered.gather(&fleet, &request.target_model)
            };
            // Legacy admission: only requests below priority 0 can be shed.
            let shed = request.priority < 0 && self.detector.saturation(signals, now) >= 1.0;
            if span.recording() {
                trace::admission(span, (now, self.clock.now()), endpoints.len(), shed);
            }
            if shed {
                let text = "system saturated, sheddable request dropped";
                let error = RequestError::new(Code::InferencePoolResourceExhausted, text);
                return Err(error.dropped(DropReason::Saturated));
            }
            if endpoints.is_empty() {
                return Err(no_candidates());
            }
            let cycle = Cycle {
                request,
                endpoints,
                signals,
                avoided: self.avoided(&fleet, endpoints, self.hinted(metadata), avoided),
                now,
                prefix,
            };
            scheduled = true;
            let started = Instant::now();
            let mut timers = self.timers.observer();
            let outcome = if span.recording() {
                let mut stages = Stages::new(timers, &self.clock);
                let outcome = self
                    .scheduler
                    .schedule_observed(&cycle, seed, decision, &mut stages);
                stages.tell(span, &self.scheduler, &cycle, decision);
                outcome
            } else {
                self.scheduler
                    .schedule_observed(&cycle, seed, decision, &mut timers)
            };
            self.metrics.scheduled(started.elapsed(), outcome.is_ok());
            outcome.map_err(|e| {
                let text = format!("failed to find target pod: {e}");
                RequestError::new(Code::InferencePoolResourceExhausted, text)
            })?;
            let destination = destination(&cycle, decision)?;
            trace::pick(span, &cycle, decision);
            picked.target = decision
                .targets()
                .first()
                .and_then(|i| endpoints.get(*i as usize))
                .cloned();
            if let Some(target) = &picked.target {
                engaged.begin(target);
            }
            let id = generated_id.then_some(&*request.id);
            let mut routed = Routed::new(destination, &request.headers, id);
            routed.fallbacks = fallbacks(&cycle, decision, self.fallbacks);
            let mut mutation = Mutation::default();
            for (plugin, timer) in &self.pre_request {
                let started = Instant::now();
                plugin.pre_request(&cycle, decision, &mut mutation);
                engaged.pre_request_ran();
                timer.observe(started.elapsed());
            }
            routed.apply(mutation, &request.headers);
            Ok(routed)
        });
        picked.decision = self.record(&Entry {
            at: now,
            seed,
            request_id: &request.id,
            incoming_model: &request.incoming_model,
            target_model: &request.target_model,
            priority: request.priority,
            fleet: &fleet,
            plan: &self.plan,
            hinted: self.hinted(metadata),
            scheduled,
            outcome: outcome.as_ref().map(|_| picked.target.as_ref()),
        });
        outcome
    }

    /// Records the decision, with what it was made from.
    fn record(&self, entry: &Entry<'_>) -> Option<u64> {
        workspace::hand_over(|w| {
            let numbers = if entry.hinted {
                Numbers::Subset(&w.signals)
            } else {
                Numbers::Fleet(&mut w.gathered)
            };
            let made = Made {
                subset: &mut w.subset,
                numbers,
                decision: &w.decision,
            };
            self.decisions.record(entry, made)
        })
    }

    /// Is a request confined by the proxy's subset hint?
    fn hinted(&self, metadata: &Metadata) -> bool {
        metadata.subset.is_some() && !self.ignore_subset
    }

    /// Positions of those of `endpoints` that cannot be reached while enough others can.
    fn avoided<'a>(
        &self,
        fleet: &Arc<Fleet>,
        endpoints: &EndpointList,
        hinted: bool,
        avoided: &'a mut Avoided,
    ) -> &'a [u32] {
        match self.health {
            Some(policy) => avoided.of(fleet, endpoints, hinted, policy.panic_percent),
            None => &[],
        }
    }

    /// The endpoints this request may go to: all, or those of the subset hint.
    fn candidates<'a>(
        &self,
        fleet: &'a Fleet,
        metadata: &Metadata,
        subset: &'a mut EndpointList,
    ) -> &'a EndpointList {
        match &metadata.subset {
            Some(entries) if !self.ignore_subset => {
                *subset = Subset::parse(entries.iter().map(String::as_str)).select(&fleet.endpoints);
                subset
            }
            _ => &fleet.endpoints,
        }
    }
}

fn unreadable(error: JsonError) -> RequestError {
    let text = match error {
        JsonError::Malformed => "Error unmarshaling request body".to_owned(),
        _ => format!("Error unmarshaling request body: {error}"),
    };
    RequestError::new(Code::BadRequest, text)
}

/// The index number `n`, from 0, of those that are not in `avoided`, which ascends.
fn nth_other(n: usize, avoided: &[u32]) -> usize {
    avoided
        .iter()
        .fold(n, |at, taken| at + usize::from(*taken as usize <= at))
}

fn no_candidates() -> RequestError {
    RequestError::new(
        Code::ServiceUnavailable,
        "failed to find candidate pods for serving the request",
    )
    .dropped(DropReason::NoEndpoints)
}

/// The request's id, and whether we made it.
fn request_id(request: &Headers) -> (String, bool) {
    match request.get(headers::REQUEST_ID).filter(|id| !id.is_empty()) {
        Some(id) => (id.to_owned(), false),
        None => (uuid::Uuid::new_v4().to_string(), true),
    }
}
