//! Every message against the published types (`envoy-types`): what they write we read, what we write they read.

use bytes::{Buf, Bytes};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use pb::processing_request::Request;
use pb::processing_response::Response;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn read(request: pb::ProcessingRequest) -> Incoming {
    decode(&Bytes::from(request.encode_to_vec())).unwrap()
}

fn of(request: Request) -> pb::ProcessingRequest {
    pb::ProcessingRequest {
        request: Some(request),
        ..Default::default()
    }
}

/// The messages in `out`, decoded by the published types after removing the gRPC frames.
fn written(mut out: Outbox) -> Vec<pb::ProcessingResponse> {
    let mut bytes = Vec::new();
    while let Some(b) = out.pop() {
        bytes.extend_from_slice(&b);
    }
    assert!(out.is_empty());
    let (mut rest, mut messages) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        assert_eq!(rest.get_u8(), 0);
        let len = rest.get_u32() as usize;
        let (message, after) = rest.split_at(len);
        messages.push(pb::ProcessingResponse::decode(message).unwrap());
        rest = after;
    }
    messages
}

fn one(write: impl FnOnce(&mut Vec<u8>)) -> pb::ProcessingResponse {
    let mut out = Outbox::default();
    write(out.buffer());
    let mut all = written(out);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn header(key: &str, value: &str, raw: &[u8]) -> core::HeaderValue {
    core::HeaderValue {
        key: key.into(),
        value: value.into(),
        raw_value: raw.to_vec(),
    }
}

#[test]
fn headers_prefer_the_raw_value() {
    let headers = vec![
        header("a", "text", b"raw"),
        header("b", "text", b""),
        header("c", "", b""),
    ];
    let http = pb::HttpHeaders {
        headers: Some(core::HeaderMap { headers }),
        end_of_stream: true,
        ..Default::default()
    };
    for (side, request) in [
        (Side::Request, Request::RequestHeaders(http.clone())),
        (Side::Response, Request::ResponseHeaders(http)),
    ] {
        let Message::Headers(got, headers, true) = read(of(request)).message else {
            panic!("headers")
        };
        assert_eq!(got, side);
        let pairs: Vec<_> = headers.iter().map(|h| (&h.name[..], &h.value[..])).collect();
        assert_eq!(pairs, [(&b"a"[..], &b"raw"[..]), (b"b", b"text"), (b"c", b"")]);
    }
}

#[test]
fn bodies_trailers_and_modes_are_read() {
    let body = pb::HttpBody {
        body: b"xyz".to_vec(),
        end_of_stream: true,
        ..Default::default()
    };
    let mut request = of(Request::ResponseBody(body));
    request.protocol_config = Some(pb::ProtocolConfiguration {
        request_body_mode: 2,
        response_body_mode: 4,
        ..Default::default()
    });
    let incoming = read(request);
    assert_eq!(
        incoming.protocol,
        Some(Protocol {
            request: BodyMode::Buffered,
            response: BodyMode::FullDuplexStreamed
        })
    );
    assert!(matches!(incoming.message, Message::Body(Side::Response, b, true) if b == "xyz"));
    let trailers = read(of(Request::RequestTrailers(pb::HttpTrailers::default())));
    assert!(matches!(trailers.message, Message::Trailers(Side::Request)));
    assert!(matches!(
        read(pb::ProcessingRequest::default()).message,
        Message::Unknown
    ));
}

fn text(s: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(s.into())),
    }
}

fn with_metadata(namespaces: Vec<(&str, Vec<(&str, Value)>)>) -> Metadata {
    let filter_metadata = namespaces.into_iter().map(|(n, fields)| {
        let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        (n.to_owned(), Struct { fields })
    });
    let mut request = of(Request::RequestBody(pb::HttpBody::default()));
    request.metadata_context = Some(core::Metadata {
        filter_metadata: filter_metadata.collect(),
        ..Default::default()
    });
    read(request).metadata.unwrap()
}

