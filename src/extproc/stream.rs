//! The state machine of one ext_proc stream: one HTTP exchange. Synchronous and transport-free: a message goes
//! in, answers come out. What a real Envoy does on this wire is named at each rule.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::body::Body;
use crate::model::error::{Code, RequestError};
use crate::model::exchange::End;
use crate::model::headers::Headers;
use crate::model::metadata::Metadata;
use crate::requestcontrol::{Director, Exchange, Routed};
use crate::wire::ext_proc::{self, BodyMode, HeaderChanges, Incoming, Message, Outbox, Protocol, Side};

use super::answer;

/// Limits of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Request bodies larger than this, bytes, are answered with 413.
    pub max_request_body: usize,
}

/// What the transport does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on.
    Read,
    /// Send what is queued, then end the stream with OK.
    Close,
}

/// Where the request side stands.
enum Request {
    /// Nothing has come.
    Waiting,
    /// Headers are here, the body is gathered.
    Gathering(Headers, Body),
    /// Routed (or passed by): every further message of the request is echoed if it still belongs to the body,
    /// and ignored once the body has ended.
    Passing {
        /// The end has been answered.
        ended: bool,
    },
}

/// Where the response side stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Response {
    Waiting,
    Headers,
    Ended,
}

/// One exchange.
pub struct Stream {
    exchange: Exchange,
    limits: Limits,
    modes: Protocol,
    metadata: Metadata,
    metadata_held: usize,
    request: Request,
    response: Response,
    /// Answered with an immediate response: nothing more is said.
    rejected: bool,
    /// The transport was told to end the stream.
    closed: bool,
    /// The body mode that kept the request's body from being read.
    unreadable: Option<BodyMode>,
}

impl Stream {
    /// A stream that has just been opened.
    pub fn new(director: Arc<Director>, limits: Limits) -> Self {
        Stream {
            exchange: Exchange::begin(director),
            limits,
            modes: Protocol::default(),
            metadata: Metadata::default(),
            metadata_held: 0,
            request: Request::Waiting,
            response: Response::Waiting,
            rejected: false,
            closed: false,
            unreadable: None,
        }
    }

    /// Handles one message; answers go to `out`.
    pub fn on_message(&mut self, incoming: Incoming, out: &mut Outbox) -> Next {
        if self.closed {
            return Next::Close;
        }
        if let Some(modes) = incoming.protocol {
            self.modes = modes;
        }
        if let Some(metadata) = incoming.metadata {
            self.metadata.merge(metadata);
            self.metadata_held = self.metadata.held();
        }
        if let Message::Headers(Side::Response, ..)
        | Message::Body(Side::Response, ..)
        | Message::Trailers(Side::Response) = incoming.message
        {
            self.response_began();
        }
        let rejected = match incoming.message {
            Message::Headers(Side::Request, headers, end) => self.request_headers(headers, end, out),
            Message::Body(Side::Request, bytes, end) => self.request_body(bytes, end, out),
            Message::Trailers(Side::Request) => self.request_trailers(out),
            Message::Headers(Side::Response, headers, end) => {
                self.response_headers(&headers, end, out);
                Ok(())
            }
            Message::Body(Side::Response, bytes, end) => {
                self.response_body(&bytes, end, out);
                Ok(())
            }
            Message::Trailers(Side::Response) => {
                ext_proc::trailers(out.buffer(), Side::Response);
                self.end_response();
                Ok(())
            }
            Message::Unknown => Ok(()),
        };
        if let Err(error) = rejected {
            self.reject(&error, out);
        }
        let next = self.next();
        self.closed = next == Next::Close;
        next
    }

    fn reject(&mut self, error: &RequestError, out: &mut Outbox) {
        // The body is freed at once; whatever Envoy still sends of it is ignored.
        self.request = Request::Passing { ended: true };
        self.rejected = true;
        answer::rejection(out, error);
        self.exchange.finish(End::Error);
    }

    /// Nothing has come.
    pub fn waiting(&self) -> bool {
        matches!(self.request, Request::Waiting)
    }

