//! Answers of the state machine, written into the outbox: routed headers, rejections.

use bytes::Bytes;

use crate::model::error::RequestError;
use crate::model::headers;
use crate::plugin::Mutation;
use crate::requestcontrol::Routed;
use crate::wire::ext_proc::{self, HeaderChanges, Outbox, Side};

/// Runs `f` with the header changes of `routed`, the destination first.
fn with_changes<R>(routed: &Routed, f: impl FnOnce(HeaderChanges<'_>) -> R) -> R {
    let mut set: Vec<(&str, &[u8])> = Vec::with_capacity(routed.set.len() + 1);
    set.push((headers::DESTINATION, routed.destination.as_bytes()));
    set.extend(routed.set.iter().map(|(name, value)| (&**name, value.as_bytes())));
    let remove: Vec<&str> = routed.remove.iter().map(|n| &**n).collect();
    f(HeaderChanges {
        set: &set,
        remove: &remove,
    })
}

/// The request goes on to its destination.
pub fn routed_headers(out: &mut Outbox, routed: &Routed) {
    with_changes(routed, |changes| {
        ext_proc::request_headers(out.buffer(), changes, Some(routed.with_fallbacks()));
    });
}

/// The body of a routed request, in full duplex mode. `end` marks its last piece.
pub fn routed_body(out: &mut Outbox, routed: &Routed, end: bool) {
    let slices = &routed.body;
    let Some((last, first)) = slices.split_last() else {
        return out.streamed_body(Side::Request, &Bytes::new(), end);
    };
    for slice in first {
        out.streamed_body(Side::Request, slice, false);
    }
    out.streamed_body(Side::Request, last, end);
}

/// A routed request whose body Envoy holds in its buffer.
pub fn routed_buffered(out: &mut Outbox, routed: &Routed) {
    let body = routed.body_changed.then(|| routed.body.concat());
    with_changes(routed, |changes| {
        ext_proc::buffered_request_body(out.buffer(), changes, routed.with_fallbacks(), body.as_deref());
    });
}

/// The response goes on, marked as having gone through us.
pub fn response_headers(out: &mut Outbox, mutation: &Mutation) {
    let mut set: Vec<(&str, &[u8])> = Vec::with_capacity(mutation.set.len() + 1);
    set.push((headers::WENT_INTO_RESPONSE, b"true"));
    set.extend(
        mutation
            .set
            .iter()
            .map(|(name, value)| (&**name, value.as_bytes())),
    );
    let remove: Vec<&str> = mutation.remove.iter().map(|n| &**n).collect();
    ext_proc::response_headers(
        out.buffer(),
        HeaderChanges {
            set: &set,
            remove: &remove,
        },
    );
}

/// The client is told why its request goes nowhere.
pub fn rejection(out: &mut Outbox, error: &RequestError) {
    let reason = error.reason.map(|r| (headers::DROP_REASON, r.name().as_bytes()));
    let set: Vec<(&str, &[u8])> = reason.into_iter().collect();
    let changes = HeaderChanges {
        set: &set,
        remove: &[],
    };
    ext_proc::immediate(
        out.buffer(),
        error.code.http_status(),
        changes,
        error.to_string().as_bytes(),
    );
}
