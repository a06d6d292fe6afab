//! The HTTP/2 body of an ext_proc stream: polling it reads messages, runs the state machine and yields answer
//! frames. No task, no channel; between the phases of an exchange it holds no buffer, which is why gRPC framing
//! is done here and not by `tonic::Streaming`, which keeps its largest buffer for the life of the stream.
//!
//! What it holds is counted after each poll in the budget that all streams share; a stream that is told to end, for want
//! of room or of time, is woken and ends here.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};

use crate::model::error::{self, DropReason, RequestError};
use crate::net::places::OpenStream;
use crate::requestcontrol::streams::{FREE, Interrupt, Refusal, StreamHandle};
use crate::telemetry::logging::request_scope;
use crate::wire::ext_proc::{self, BodyMode, Outbox};
use crate::wire::grpc::Deframer;

use super::stream::{Next, Stream};

/// Answers queued beyond this many bytes are sent before more is read.
const SEND_FIRST: usize = 256 * 1024;

/// A first message smaller than this is copied: its headers are kept until the body is complete, and would keep alive
/// the whole buffer they were read into. A larger one has a buffer of its own.
const COPIED: usize = 16 * 1024;

/// Time a peer has for ending a finished stream first. A peer that resets streams it is done with may take trailers that
/// cross its reset for a fault; and HTTP/2 wants a reset of us where the peer has not ended its side.
const GOODBYE: Duration = Duration::from_millis(100);

/// One ext_proc stream as a response body.
pub struct Session {
    input: tonic::body::Body,
    input_ended: bool,
    deframer: Deframer,
    stream: Stream,
    handle: StreamHandle,
    /// Said once per service: a proxy that sends no readable bodies does so for every request.
    unreadable: Arc<Once>,
    out: Outbox,
    unsent: Unsent,
    /// How the stream ends, once that is decided.
    verdict: Option<Status>,
    trailers_sent: bool,
    /// Ends the wait for the peer's end.
    goodbye: Option<Pin<Box<Sleep>>>,
    /// Counts the stream as open on its connection.
    _open: OpenStream,
}

/// A routed body that is queued: its memory is free only when its last piece is sent.
#[derive(Default)]
struct Unsent {
    /// Bytes taken from the outbox so far.
    sent: u64,
    /// Size of the body, and what `sent` will be when it is sent.
    body: usize,
    until: u64,
}

impl Unsent {
    fn queued(&mut self, out: &Outbox) {
        self.body = out.len();
        self.until = self.sent + out.len() as u64;
    }

    fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.sent >= self.until {
            self.body = 0;
        }
    }
}

impl Session {
    /// A session that reads `input`, refusing messages above `max_message` bytes. What is wrong with the proxy's body
    /// mode is said once per `unreadable`. `open` counts the stream as long as the session lives.
    pub fn new(
        input: tonic::body::Body,
        stream: Stream,
        (handle, open): (StreamHandle, OpenStream),
        max_message: usize,
        unreadable: Arc<Once>,
    ) -> Self {
        Session {
            input,
            input_ended: false,
            deframer: Deframer::new(max_message),
            stream,
            handle,
            unreadable,
            out: Outbox::default(),
            unsent: Unsent::default(),
            verdict: None,
            trailers_sent: false,
            goodbye: None,
            _open: open,
        }
    }

