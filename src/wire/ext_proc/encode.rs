//! Writing a `ProcessingResponse`, framed for gRPC. Called by the state machine for every answer but bodies in
//! full duplex mode, which the [`super::Outbox`] writes.

use super::Side;
use crate::model::headers::{DESTINATION, LB_NAMESPACE};
use crate::wire::protobuf::{put_bytes, put_message, put_number};

/// Header changes of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderChanges<'a> {
    /// Headers to set, overwriting.
    pub set: &'a [(&'a str, &'a [u8])],
    /// Headers to remove.
    pub remove: &'a [&'a str],
}

fn put_changes(out: &mut Vec<u8>, changes: HeaderChanges<'_>) {
    for (name, value) in changes.set {
        put_message(out, 1, |o| {
            put_message(o, 1, |o| {
                put_bytes(o, 1, name.as_bytes());
                put_bytes(o, 3, value);
            });
        });
    }
    for name in changes.remove {
        put_bytes(out, 2, name.as_bytes());
    }
}

/// The destination as dynamic metadata: `{"envoy.lb": {"x-gateway-destination-endpoint": destination}}`.
fn put_destination_metadata(out: &mut Vec<u8>, destination: &str) {
    let entry = |o: &mut Vec<u8>, key: &str, value: &dyn Fn(&mut Vec<u8>)| {
        put_message(o, 1, |o| {
            put_bytes(o, 1, key.as_bytes());
            put_message(o, 2, value);
        });
    };
    put_message(out, 8, |o| {
        entry(o, LB_NAMESPACE, &|o| {
            put_message(o, 5, |o| {
                entry(o, DESTINATION, &|o| put_bytes(o, 3, destination.as_bytes()))
            });
        });
    });
}

/// Starts a gRPC frame, runs `write` for the message, and fills in the frame's length.
fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 5]);
    write(out);
    let len = u32::try_from(out.len() - start - 5).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
}

/// Answers request headers: the destination, in header and metadata, and the other changes.
pub fn request_headers(out: &mut Vec<u8>, changes: HeaderChanges<'_>, destination: Option<&str>) {
    frame(out, |o| {
        put_message(o, 1, |o| {
            put_message(o, 1, |o| routed(o, changes, destination, |_| {}))
        });
        if let Some(d) = destination {
            put_destination_metadata(o, d);
        }
    });
}

/// Answers a buffered request body: routing travels with the body. `body` replaces it, when changed.
pub fn buffered_request_body(
    out: &mut Vec<u8>,
    changes: HeaderChanges<'_>,
    destination: &str,
    body: Option<&[u8]>,
) {
    frame(out, |o| {
        put_message(o, 3, |o| {
            put_message(o, 1, |o| {
                routed(o, changes, Some(destination), |o| {
                    if let Some(body) = body {
                        put_message(o, 3, |o| put_bytes(o, 1, body));
                    }
                });
            });
        });
        put_destination_metadata(o, destination);
    });
}

fn routed(
    out: &mut Vec<u8>,
    changes: HeaderChanges<'_>,
    destination: Option<&str>,
    body: impl FnOnce(&mut Vec<u8>),
) {
    if !changes.set.is_empty() || !changes.remove.is_empty() {
        put_message(out, 2, |o| put_changes(o, changes));
    }
    body(out);
    if destination.is_some() {
        put_number(out, 5, 1);
    }
}

/// Answers response headers.
pub fn response_headers(out: &mut Vec<u8>, changes: HeaderChanges<'_>) {
    frame(out, |o| {
        put_message(o, 2, |o| {
            put_message(o, 1, |o| put_message(o, 2, |o| put_changes(o, changes)))
        });
    });
}

/// Answers a body message of a mode other than full duplex: go on, unchanged.
pub fn unchanged_body(out: &mut Vec<u8>, side: Side) {
    frame(out, |o| {
        put_message(o, body_field(side), |o| put_message(o, 1, |_| {}))
    });
}

/// Answers trailers: go on, unchanged.
pub fn trailers(out: &mut Vec<u8>, side: Side) {
    let field = if side == Side::Request { 5 } else { 6 };
    frame(out, |o| put_message(o, field, |_| {}));
}

/// Answers the exchange itself: `status` and `body` go to the client and the upstream is not asked.
pub fn immediate(out: &mut Vec<u8>, status: u16, changes: HeaderChanges<'_>, body: &[u8]) {
    frame(out, |o| {
        put_message(o, 7, |o| {
            put_message(o, 1, |o| put_number(o, 1, u64::from(status)));
            if !changes.set.is_empty() {
                put_message(o, 2, |o| put_changes(o, changes));
            }
            put_bytes(o, 3, body);
        });
    });
}

pub(super) fn body_field(side: Side) -> u8 {
    if side == Side::Request { 3 } else { 4 }
}
