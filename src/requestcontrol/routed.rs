//! A routed request: what the front end has to tell the proxy.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::error::{Code, RequestError};
use crate::model::headers::{self, Headers};
use crate::plugin::{Cycle, Decision, Mutation};
use crate::telemetry::spans::ExchangeSpan;

/// Where a request goes and what changes on the way.
#[derive(Clone, Debug)]
pub struct Routed {
    /// `ip:port`, or several joined by `,`, best first.
    pub destination: Arc<str>,
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
