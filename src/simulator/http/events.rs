//! Answers as server-sent events: the pieces of all choices as they come, then what the protocol says at the end.
//! Pieces are pulled by the connection: a client that leaves drops the stream, and with it what it holds.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::Response;
use futures::stream::{self, BoxStream, SelectAll, StreamExt};

use super::order::{Order, Starting};
use crate::simulator::api::Refusal;
use crate::simulator::api::answer::Usage;
use crate::simulator::choice::{Choice, Piece};
use crate::simulator::events::{self, Events};
use crate::simulator::reply::Reply;
use crate::simulator::server::Simulator;

/// Bytes of events that are written at once, about: others get their turn in between.
const AT_ONCE: usize = 16 * 1024;

/// How a protocol writes a stream. Every text is whole frames; empty: nothing is written.
pub trait Writer: Send + 'static {
    /// A piece of the choice of this number.
    fn piece(&mut self, index: usize, reply: &Reply, piece: &Piece) -> String;
    /// After the last piece of all choices.
    fn end(&mut self, usage: Usage) -> String;
    /// Instead of all that follows.
    fn fail(&mut self, refusal: &Refusal) -> String;
}

/// What happens to a choice.
enum Event {
    Piece(usize, Arc<Reply>, Piece),
    Ended(Box<Choice>),
    Failed(Refusal),
}

struct Streaming<W> {
    order: Order,
    writer: W,
    choices: SelectAll<BoxStream<'static, Event>>,
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
    let (first, _, rest) = futures::future::select_all(order.start(sim)).await;
    let mut choices = SelectAll::new();
    choices.push(run(Box::pin(std::future::ready(Ok(first?)))));
    rest.into_iter().for_each(|starting| choices.push(run(starting)));
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

/// Where a choice stands.
enum Stand {
    Starting(Starting),
    Running(Box<Choice>),
    Over,
}

/// The events of one choice.
fn run(starting: Starting) -> BoxStream<'static, Event> {
    stream::unfold(Stand::Starting(starting), |stand| async move {
        let mut choice = match stand {
            Stand::Over => return None,
            Stand::Running(choice) => choice,
            Stand::Starting(starting) => match starting.await {
                Ok(choice) => Box::new(choice),
                Err(refusal) => return Some((Event::Failed(refusal), Stand::Over)),
            },
        };
        match choice.next().await {
            Some(piece) => {
                let event = Event::Piece(choice.index, choice.reply.clone(), piece);
                Some((event, Stand::Running(choice)))
            }
            None => Some((Event::Ended(choice), Stand::Over)),
        }
    })
    .boxed()
}

impl<W: Writer> Streaming<W> {
    /// The frames of what happens next; `None`: nothing more will.
    fn frames(&mut self, event: Option<Event>) -> String {
        match event {
            Some(Event::Piece(index, reply, piece)) => self.writer.piece(index, &reply, &piece),
            Some(Event::Ended(choice)) => {
                self.order.add(&mut self.usage, &choice);
                String::new()
            }
            Some(Event::Failed(refusal)) => {
                self.over = true;
                self.choices.clear();
                self.writer.fail(&refusal)
            }
            None => {
                self.over = true;
                self.writer.end(self.usage)
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
            out.extend_from_slice(self.frames(event).as_bytes());
        }
        if out.len() > before || self.over {
            Poll::Ready(!self.over)
        } else {
            Poll::Pending
        }
    }
}

/// One frame without a name.
pub fn frame(json: &str) -> String {
    format!("data: {json}\n\n")
}

/// One frame with a name.
pub fn named(name: &str, json: &str) -> String {
    format!("event: {name}\ndata: {json}\n\n")
}
