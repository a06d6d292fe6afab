//! `--log-http`: a line for every request and every answer, with what they carry. Bodies are watched as they pass, not
//! held up; what events say is not logged, nor what lets others in.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Bytes of a body in a line at most.
const SHOWN: usize = 64 << 10;

/// Headers whose values are secrets.
const SECRET: [&str; 6] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
];

/// Hands a request on and logs both ways.
pub async fn both_ways(request: Request, next: Next) -> Response {
    let (head, sent) = request.into_parts();
    let (method, uri, shown) = (head.method.clone(), head.uri.clone(), headers(&head.headers));
    let line = move |body: &str| {
        tracing::info!(%method, requestURI = %uri, headers = shown, body, "HTTP request");
    };
    let request = Request::from_parts(head, watched(sent, line));
    let (head, answer) = next.run(request).await.into_parts();
    let (status, shown) = (head.status.as_u16(), headers(&head.headers));
    let line = move |body: &str| {
        tracing::info!(statusCode = status, headers = shown, body, "HTTP response");
    };
    let kind = head.headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream")) {
        line("<streamed response body not logged>");
        return Response::from_parts(head, answer);
    }
    Response::from_parts(head, watched(answer, line))
}

fn headers(headers: &HeaderMap) -> String {
    let mut out = String::new();
    for (name, value) in headers {
        let secret = SECRET.contains(&name.as_str());
        let value = if secret {
            "***".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        out.push_str(&format!("{name}: {value}\n"));
    }
    out
}

/// The same body; when it has passed, or is given up, `line` is told what it was.
fn watched(inner: Body, line: impl FnOnce(&str) + Send + 'static) -> Body {
    Body::new(Watched {
        inner,
        start: Vec::new(),
        total: 0,
        line: Some(Box::new(line)),
    })
}

struct Watched {
    inner: Body,
    start: Vec<u8>,
    total: usize,
    line: Option<Box<dyn FnOnce(&str) + Send>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let room = SHOWN.saturating_sub(this.start.len()).min(data.len());
            this.start.extend_from_slice(&data[..room]);
            this.total += data.len();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        let mut body = String::from_utf8_lossy(&self.start).into_owned();
        if self.total > self.start.len() {
            body.push_str(&format!(" ... [truncated, total {} bytes]", self.total));
        }
        line(&body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn long_bodies_are_cut_in_the_line_alone() {
        for (size, end) in [
            (0, ""),
            (SHOWN, "x"),
            (SHOWN + 1, "x ... [truncated, total 65537 bytes]"),
        ] {
            let (send, lines) = channel();
            let body = watched(Body::from("x".repeat(size)), move |body| {
                send.send(body.to_owned()).unwrap();
            });
            assert_eq!(body.size_hint().exact(), Some(size as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes().len(), size);
            let line = lines.recv().unwrap();
            assert!(line.ends_with(end) && line.len() <= SHOWN + 40, "{size}");
        }
    }

    #[test]
    fn secrets_are_left_out() {
        let mut map = HeaderMap::new();
        map.insert("authorization", "Bearer s3cret".parse().unwrap());
        map.insert("x-api-key", "s3cret".parse().unwrap());
        map.insert("x-request-id", "7".parse().unwrap());
        let text = headers(&map);
        assert!(text.contains("x-request-id: 7\n") && text.contains("x-api-key: ***\n"));
        assert!(!text.contains("s3cret"), "{text}");
    }
}
