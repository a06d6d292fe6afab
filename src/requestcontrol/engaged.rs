//! What an exchange has begun and must end: its place at an endpoint, its place in the running gauge, its hooks.
//! Dropping a guard ends what it began, so that no way of leaving, a panic included, can forget one.

use std::sync::Arc;

use crate::model::endpoint::Endpoint;
use crate::telemetry::metrics::ModelMetrics;

/// A request under way to an endpoint: counted there while this lives.
struct InFlight(Arc<Endpoint>);

impl InFlight {
    fn begin(endpoint: Arc<Endpoint>) -> Self {
        endpoint.traffic.begin();
        InFlight(endpoint)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.traffic.end();
    }
}

/// One running request of a model: counted in its gauge while this lives.
pub struct Running(Arc<ModelMetrics>);

impl Running {
    /// The request runs.
    pub fn begin(models: Arc<ModelMetrics>) -> Self {
        models.running(1);
        Running(models)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running(-1);
    }
}

/// What a pick has set in motion.
#[derive(Default)]
pub struct Engaged {
    in_flight: Option<InFlight>,
    /// A target was picked: completion hooks are due at the end.
    routed: bool,
    /// Pre-request hooks that have run to their end; they run in order.
    pre_requests: usize,
}

impl Engaged {
    /// The request goes to `target`.
    pub fn begin(&mut self, target: &Arc<Endpoint>) {
        self.in_flight = Some(InFlight::begin(target.clone()));
        self.routed = true;
    }

    /// The next pre-request hook has run.
    pub fn pre_request_ran(&mut self) {
        self.pre_requests += 1;
    }

    /// The request is no longer under way.
    pub fn left(&mut self) {
        self.in_flight = None;
    }

    /// Whether a completion hook is due: a plugin that also has pre-request hook number `after` completes what
    /// that hook began, and nothing else; any other plugin sees the end of every routed request.
    pub fn completes(&self, after: Option<usize>) -> bool {
        self.routed && after.is_none_or(|at| at < self.pre_requests)
    }
}
