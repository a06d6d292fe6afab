//! The pieces of all choices of one answer, in the order in which they come due. Every protocol that streams pulls them
//! from here: one that is dropped gives back what its choices hold.

use std::sync::Arc;

use futures::stream::{self, BoxStream, SelectAll, StreamExt};

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

/// The pieces of all choices.
pub type Pieces = SelectAll<BoxStream<'static, Event>>;

/// Waits until the first choice runs.
///
/// # Errors
/// The choice that is first admitted or refused was refused.
pub async fn begin(choices: Vec<Starting>) -> Result<Pieces, Refusal> {
    let (first, _, rest) = futures::future::select_all(choices).await;
    let mut pieces = SelectAll::new();
    pieces.push(run(Box::pin(std::future::ready(Ok(first?)))));
    rest.into_iter().for_each(|starting| pieces.push(run(starting)));
    Ok(pieces)
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
                let speaker = Speaker {
                    index: choice.index,
                    reply: choice.reply.clone(),
                    cached: choice.cached(),
                };
                Some((Event::Piece(speaker, piece), Stand::Running(choice)))
            }
            None => Some((Event::Ended(choice), Stand::Over)),
        }
    })
    .boxed()
}
