//! A routed request: what the front end has to tell the proxy.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::endpoint::Endpoint;
use crate::model::error::{Code, RequestError};
use crate::model::headers::{self, Headers};
use crate::model::health::Standing;
use crate::plugin::{Cycle, Decision, Mutation};
use crate::telemetry::spans::ExchangeSpan;

/// Where a request goes and what changes on the way.
#[derive(Clone, Debug)]
pub struct Routed {
    /// `ip:port`, or several joined by `,`, best first.
    pub destination: Arc<str>,
    /// The destination followed by endpoints to retry at, as metadata; `None`: the destination alone.
    pub fallbacks: Option<Arc<str>>,
    /// Headers to set beside the destination.
    pub set: Vec<(Cow<'static, str>, String)>,
    /// Headers the client sent and a model server must not see.
    pub remove: Vec<Cow<'static, str>>,
    /// The body to forward: slices of the original, with the model name replaced if it changed.
    pub body: Vec<Bytes>,
    /// Does `body` differ from what came?
    pub body_changed: bool,
}

impl Routed {
    /// A request that goes to `destination` as it came, `request` being its headers.
    pub fn new(destination: Arc<str>, request: &Headers, generated_id: Option<&str>) -> Self {
        let set = generated_id.map(|id| (Cow::Borrowed(headers::REQUEST_ID), id.to_owned()));
        Routed {
            destination,
            fallbacks: None,
            set: set.into_iter().collect(),
            remove: system_owned(request),
            body: Vec::new(),
            body_changed: false,
        }
    }

    /// Takes over the header changes of plugins. What a plugin removes stays removed unless one sets it.
    pub fn apply(&mut self, mutation: Mutation, request: &Headers) {
        for name in mutation.remove {
            if request.get(&name).is_some() && !self.remove.iter().any(|r| *r == name) {
                self.remove.push(name.into());
            }
        }
        for (name, value) in mutation.set {
            self.remove.retain(|r| *r != name);
            self.set.retain(|(n, _)| *n != name);
            self.set.push((name.into(), value));
        }
    }

    /// Hands the trace on to the model server: last, so that it replaces what the client sent.
    pub fn hand_on(&mut self, span: &ExchangeSpan) {
        for (name, value) in span.headers() {
            self.remove.retain(|r| *r != name);
            self.set.retain(|(n, _)| *n != name);
            self.set.push((name.into(), value));
        }
    }

    /// Where the request goes and where it may be retried, `ip:port` joined by `,`, best first: for metadata.
    pub fn with_fallbacks(&self) -> &str {
        self.fallbacks.as_deref().unwrap_or(&self.destination)
    }

    /// Bytes of the body to forward.
    pub fn body_len(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// The system-owned headers among `request`, once each.
fn system_owned(request: &Headers) -> Vec<Cow<'static, str>> {
    let mut found: Vec<Cow<'static, str>> = Vec::new();
    for header in request
        .iter()
        .filter(|h| matches!(h.name.first(), Some(b'x' | b'X')))
    {
        let owned = headers::SYSTEM_OWNED
            .iter()
            .find(|o| header.name.eq_ignore_ascii_case(o.as_bytes()));
        if let Some(name) = owned
            && !found.iter().any(|f| f == name)
        {
            found.push(Cow::Borrowed(name));
        }
    }
    found
}

/// The endpoints of the primary profile as the destination value.
///
/// # Errors
/// The primary profile picked none.
pub fn destination(cycle: &Cycle<'_>, decision: &Decision) -> Result<Arc<str>, RequestError> {
    let authority = |i: &u32| cycle.endpoints.get(*i as usize).map(|e| &e.authority);
    match decision.targets() {
        [one] => authority(one).cloned(),
        several => {
            let joined: Vec<&str> = several.iter().filter_map(authority).map(|a| &**a).collect();
            (!joined.is_empty()).then(|| joined.join(",").into())
        }
    }
    .ok_or_else(|| RequestError::new(Code::Internal, "results must be greater than zero"))
}

/// The destination followed by up to `most` more candidates of the primary profile: those that can be reached first, by
/// descending total, ties in candidate order. `None` where there is none to add.
pub fn fallbacks(cycle: &Cycle<'_>, decision: &Decision, most: usize) -> Option<Arc<str>> {
    if most == 0 {
        return None;
    }
    let profile = decision.profiles.get(decision.primary)?;
    let mut others: Vec<(bool, f32, &Arc<Endpoint>)> = profile
        .candidates
        .iter()
        .zip(&profile.totals)
        .filter(|(at, _)| !profile.picked.contains(at))
        .filter_map(|(at, total)| {
            let endpoint = cycle.endpoints.get(*at as usize)?;
            Some((endpoint.health.standing() != Standing::Healthy, *total, endpoint))
        })
        .collect();
    others.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    if others.is_empty() {
        return None;
    }
    let picked = profile
        .picked
        .iter()
        .filter_map(|at| cycle.endpoints.get(*at as usize));
    let all = picked.chain(others.iter().take(most).map(|o| o.2));
    let all: Vec<&str> = all.map(|e| &*e.authority).collect();
    Some(all.join(",").into())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Instant;

    use super::*;
    use crate::datastore::Datastore;
    use crate::model::endpoint::EndpointSpec;
    use crate::model::health::{Evidence, HealthPolicy};
    use crate::model::request::InferenceRequest;
    use crate::plugin::ProfileDecision;

    #[test]
    fn fallbacks_follow_the_pick_by_score_and_the_unreachable_come_last() {
        let store = Datastore::new("p");
        let spec = |port: u16| EndpointSpec {
            namespace: "n".into(),
            name: format!("e{port}"),
            address: ([10, 0, 0, 1], port).into(),
            metrics_address: None,
            metrics_path: None,
            labels: Default::default(),
        };
        store.set_endpoints((0..5).map(spec).collect());
        let fleet = store.fleet();
        let policy = HealthPolicy::default();
        fleet.endpoints[3]
            .health
            .observe(Evidence::Refused, Instant::now(), policy);
        let cycle = Cycle {
            request: &InferenceRequest::default(),
            endpoints: &fleet.endpoints,
            signals: &[],
            avoided: &[],
            now: Instant::now(),
            prefix: &RefCell::default(),
        };
        let mut profile = ProfileDecision::default();
        (profile.candidates, profile.totals) = (vec![0, 1, 3, 4], vec![1.0, 5.0, 4.0, 3.0]);
        profile.picked = vec![1];
        let decision = Decision {
            profiles: vec![profile],
            ..Decision::default()
        };
        let list = |most| fallbacks(&cycle, &decision, most).map(|l| l.replace("10.0.0.1:", ""));
        assert_eq!(list(0), None);
        assert_eq!(list(1).as_deref(), Some("1,4"));
        assert_eq!(list(9).as_deref(), Some("1,4,0,3"));
    }
}