    /// Drops what is held, once the stream has failed.
    pub fn forget(&mut self) {
        self.request = Request::Passing { ended: true };
        self.metadata = Metadata::default();
        self.metadata_held = 0;
        self.closed = true;
    }

    /// Is the request not complete?
    pub fn request_open(&self) -> bool {
        matches!(self.request, Request::Waiting | Request::Gathering(..))
    }

    /// Bytes of memory held.
    pub fn held(&self) -> usize {
        let request = match &self.request {
            Request::Gathering(headers, body) => headers.held() + body.held(),
            Request::Waiting | Request::Passing { .. } => 0,
        };
        request + self.metadata_held + self.exchange.held()
    }

    /// Lets go of what is held of the response for counting its usage.
    pub fn forget_usage(&mut self) {
        self.exchange.forget_usage();
    }

    /// Turns a request away whose body is being gathered. Returns false where there is none that could be answered.
    pub fn turn_away(&mut self, error: RequestError, out: &mut Outbox) -> bool {
        let gathering = matches!(self.request, Request::Gathering(..));
        if gathering {
            let error = self.exchange.rejected(error);
            self.reject(&error, out);
            self.closed = true;
        }
        gathering
    }

    /// The body mode that keeps request bodies from being read, once, where this stream came upon one.
    pub fn take_unreadable(&mut self) -> Option<BodyMode> {
        self.unreadable.take()
    }

    /// The stream ended without our doing: the normal end once the response has ended, whatever the transport
    /// calls it (Envoy resets streams it is done with); otherwise the client or the proxy has left.
    pub fn on_end(&mut self) {
        let end = if self.response == Response::Ended {
            End::Natural
        } else {
            End::Disconnected
        };
        self.exchange.finish(end);
    }

    /// Id of the request, once it is known; else empty.
    pub fn request_id(&self) -> &str {
        self.exchange.request_id()
    }

    /// Handling failed inside; the exchange counts as an error.
    pub fn on_failure(&mut self) {
        self.exchange.failed();
        self.exchange.finish(End::Error);
    }

    fn next(&self) -> Next {
        // Ending with OK before the whole request is echoed would make Envoy go on with an empty body.
        let request_done = matches!(self.request, Request::Waiting | Request::Passing { ended: true });
        let done = self.rejected || (self.response == Response::Ended && request_done);
        if done { Next::Close } else { Next::Read }
    }

    fn request_headers(&mut self, headers: Headers, end: bool, out: &mut Outbox) -> Result<(), RequestError> {
        if !matches!(self.request, Request::Waiting) {
            return Ok(());
        }
        if end {
            self.request = Request::Passing { ended: true };
            return self.route_without_body(&headers, out);
        }
        // What follows is no request body but the bytes of a tunnel, which begin after the answer.
        if opens_tunnel(&headers) {
            self.request = Request::Passing { ended: false };
            return self.route_without_body(&headers, out);
        }
        match self.modes.request {
            BodyMode::FullDuplexStreamed => {}
            // Envoy sends the body only after an answer to the headers; routing then travels with the body.
            BodyMode::Buffered | BodyMode::BufferedPartial => {
                ext_proc::request_headers(out.buffer(), HeaderChanges::default(), None);
            }
            // The body never comes, or comes when the headers have gone: nothing but headers to decide on.
            BodyMode::None | BodyMode::Streamed => {
                self.unreadable = Some(self.modes.request);
                self.request = Request::Passing {
                    ended: self.modes.request == BodyMode::None,
                };
                return self.route_without_body(&headers, out);
            }
        }
        // Header slices pin the buffer they were read from; it is let go when the body is complete.
        self.request = Request::Gathering(headers, Body::default());
        Ok(())
    }

    fn route_without_body(&mut self, headers: &Headers, out: &mut Outbox) -> Result<(), RequestError> {
        let routed = self.exchange.route_without_body(headers, &self.metadata)?;
        answer::routed_headers(out, &routed);
        Ok(())
    }

