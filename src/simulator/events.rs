//! An answer that comes as events, whoever writes it: HTTP makes it, and either its own body writes it (HTTP/2), or
//! [`super::serve`] takes the events out of the response and writes them to the connection itself (HTTP/1.1).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use parking_lot::Mutex;

/// Events, pulled as they come due. Dropped, they give back what their choices hold.
pub trait Events: Send + 'static {
    /// Appends the events that are there, whole ones; after `Ready(false)` there are no more.
    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<bool>;
}

/// The events of one response, in its body and in its extensions: whoever takes them first has them.
#[derive(Clone)]
struct Slot(Arc<Mutex<Option<Box<dyn Events>>>>);

/// A response that consists of `events`.
pub fn respond(events: impl Events) -> Response {
    let slot = Slot(Arc::new(Mutex::new(Some(Box::new(events)))));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let mut response = (headers, Body::new(slot.clone())).into_response();
    response.extensions_mut().insert(slot);
    response
}

/// Takes the events out of a response, if it consists of them; its body is then empty.
pub fn take(response: &mut Response) -> Option<Box<dyn Events>> {
    response.extensions_mut().remove::<Slot>()?.0.lock().take()
}

impl HttpBody for Slot {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut slot = self.0.lock();
        let Some(events) = slot.as_mut() else {
            return Poll::Ready(None);
        };
        let mut out = Vec::new();
        if !ready!(events.poll(cx, &mut out)) {
            *slot = None;
        }
        Poll::Ready((!out.is_empty()).then(|| Ok(Frame::data(out.into()))))
    }
}