    /// Handles every message that is here.
    fn handle_messages(&mut self) {
        while self.verdict.is_none() && self.out.len() < SEND_FIRST {
            let mut message = match self.deframer.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(e) => return self.fail(Status::new(Code::ResourceExhausted, e.to_string())),
            };
            let request_open = self.stream.request_open();
            if self.stream.waiting() && message.len() < COPIED {
                message = Bytes::copy_from_slice(&message);
            }
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
            if request_open && !self.stream.request_open() {
                self.unsent.queued(&self.out);
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

    /// Waits for the peer to end a stream that is done, for a moment; what it still sends is let go.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.input_ended {
            match Pin::new(&mut self.input).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None | Some(Err(_))) => self.input_ended = true,
                Poll::Pending => {
                    let goodbye = self.goodbye.get_or_insert_with(|| Box::pin(sleep(GOODBYE)));
                    return goodbye.as_mut().poll(cx);
                }
            }
        }
        Poll::Ready(())
    }

    fn end_of_input(&mut self) {
        if self.verdict.is_none() {
            self.stream.on_end();
            self.verdict = Some(Status::ok(""));
        }
    }

    /// Reads, handles and sends what is there.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            self.handle_messages();
            // Read as far as bytes are here before sending, so that answers travel together.
            if self.verdict.is_none() && self.out.len() < SEND_FIRST && !self.input_ended {
                match self.poll_input(cx) {
                    Poll::Ready(()) => continue,
                    Poll::Pending if self.out.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            if let Some(bytes) = self.out.pop() {
                self.unsent.sent(bytes.len());
                return Poll::Ready(Some(Frame::data(bytes)));
            }
            if self.input_ended {
                self.end_of_input();
            }
            let done = self.verdict.as_ref().is_some_and(|s| s.code() == Code::Ok);
            if done && !self.trailers_sent {
                ready!(self.poll_goodbye(cx));
            }
            if let Some(status) = &self.verdict {
                if std::mem::replace(&mut self.trailers_sent, true) {
                    return Poll::Ready(None);
                }
                let mut trailers = HeaderMap::with_capacity(2);
                if status.add_header(&mut trailers).is_err() {
                    trailers.insert("grpc-status", http::HeaderValue::from(2));
                }
                return Poll::Ready(Some(Frame::trailers(trailers)));
            }
        }
    }

    /// Bytes of memory held for this stream.
    fn held(&self) -> usize {
        self.deframer.held() + self.stream.held() + self.out.len().max(self.unsent.body)
    }

    /// Ends the stream as `why` asks, unless that no longer holds.
    fn interrupt(&mut self, why: Interrupt) {
        match why {
            Interrupt::Shed => {
                // It is told no more often than it enters the budget anew.
                if self.lets_go() {
                    return self.handle.go_on();
                }
                let text =
                    "too many bytes are buffered, and this request has been unfinished for the longest time";
                self.end_early(why, buffers_full(text));
            }
            Interrupt::BodyTimeout if self.stream.request_open() && self.verdict.is_none() => {
                let text = "request body did not come in time (--request-body-timeout)";
                let error = RequestError::new(error::Code::RequestTimeout, text);
                self.end_early(why, error.dropped(DropReason::BodyTimeout));
            }
            Interrupt::Idle if self.verdict.is_none() => {
                self.handle.streams().ended_by(why);
                let text = "nothing has come or gone for too long (--stream-idle-timeout)";
                self.fail(Status::new(Code::DeadlineExceeded, text));
            }
            Interrupt::BodyTimeout | Interrupt::Idle => self.handle.go_on(),
        }
    }

    /// Lets go of what the stream can go on without. Does it hold next to nothing now?
    fn lets_go(&mut self) -> bool {
        self.stream.forget_usage();
        if self.verdict.is_some() {
            // What still came of a stream that is decided is not looked at.
            self.deframer.clear();
        }
        self.held() as u64 <= FREE
    }

    /// The bytes held are too many.
    fn refuse(&mut self, refusal: Refusal) {
        if self.lets_go() {
            return;
        }
        match refusal {
            Refusal::Full => self.end_early(Interrupt::Shed, buffers_full("too many bytes are buffered")),
            Refusal::TooLarge(_) => {
                let text = format!("request body is {refusal}");
                let error = RequestError::new(error::Code::PayloadTooLarge, text);
                if !self.turn_away(error) {
                    self.abandon(Status::new(Code::ResourceExhausted, refusal.to_string()));
                }
            }
        }
    }

    /// Turns the request away if it has not gone on, else ends the stream; either way nothing is held afterwards.
    fn end_early(&mut self, why: Interrupt, error: RequestError) {
        self.handle.streams().ended_by(why);
        tracing::warn!(reason = ?why, bytes = self.held(), "Stream ended early");
        let code = match why {
            Interrupt::Shed => Code::ResourceExhausted,
            Interrupt::BodyTimeout | Interrupt::Idle => Code::DeadlineExceeded,
        };
        let status = Status::new(code, error.message.clone());
        if !self.turn_away(error) {
            self.abandon(status);
        }
    }

    fn turn_away(&mut self, error: RequestError) -> bool {
        let answered = self.verdict.is_none() && self.stream.turn_away(error, &mut self.out);
        if answered {
            self.deframer.clear();
            self.verdict = Some(Status::ok(""));
        }
        answered
    }

    /// Ends the stream with an error and drops what it holds.
    fn abandon(&mut self, status: Status) {
        self.deframer.clear();
        self.out = Outbox::default();
        self.unsent = Unsent::default();
        self.fail(status);
        self.stream.forget();
    }
}

fn buffers_full(text: &'static str) -> RequestError {
    RequestError::new(error::Code::ServiceUnavailable, text).dropped(DropReason::BuffersFull)
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
        if let Some(why) = this.handle.interrupted() {
            this.interrupt(why);
        }
        loop {
            let polled = this.poll_exchange(cx);
            let pending = polled.is_pending();
            if pending {
                this.deframer.settle();
            }
            if let Err(refusal) = this.handle.hold(this.held(), cx.waker()) {
                this.refuse(refusal);
                if pending {
                    continue;
                }
            }
            if pending {
                this.handle.waits(this.stream.request_open(), cx.waker());
            }
            return polled.map(|frame| frame.map(Ok));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers_sent
    }
}