    fn request_body(&mut self, bytes: Bytes, end: bool, out: &mut Outbox) -> Result<(), RequestError> {
        match &mut self.request {
            Request::Gathering(_, body) => {
                if body.len() + bytes.len() > self.limits.max_request_body {
                    let limit = self.limits.max_request_body;
                    let text = format!("request body is larger than the limit of {limit} bytes");
                    return Err(self
                        .exchange
                        .rejected(RequestError::new(Code::PayloadTooLarge, text)));
                }
                if end && body.is_empty() {
                    *body = bytes.into();
                } else {
                    body.push(bytes);
                }
                if end || self.modes.request == BodyMode::BufferedPartial {
                    return self.route(true, out);
                }
            }
            // Some Envoys repeat the last message: after the end there is nothing to answer.
            Request::Passing { ended: true } => {}
            Request::Passing { ended } => {
                *ended = end;
                self.echo(Side::Request, &bytes, end, out);
            }
            Request::Waiting => {
                let text = "request body without request headers";
                return Err(self.exchange.rejected(RequestError::new(Code::BadRequest, text)));
            }
        }
        Ok(())
    }

    fn request_trailers(&mut self, out: &mut Outbox) -> Result<(), RequestError> {
        if matches!(self.request, Request::Gathering(..)) {
            // Trailers end the body: Envoy sends no last body message before them.
            self.route(false, out)?;
        }
        self.request = Request::Passing { ended: true };
        ext_proc::trailers(out.buffer(), Side::Request);
        Ok(())
    }

    /// The body is complete: pick. `end` tells whether the last piece of the body ends the request.
    fn route(&mut self, end: bool, out: &mut Outbox) -> Result<(), RequestError> {
        let gathered = std::mem::replace(&mut self.request, Request::Passing { ended: end });
        let Request::Gathering(headers, mut body) = gathered else {
            return Ok(());
        };
        let routed: Routed = self.exchange.route(headers, &mut body, &self.metadata)?;
        if self.modes.request == BodyMode::FullDuplexStreamed {
            answer::routed_headers(out, &routed);
            answer::routed_body(out, &routed, end);
        } else {
            answer::routed_buffered(out, &routed);
        }
        Ok(())
    }

    /// A message of the response. It may come before the request was routed: Envoy's own replies (timeouts, no
    /// upstream) go through us too, and the client waits for our echo. There is nothing left to pick for then.
    fn response_began(&mut self) {
        if matches!(self.request, Request::Gathering(..)) {
            self.request = Request::Passing { ended: true };
        }
    }

    fn response_headers(&mut self, headers: &Headers, end: bool, out: &mut Outbox) {
        if self.response == Response::Ended {
            return;
        }
        let mutation = self.exchange.response_headers(headers, &self.metadata);
        answer::response_headers(out, &mutation);
        self.response = Response::Headers;
        if end {
            self.end_response();
        }
    }

    fn response_body(&mut self, bytes: &Bytes, end: bool, out: &mut Outbox) {
        if self.response == Response::Ended {
            return;
        }
        self.exchange.response_chunk(bytes);
        self.echo(Side::Response, bytes, end, out);
        if end {
            self.end_response();
        }
    }

    fn echo(&self, side: Side, bytes: &Bytes, end: bool, out: &mut Outbox) {
        let mode = if side == Side::Request {
            self.modes.request
        } else {
            self.modes.response
        };
        if mode == BodyMode::FullDuplexStreamed {
            out.streamed_body(side, bytes, end);
        } else {
            ext_proc::unchanged_body(out.buffer(), side);
        }
    }

    fn end_response(&mut self) {
        self.response = Response::Ended;
        self.exchange.finish(End::Natural);
    }
}

/// Does a request ask for a tunnel: CONNECT, or a GET that upgrades the connection (a websocket)? Its body is
/// what the tunnel carries, and comes, if ever, after the answer. `h2c` upgrades are left out: proxies drop them.
fn opens_tunnel(headers: &Headers) -> bool {
    match headers.get(":method") {
        Some("CONNECT") => true,
        Some("GET") => {
            let upgrade = headers.get("upgrade").unwrap_or_default();
            !upgrade.is_empty() && !upgrade.eq_ignore_ascii_case("h2c")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