#[test]
fn the_subset_hint_is_a_list_of_strings_or_nothing() {
    let list = |values| Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    };
    let number = Value {
        kind: Some(Kind::NumberValue(3.0)),
    };
    let key = "x-gateway-destination-endpoint-subset";
    let rows: [(Vec<(&str, Value)>, Option<Vec<&str>>); 5] = [
        (
            vec![(key, list(vec![text("10.0.0.1:80"), number.clone(), text("b")]))],
            Some(vec!["10.0.0.1:80", "b"]),
        ),
        (vec![(key, list(vec![]))], Some(vec![])),
        (vec![(key, text("10.0.0.1:80"))], None),
        (vec![("other", list(vec![text("x")]))], None),
        (vec![], None),
    ];
    for (fields, expected) in rows {
        let got = with_metadata(vec![("envoy.lb.subset_hint", fields)]).subset;
        assert_eq!(
            got.as_deref()
                .map(|v| v.iter().map(String::as_str).collect::<Vec<_>>()),
            expected
        );
    }
}

#[test]
fn the_served_endpoint_is_read_from_lb_metadata() {
    let key = "x-gateway-destination-endpoint-served";
    let got = with_metadata(vec![
        ("envoy.lb", vec![(key, text("10.0.0.1:80"))]),
        ("x", vec![]),
    ]);
    assert_eq!(
        (got.lb_present, got.served.as_deref()),
        (true, Some("10.0.0.1:80"))
    );
    let got = with_metadata(vec![("envoy.lb", vec![])]);
    assert_eq!((got.lb_present, got.served), (true, None));
    assert!(!with_metadata(vec![("x", vec![])]).lb_present);
}

fn mutation(common: &pb::CommonResponse) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let m = common.header_mutation.clone().unwrap_or_default();
    let set = m.set_headers.into_iter().map(|o| {
        let h = o.header.unwrap();
        assert!(h.value.is_empty());
        (h.key, h.raw_value)
    });
    (set.collect(), m.remove_headers)
}

const CHANGES: HeaderChanges<'static> = HeaderChanges {
    set: &[("k", b"v")],
    remove: &["gone"],
};

fn expected_changes() -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    (vec![("k".into(), b"v".to_vec())], vec!["gone".into()])
}

fn destination_metadata(response: &pb::ProcessingResponse) -> Option<String> {
    let lb = response.dynamic_metadata.as_ref()?.fields.get("envoy.lb")?;
    let Some(Kind::StructValue(s)) = &lb.kind else {
        return None;
    };
    match &s.fields.get("x-gateway-destination-endpoint")?.kind {
        Some(Kind::StringValue(s)) => Some(s.clone()),
        _ => None,
    }
}

#[test]
fn request_headers_carry_the_destination_in_metadata_too() {
    let response = one(|o| request_headers(o, CHANGES, Some("10.0.0.1:80")));
    assert_eq!(destination_metadata(&response).as_deref(), Some("10.0.0.1:80"));
    let Some(Response::RequestHeaders(h)) = response.response else {
        panic!("request headers")
    };
    let common = h.response.unwrap();
    assert_eq!(mutation(&common), expected_changes());
    assert!(common.clear_route_cache);
    let response = one(|o| request_headers(o, HeaderChanges::default(), None));
    assert!(response.dynamic_metadata.is_none());
    let Some(Response::RequestHeaders(h)) = response.response else {
        panic!("request headers")
    };
    assert_eq!(h.response.unwrap(), pb::CommonResponse::default());
}

#[test]
fn buffered_bodies_travel_with_the_routing() {
    let response = one(|o| buffered_request_body(o, CHANGES, "10.0.0.1:80", Some(b"new")));
    assert_eq!(destination_metadata(&response).as_deref(), Some("10.0.0.1:80"));
    let Some(Response::RequestBody(b)) = response.response else {
        panic!("request body")
    };
    let common = b.response.unwrap();
    assert_eq!(mutation(&common), expected_changes());
    assert!(common.clear_route_cache);
    let body = common.body_mutation.unwrap().mutation.unwrap();
    assert_eq!(body, pb::body_mutation::Mutation::Body(b"new".to_vec()));
}

