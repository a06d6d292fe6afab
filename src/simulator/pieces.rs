//! The pieces of all choices of one answer, in the order in which they come due. Every protocol that streams pulls them
//! from here: one that is dropped gives back what its choices hold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;

use super::api::Refusal;
use super::choice::{Choice, Piece};
use super::order::Starting;
use super::reply::Reply;

/// What happens to a choice.
pub enum Event {
    /// Something is said.
    Piece(Speaker, Piece),
    /// All is said.
    Ended(Box<Choice>),
    /// It is refused, after another one has begun.
    Failed(Refusal),
}

/// Who says a piece.
pub struct Speaker {
    /// Number of the choice.
    pub index: usize,
    /// What it says in all.
    pub reply: Arc<Reply>,
    /// Prompt tokens found in the cache; `None` without a cache.
    pub cached: Option<usize>,
}

/// The pieces of all choices, which take turns. One that is refused ends them all.
pub struct Pieces {
    choices: Vec<Stand>,
    turn: usize,
}

/// Where a choice stands.
enum Stand {
    Starting(Starting),
    Running(Box<Choice>),
    Over,
}

/// Waits until the first choice runs.
///
/// # Errors
/// The choice that is first admitted or refused was refused.
pub async fn begin(choices: Vec<Starting>) -> Result<Pieces, Refusal> {
    let mut choices: Vec<Stand> = choices.into_iter().map(Stand::Starting).collect();
    std::future::poll_fn(|cx| {
        let mut started = choices.iter_mut().map(|choice| choice.poll_start(cx));
        started.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await?;
    Ok(Pieces { choices, turn: 0 })
}

impl Stand {
    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let Stand::Starting(starting) = self else {
            return Poll::Ready(Ok(()));
        };
        let (stand, result) = match ready!(starting.as_mut().poll(cx)) {
            Ok(choice) => (Stand::Running(Box::new(choice)), Ok(())),
            Err(refusal) => (Stand::Over, Err(refusal)),
        };
        *self = stand;
        Poll::Ready(result)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Err(refusal) = ready!(self.poll_start(cx)) {
            return Poll::Ready(Event::Failed(refusal));
        }
        let Stand::Running(mut choice) = std::mem::replace(self, Stand::Over) else {
            return Poll::Pending;
        };
        let piece = choice.poll_next(cx);
        if let Poll::Ready(None) = piece {
            return Poll::Ready(Event::Ended(choice));
        }
        let speaker = Speaker {
            index: choice.index,
            reply: choice.reply.clone(),
            cached: choice.cached(),
        };
        *self = Stand::Running(choice);
        match ready!(piece) {
            Some(piece) => Poll::Ready(Event::Piece(speaker, piece)),
            None => Poll::Pending,
        }
    }
}

impl Stream for Pieces {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let n = self.choices.len();
        for _ in 0..n {
            let at = self.turn;
            self.turn = (at + 1) % n;
            if let Poll::Ready(event) = self.choices[at].poll_event(cx) {
                if matches!(event, Event::Failed(_)) {
                    self.choices.clear();
                }
                return Poll::Ready(Some(event));
            }
        }
        let over = self.choices.iter().all(|c| matches!(c, Stand::Over));
        if over { Poll::Ready(None) } else { Poll::Pending }
    }
}
