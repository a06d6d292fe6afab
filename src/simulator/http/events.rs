//! Answers as server-sent events: the pieces of all choices as they come, then what the protocol says at the end.
//! Pieces are pulled by the connection: a client that leaves drops the stream, and with it what it holds.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::Response;
use futures::StreamExt;
use serde::Serialize;

use crate::simulator::api::Refusal;
use crate::simulator::api::answer::Usage;
use crate::simulator::choice::Piece;
use crate::simulator::events::{self, Events};
use crate::simulator::order::Order;
use crate::simulator::pieces::{self, Event, Pieces};
use crate::simulator::reply::Reply;
use crate::simulator::server::Simulator;

/// Bytes of events that are written at once, about: others get their turn in between.
const AT_ONCE: usize = 16 * 1024;

/// How a protocol writes a stream: whole frames, or nothing.
pub trait Writer: Send + 'static {
    /// A piece of the choice of this number.
    fn piece(&mut self, out: &mut Vec<u8>, index: usize, reply: &Reply, piece: &Piece);
    /// After the last piece of all choices.
    fn end(&mut self, out: &mut Vec<u8>, usage: Usage);
    /// Instead of all that follows.
    fn fail(&mut self, out: &mut Vec<u8>, refusal: &Refusal);
}

struct Streaming<W> {
    order: Order,
    writer: W,
    choices: Pieces,
    usage: Usage,
    over: bool,
}

/// Answers with events.
///
/// # Errors
/// The choice that is first admitted or refused was refused: nothing has been sent yet.
pub async fn respond<W: Writer>(
    sim: &Arc<Simulator>,
    mut order: Order,
    writer: W,
) -> Result<Response, Refusal> {
    let choices = pieces::begin(order.start(sim)).await?;
    Ok(events::respond(Streaming {
        usage: Usage {
            prompt: order.prompt_tokens,
            ..Usage::default()
        },
        order,
        writer,
        choices,
        over: false,
    }))
}

impl<W: Writer> Streaming<W> {
    /// Writes what happens next; `None`: nothing more will.
    fn write(&mut self, out: &mut Vec<u8>, event: Option<Event>) {
        match event {
            Some(Event::Piece(of, piece)) => self.writer.piece(out, of.index, &of.reply, &piece),
            Some(Event::Ended(choice)) => self.order.add(&mut self.usage, &choice),
            Some(Event::Failed(refusal)) => {
                self.over = true;
                self.writer.fail(out, &refusal);
            }
            None => {
                self.over = true;
                self.writer.end(out, self.usage);
            }
        }
    }
}

impl<W: Writer> Events for Streaming<W> {
    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        let before = out.len();
        while !self.over && out.len() - before < AT_ONCE {
            let Poll::Ready(event) = self.choices.poll_next_unpin(cx) else {
                break;
            };
            self.write(out, event);
        }
        if out.len() > before || self.over {
            Poll::Ready(!self.over)
        } else {
            Poll::Pending
        }
    }
}

/// The last frame of most protocols.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// One frame without a name.
pub fn frame(out: &mut Vec<u8>, data: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    json(out, data);
}

/// One frame with a name.
pub fn named(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    json(out, data);
}

fn json(out: &mut Vec<u8>, data: &impl Serialize) {
    // Texts, numbers, and objects of them always have a JSON form, and memory takes all that is written.
    let _ = serde_json::to_writer(&mut *out, data);
    out.extend_from_slice(b"\n\n");
}