#[test]
fn response_headers_trailers_and_unchanged_bodies() {
    let Some(Response::ResponseHeaders(h)) = one(|o| response_headers(o, CHANGES)).response else {
        panic!("response headers")
    };
    assert_eq!(mutation(&h.response.unwrap()), expected_changes());
    for side in [Side::Request, Side::Response] {
        let got = one(|o| trailers(o, side)).response;
        let expected = pb::TrailersResponse::default();
        assert_eq!(
            got,
            Some(match side {
                Side::Request => Response::RequestTrailers(expected),
                Side::Response => Response::ResponseTrailers(expected),
            })
        );
        let got = one(|o| unchanged_body(o, side)).response;
        let expected = pb::BodyResponse {
            response: Some(pb::CommonResponse::default()),
        };
        assert_eq!(
            got,
            Some(match side {
                Side::Request => Response::RequestBody(expected),
                Side::Response => Response::ResponseBody(expected),
            })
        );
    }
}

#[test]
fn immediate_responses_carry_status_headers_and_text() {
    let changes = HeaderChanges {
        set: &[("k", b"v")],
        remove: &[],
    };
    let Some(Response::ImmediateResponse(i)) = one(|o| immediate(o, 429, changes, b"full")).response else {
        panic!("immediate")
    };
    assert_eq!((i.status.unwrap().code, &i.body[..]), (429, &b"full"[..]));
    assert_eq!(i.headers.unwrap().set_headers.len(), 1);
}

/// The streamed pieces of a body answer.
fn pieces(out: Outbox, side: Side) -> Vec<(Vec<u8>, bool)> {
    let piece = |r: pb::ProcessingResponse| {
        let body = match (side, r.response) {
            (Side::Request, Some(Response::RequestBody(b)))
            | (Side::Response, Some(Response::ResponseBody(b))) => b,
            other => panic!("{other:?}"),
        };
        match body.response.unwrap().body_mutation.unwrap().mutation.unwrap() {
            pb::body_mutation::Mutation::StreamedResponse(s) => (s.body, s.end_of_stream),
            other => panic!("{other:?}"),
        }
    };
    written(out).into_iter().map(piece).collect()
}

#[test]
fn bodies_are_cut_at_62000_bytes_with_the_end_on_the_last_piece() {
    for (len, expected) in [
        (0, 1),
        (61_000, 1),
        (62_000, 1),
        (62_001, 2),
        (63_000, 2),
        (125_000, 3),
    ] {
        for side in [Side::Request, Side::Response] {
            let body: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut out = Outbox::default();
            out.streamed_body(side, &Bytes::from(body.clone()), true);
            let pieces = pieces(out, side);
            assert_eq!(pieces.len(), expected, "{len}");
            assert_eq!(
                pieces
                    .iter()
                    .map(|p| p.1)
                    .collect::<Vec<_>>()
                    .iter()
                    .filter(|e| **e)
                    .count(),
                1
            );
            assert!(pieces.last().unwrap().1);
            assert_eq!(pieces.into_iter().flat_map(|p| p.0).collect::<Vec<_>>(), body);
        }
    }
    let mut out = Outbox::default();
    out.streamed_body(Side::Request, &Bytes::new(), false);
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn any_run_of_pieces_reads_back(lens in prop::collection::vec((0usize..9000, any::<bool>()), 1..6)) {
        let mut out = Outbox::default();
        let mut expected = Vec::new();
        for (len, end) in lens {
            let body = vec![7u8; len];
            out.streamed_body(Side::Response, &Bytes::from(body.clone()), end);
            if len > 0 || end {
                expected.push((body, end));
            }
        }
        prop_assert_eq!(pieces(out, Side::Response), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = decode(&Bytes::from(bytes));
    }

    #[test]
    fn cut_messages_never_panic(cut in 0usize..400) {
        let headers = (0..10).map(|i| header(&format!("x-{i}"), "value", b"raw")).collect();
        let http = pb::HttpHeaders { headers: Some(core::HeaderMap { headers }), ..Default::default() };
        let mut bytes = of(Request::RequestHeaders(http)).encode_to_vec();
        bytes.truncate(cut);
        let _ = decode(&Bytes::from(bytes));
    }
}
