//! The roles around a decision: before the request goes on, on response headers, at the end, on departure.

use crate::model::endpoint::Endpoint;
use crate::model::exchange::{Completion, Picked};
use crate::model::metadata::Metadata;

use super::{Cycle, Decision};

/// Header changes a plugin asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutation {
    /// Headers to set (overwriting).
    pub set: Vec<(String, String)>,
    /// Headers to remove if the client sent them.
    pub remove: Vec<String>,
}

/// Runs after the pick and before the request goes on; cannot fail, must not block.
pub trait PreRequest: Send + Sync {
    /// Sees the decision; may change request headers.
    fn pre_request(&self, cycle: &Cycle<'_>, decision: &Decision, mutation: &mut Mutation);
}

/// What a response hook sees of the response's headers.
#[derive(Debug)]
pub struct ResponseView<'a> {
    /// The request this answers.
    pub picked: &'a Picked,
    /// The proxy's metadata in force.
    pub metadata: &'a Metadata,
}

/// Runs when the response headers arrive.
pub trait ResponseHeaders: Send + Sync {
    /// May set response headers.
    fn response_headers(&self, response: &ResponseView<'_>, mutation: &mut Mutation);
}

/// Runs once at the end of an exchange that was routed, however it ends. Of a plugin that is also a [`PreRequest`] it runs
/// exactly where that hook has run to its end: not for a request without a body, nor where a hook before it panicked.
pub trait ResponseComplete: Send + Sync {
    /// Sees the request and how it ended.
    fn response_complete(&self, picked: &Picked, completion: &Completion);
}

/// Hears of endpoints that leave the fleet, so that what is kept per endpoint can be dropped.
pub trait EndpointObserver: Send + Sync {
    /// `endpoint` is gone; its slot will be reused.
    fn endpoint_removed(&self, endpoint: &Endpoint);
}
