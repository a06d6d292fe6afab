//! The body of an answer: every piece is a word of the API server, and a pause that is too long ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::BoxError;
use crate::kubernetes::contact::Contact;

/// A body that tells of its pieces and ends when none comes.
pub struct Heard {
    /// Gone after an error: there is nothing to be had from it any more.
    body: Option<Incoming>,
    limit: Duration,
    watch: bool,
    timer: Pin<Box<Sleep>>,
    contact: Arc<Contact>,
}

impl Heard {
    /// `body`, whose pieces come no further apart than `limit`.
    pub fn new(body: Incoming, limit: Duration, watch: bool, contact: Arc<Contact>) -> Self {
        Heard {
            body: Some(body),
            limit,
            watch,
            timer: Box::pin(sleep(limit)),
            contact,
        }
    }

    fn silent(&mut self) -> BoxError {
        self.body = None;
        let seconds = self.limit.as_secs();
        if self.watch {
            tracing::warn!(
                seconds,
                "A watch has gone silent: watching again on a new connection"
            );
        }
        format!("nothing came from the API server for {seconds} s").into()
    }
}

impl Body for Heard {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.contact.heard();
                let next = Instant::now() + self.limit;
                self.timer.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended) => {
                self.body = None;
                Poll::Ready(ended.map(|e| e.map_err(BoxError::from)))
            }
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(context));
                Poll::Ready(Some(Err(self.silent())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
