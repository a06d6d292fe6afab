//! Answers of the metrics port: plain texts, and pages compressed for whoever takes gzip. Called by all of `admin`
//! that speaks HTTP.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;

/// Below this many bytes a page is not worth compressing.
const MIN_COMPRESSED: usize = 1024;

/// Type of plain texts.
const TEXT: &str = "text/plain; charset=utf-8";

/// A short text.
pub fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, TEXT, text.into())
}

/// Any body.
pub fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A page, compressed if `gzip`; `vary` names what the answer depends on.
pub fn page(
    content_type: &'static str,
    body: Vec<u8>,
    gzip: bool,
    vary: &'static str,
) -> Response<Full<Bytes>> {
    let packed = (gzip && body.len() >= MIN_COMPRESSED).then(|| compress(&body));
    let (body, encoded) = match packed {
        Some(Ok(packed)) => (packed, true),
        _ => (body, false),
    };
    let mut response = respond(StatusCode::OK, content_type, body.into());
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static(vary));
    if encoded {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// `body` in gzip, at the fastest level: a page is read once.
///
/// # Errors
/// None: a vector takes all that is written.
pub fn compress(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    gzip.write_all(body)?;
    gzip.finish()
}

/// Does the client take gzip? By name, by the old name, or by `*`; the named one wins over `*`.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut named, mut any) = (None, None);
    let lists = headers.get_all(ACCEPT_ENCODING).iter();
    for coding in lists.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = quality.trim().strip_prefix("q=").unwrap_or("1");
        let wanted = quality.trim().parse::<f32>().is_ok_and(|q| q > 0.0);
        match name.trim() {
            "*" => any = Some(wanted),
            n if n.eq_ignore_ascii_case("gzip") || n.eq_ignore_ascii_case("x-gzip") => named = Some(wanted),
            _ => {}
        }
    }
    named.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let rows = [
            (None, false),
            (Some(""), false),
            (Some("gzip"), true),
            (Some("GZIP"), true),
            (Some("x-gzip"), true),
            (Some("deflate, gzip;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.0, *"), false),
            (Some("*"), true),
            (Some("*;q=0"), false),
            (Some("br, identity"), false),
            (Some("gzip;q=much"), false),
        ];
        for (accepted, expected) in rows {
            let mut headers = HeaderMap::new();
            if let Some(value) = accepted {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(takes_gzip(&headers), expected, "{accepted:?}");
        }
    }
}
