//! Answers as server-sent events: the pieces of all choices as they come, then what the protocol says at the end.
//! Pieces are pulled by the connection: a client that leaves drops the stream, and with it what it holds.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};

use super::order::Order;
use crate::simulator::api::Refusal;
use crate::simulator::api::answer::Usage;
use crate::simulator::choice::Piece;
use crate::simulator::pieces::{self, Event, Pieces};
use crate::simulator::reply::Reply;
use crate::simulator::server::Simulator;

/// How a protocol writes a stream. Every text is whole frames; empty: nothing is written.
pub trait Writer: Send + 'static {
    /// A piece of the choice of this number.
    fn piece(&mut self, index: usize, reply: &Reply, piece: &Piece) -> String;
    /// After the last piece of all choices.
    fn end(&mut self, usage: Usage) -> String;
    /// Instead of all that follows.
    fn fail(&mut self, refusal: &Refusal) -> String;
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
    let streaming = Streaming {
        usage: Usage {
            prompt: order.prompt_tokens,
            ..Usage::default()
        },
        order,
        writer,
        choices,
        over: false,
    };
    let frames = stream::unfold(streaming, |mut s| async move {
        let frame = s.next().await?;
        Some((Ok::<_, Infallible>(frame), s))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::from_stream(frames)).into_response())
}

impl<W: Writer> Streaming<W> {
    /// The next frames, none of them empty.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            let text = match self.choices.next().await {
                Some(Event::Piece(of, piece)) => self.writer.piece(of.index, &of.reply, &piece),
                Some(Event::Ended(choice)) => {
                    self.order.add(&mut self.usage, &choice);
                    continue;
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
            };
            if !text.is_empty() {
                return Some(text.into());
            }
        }
        None
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
