//! The HTTP/2 body of an ext_proc stream: polling it reads messages, runs the state machine and yields answer
//! frames. No task, no channel; between the phases of an exchange it holds no buffer, which is why gRPC framing
//! is done here and not by `tonic::Streaming`, which keeps its largest buffer for the life of the stream.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::{Code, Status};

use crate::net::places::OpenStream;
use crate::telemetry::logging::request_scope;
use crate::wire::ext_proc::{self, BodyMode, Outbox};
use crate::wire::grpc::Deframer;

use super::stream::{Next, Stream};

/// Answers queued beyond this many bytes are sent before more is read.
const SEND_FIRST: usize = 256 * 1024;

/// One ext_proc stream as a response body.
pub struct Session {
    input: tonic::body::Body,
    input_ended: bool,
    deframer: Deframer,
    stream: Stream,
    /// Said once per service: a proxy that sends no readable bodies does so for every request.
    unreadable: Arc<Once>,
    out: Outbox,
    /// How the stream ends, once that is decided.
    verdict: Option<Status>,
    trailers_sent: bool,
    /// Counts the stream as open on its connection.
    _open: OpenStream,
}

impl Session {
    /// A session that reads `input`, refusing messages above `max_message` bytes. What is wrong with the proxy's body
    /// mode is said once per `unreadable`. `open` counts the stream as long as the session lives.
    pub fn new(
        input: tonic::body::Body,
        stream: Stream,
        max_message: usize,
        unreadable: Arc<Once>,
        open: OpenStream,
    ) -> Self {
        Session {
            input,
            input_ended: false,
            deframer: Deframer::new(max_message),
            stream,
            unreadable,
            out: Outbox::default(),
            verdict: None,
            trailers_sent: false,
            _open: open,
        }
    }

    /// Handles every message that is here.
    fn handle_messages(&mut self) {
        while self.verdict.is_none() && self.out.len() < SEND_FIRST {
            let message = match self.deframer.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(e) => return self.fail(Status::new(Code::ResourceExhausted, e.to_string())),
            };
            let incoming = match ext_proc::decode(&message) {
                Ok(incoming) => incoming,
                Err(e) => return self.fail(Status::new(Code::InvalidArgument, e.to_string())),
            };
            drop(message);
            let (stream, out) = (&mut self.stream, &mut self.out);
            // A fault in one exchange must not take the others down with it.
            let next = catch_unwind(AssertUnwindSafe(|| stream.on_message(incoming, out)));
            if let Some(mode) = self.stream.take_unreadable() {
                self.unreadable.call_once(|| say_unreadable(mode));
            }
            match next {
                Ok(Next::Read) => {}
                Ok(Next::Close) => self.verdict = Some(Status::ok("")),
                Err(_) => self.fail(Status::new(
                    Code::Internal,
                    "failed to handle request: internal error",
                )),
            }
        }
    }

    /// Ends the stream with an error: never with OK, which Envoy would take for "go on with an empty body".
    fn fail(&mut self, status: Status) {
        let lines = request_scope(self.stream.request_id());
        tracing::warn!(code = ?status.code(), error = status.message(), "Stream failed");
        drop(lines);
        self.stream.on_failure();
        self.verdict = Some(status);
    }

    /// Reads the next bytes; ready when there is something to handle.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.input_ended {
            return Poll::Ready(());
        }
        match Pin::new(&mut self.input).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.deframer.push(data);
                }
            }
            // A clean half-close is how Envoy says that the client left; a reset is how it ends a stream it is
            // done with. What either means depends on how far the exchange had come.
            Poll::Ready(None | Some(Err(_))) => self.input_ended = true,
        }
        Poll::Ready(())
    }

    fn end_of_input(&mut self) {
        if self.verdict.is_none() {
            self.stream.on_end();
            self.verdict = Some(Status::ok(""));
        }
    }
}

fn say_unreadable(mode: BodyMode) {
    tracing::warn!(
        ?mode,
        "Request bodies cannot be read in this request_body_mode: routing by headers alone; set FULL_DUPLEX_STREAMED"
    );
}

impl Body for Session {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            this.handle_messages();
            // Read as far as bytes are here before sending, so that answers travel together.
            if this.verdict.is_none() && this.out.len() < SEND_FIRST && !this.input_ended {
                match this.poll_input(cx) {
                    Poll::Ready(()) => continue,
                    Poll::Pending if this.out.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            if let Some(bytes) = this.out.pop() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.input_ended {
                this.end_of_input();
            }
            if let Some(status) = &this.verdict {
                if std::mem::replace(&mut this.trailers_sent, true) {
                    return Poll::Ready(None);
                }
                let mut trailers = HeaderMap::with_capacity(2);
                if status.add_header(&mut trailers).is_err() {
                    trailers.insert("grpc-status", http::HeaderValue::from(2));
                }
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers_sent
    }
}
