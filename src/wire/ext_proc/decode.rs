//! Reading a `ProcessingRequest`. Called by the session for every message.

use std::ops::Range;

use bytes::Bytes;

use super::{BodyMode, Incoming, Message, Protocol, Side};
use crate::model::headers::{DESTINATION_SERVED, Headers, LB_NAMESPACE, SUBSET, SUBSET_NAMESPACE};
use crate::model::metadata::Metadata;
use crate::wire::protobuf::{Malformed, Reader, Value};

/// Reads one `ProcessingRequest`. Bodies and headers are slices of `bytes`.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode(bytes: &Bytes) -> Result<Incoming, Malformed> {
    let mut incoming = Incoming {
        message: Message::Unknown,
        metadata: None,
        protocol: None,
    };
    let mut fields = Reader::new(bytes, 0..bytes.len());
    while let Some((field, value)) = fields.next()? {
        let Value::Range(range) = value else { continue };
        match field {
            2 => incoming.message = headers(bytes, range, Side::Request)?,
            3 => incoming.message = headers(bytes, range, Side::Response)?,
            4 => incoming.message = body(bytes, range, Side::Request)?,
            5 => incoming.message = body(bytes, range, Side::Response)?,
            6 => incoming.message = Message::Trailers(Side::Request),
            7 => incoming.message = Message::Trailers(Side::Response),
            8 => incoming.metadata = Some(metadata(bytes, range)?),
            11 => incoming.protocol = Some(protocol(bytes, range)?),
            _ => {}
        }
    }
    Ok(incoming)
}

fn headers(bytes: &Bytes, range: Range<usize>, side: Side) -> Result<Message, Malformed> {
    let mut map = Headers::default();
    let mut end = false;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Range(r)) => map = header_map(bytes, r)?,
            (3, Value::Number(n)) => end = n != 0,
            _ => {}
        }
    }
    Ok(Message::Headers(side, map, end))
}

fn header_map(bytes: &Bytes, range: Range<usize>) -> Result<Headers, Malformed> {
    let mut map = Headers::with_capacity(16);
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Range(r)) = (field, value) else {
            continue;
        };
        let (mut name, mut text, mut raw) = (0..0, 0..0, 0..0);
        let mut header = Reader::new(bytes, r);
        while let Some((field, value)) = header.next()? {
            match (field, value) {
                (1, Value::Range(r)) => name = r,
                (2, Value::Range(r)) => text = r,
                (3, Value::Range(r)) => raw = r,
                _ => {}
            }
        }
        let value = if raw.is_empty() { text } else { raw };
        map.push(bytes.slice(name), bytes.slice(value));
    }
    Ok(map)
}

fn body(bytes: &Bytes, range: Range<usize>, side: Side) -> Result<Message, Malformed> {
    let (mut content, mut end) = (0..0, false);
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Range(r)) => content = r,
            (2, Value::Number(n)) => end = n != 0,
            _ => {}
        }
    }
    Ok(Message::Body(side, bytes.slice(content), end))
}

fn protocol(bytes: &[u8], range: Range<usize>) -> Result<Protocol, Malformed> {
    // An absent enum field is its zero value: NONE.
    let mut modes = Protocol {
        request: BodyMode::None,
        response: BodyMode::None,
    };
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Number(n)) => modes.request = BodyMode::from_number(n),
            (2, Value::Number(n)) => modes.response = BodyMode::from_number(n),
            _ => {}
        }
    }
    Ok(modes)
}

fn metadata(bytes: &[u8], range: Range<usize>) -> Result<Metadata, Malformed> {
    let mut out = Metadata::default();
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Range(entry)) = (field, value) else {
            continue;
        };
        let (key, namespace) = map_entry(bytes, entry)?;
        if key == LB_NAMESPACE.as_bytes() {
            out.lb_present = true;
            let served = struct_field(bytes, namespace, DESTINATION_SERVED)?;
            out.served = served.map_or(Ok(None), |v| string_value(bytes, v))?;
        } else if key == SUBSET_NAMESPACE.as_bytes()
            && let Some(list) = struct_field(bytes, namespace, SUBSET)?
        {
            out.subset = string_list(bytes, list)?;
        }
    }
    Ok(out)
}

/// Key and value range of a map entry.
fn map_entry(bytes: &[u8], entry: Range<usize>) -> Result<(&[u8], Range<usize>), Malformed> {
    let (mut key, mut value) = (0..0, 0..0);
    let mut fields = Reader::new(bytes, entry);
    while let Some((field, v)) = fields.next()? {
        match (field, v) {
            (1, Value::Range(r)) => key = r,
            (2, Value::Range(r)) => value = r,
            _ => {}
        }
    }
    Ok((&bytes[key], value))
}

/// The `google.protobuf.Value` under `name` in the struct at `range`.
fn struct_field(bytes: &[u8], range: Range<usize>, name: &str) -> Result<Option<Range<usize>>, Malformed> {
    let mut found = None;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Range(entry)) = (field, value) else {
            continue;
        };
        let (key, value) = map_entry(bytes, entry)?;
        if key == name.as_bytes() {
            found = Some(value);
        }
    }
    Ok(found)
}

fn string_value(bytes: &[u8], range: Range<usize>) -> Result<Option<String>, Malformed> {
    let mut text = None;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        text = match (field, value) {
            (3, Value::Range(r)) => std::str::from_utf8(&bytes[r]).ok().map(str::to_owned),
            _ => None,
        };
    }
    Ok(text)
}

/// The strings of a list value; `None` when the value is no list. Other kinds of entries are left out.
fn string_list(bytes: &[u8], range: Range<usize>) -> Result<Option<Vec<String>>, Malformed> {
    let mut list = None;
    let mut fields = Reader::new(bytes, range);
    while let Some((field, value)) = fields.next()? {
        let (6, Value::Range(r)) = (field, value) else {
            continue;
        };
        let mut strings = Vec::new();
        let mut values = Reader::new(bytes, r);
        while let Some((field, value)) = values.next()? {
            if let (1, Value::Range(r)) = (field, value) {
                strings.extend(string_value(bytes, r)?);
            }
        }
        list = Some(strings);
    }
    Ok(list)
}
