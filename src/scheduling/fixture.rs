//! A small fleet and request for the unit tests of this floor.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::base::clock::Clock;
use crate::model::endpoint::{Endpoint, EndpointSpec};
use crate::model::endpoint_list::EndpointList;
use crate::model::prompt::Prompt;
use crate::model::request::InferenceRequest;
use crate::model::sample::Signals;
use crate::plugin::{Context, Cycle, Params, PluginType, PrefixState, Roles, Scorer};
use crate::telemetry::metrics::Metrics;

pub(crate) struct Fixture {
    pub request: InferenceRequest,
    pub endpoints: EndpointList,
    pub signals: Vec<Signals>,
    pub prefix: RefCell<PrefixState>,
    now: Instant,
}

impl Fixture {
    /// One endpoint per entry of `signals`, at 10.0.0.1:8000, 10.0.0.2:8000, …; slots and ids count up.
    pub fn new(signals: Vec<Signals>) -> Self {
        let endpoints = (0..signals.len()).map(|i| Arc::new(endpoint(i))).collect();
        Fixture {
            request: InferenceRequest {
                id: "r1".into(),
                target_model: "m".into(),
                ..InferenceRequest::default()
            },
            endpoints,
            signals,
            prefix: RefCell::default(),
            now: Instant::now(),
        }
    }

    /// `n` endpoints without load.
    pub fn idle(n: usize) -> Self {
        Fixture::new(vec![Signals::default(); n])
    }

    /// The same with `prompt` as the request's text, in one slice.
    pub fn with_prompt(mut self, prompt: &[u8]) -> Self {
        self.request.prompt = Prompt {
            bytes: Bytes::copy_from_slice(prompt),
            segments: std::iter::once(0..prompt.len()).collect(),
            cache_salt: 0..0,
        };
        self
    }

    pub fn cycle(&self) -> Cycle<'_> {
        Cycle {
            request: &self.request,
            endpoints: &self.endpoints,
            signals: &self.signals,
            avoided: &[],
            now: self.now,
            prefix: &self.prefix,
        }
    }

    /// The scores of `scorer` over all endpoints.
    pub fn score(&self, scorer: &dyn Scorer) -> Vec<f32> {
        let candidates: Vec<u32> = (0..).take(self.endpoints.len()).collect();
        let mut out = vec![0.0; candidates.len()];
        scorer.score(&self.cycle(), &candidates, &mut out);
        out
    }
}

fn endpoint(i: usize) -> Endpoint {
    let n = u8::try_from(i + 1).unwrap();
    let spec = EndpointSpec {
        namespace: "default".into(),
        name: format!("e{i}"),
        address: ([10, 0, 0, n], 8000).into(),
        metrics_address: None,
        metrics_path: None,
        labels: BTreeMap::new(),
    };
    Endpoint::new(spec, u64::from(n), u32::from(n - 1))
}

pub(crate) fn context(name: &str) -> Context {
    Context {
        name: name.into(),
        metrics: Arc::new(Metrics::default()),
        clock: Clock::manual(),
    }
}

pub(crate) fn params(json: &str) -> Params {
    Params::new(Some(serde_json::from_str(json).unwrap()))
}

/// The roles of a `plugin` made with `json` as parameters.
pub(crate) fn make(plugin: &PluginType, json: &str) -> Roles {
    (plugin.make)(&context(plugin.name), &params(json)).unwrap()
}
