//! One choice of an answer, from the decision what to say to its last piece. Every protocol is served from the same
//! pieces. A choice that is dropped gives back what it holds.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::api::Refusal;
use super::reply::{self, Question, Reply};
use super::server::Simulator;
use super::work::{self, Job, Run};

/// A choice that runs.
pub struct Choice {
    /// Number of the choice in its answer.
    pub index: usize,
    /// What is said.
    pub reply: Arc<Reply>,
    run: Option<Run>,
    cached: Option<usize>,
    below_threshold: bool,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// Before the token of this number.
    Text(usize),
    /// Before this fragment of this call.
    Call(usize, usize),
    /// The reason is still to be told.
    Reason,
    /// Nothing is left.
    Done,
}

/// A piece of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The token of this number; and why the choice ends, if this is the last one.
    Token(usize, Option<&'static str>),
    /// The fragment `.1` of the call `.0`; true: its last one.
    Fragment(usize, usize, bool),
    /// Only why it ends.
    End(&'static str),
}

/// Decides what to say, then waits for the right to say it.
///
/// # Errors
/// It is refused.
pub async fn start(
    sim: Arc<Simulator>,
    index: usize,
    question: Question,
    job: Job,
) -> Result<Choice, Refusal> {
    let mut reply = reply::decide(&sim, &question).await?;
    drop(question);
    let run = work::start(&sim, job, &reply).await?;
    let stage = if run.below_threshold {
        reply = Reply {
            text: Arc::default(),
            calls: Vec::new(),
            finish_reason: "cache_threshold",
        };
        Stage::Reason
    } else if !reply.calls.is_empty() {
        Stage::Call(0, 0)
    } else if reply.text.is_empty() {
        Stage::Reason
    } else {
        Stage::Text(0)
    };
    Ok(Choice {
        index,
        cached: run.cached,
        below_threshold: run.below_threshold,
        reply: Arc::new(reply),
        run: Some(run),
        stage,
    })
}

impl Choice {
    /// Prompt tokens found in the cache; `None` without a cache.
    pub fn cached(&self) -> Option<usize> {
        self.cached
    }

    /// Waits for everything at once.
    pub async fn all(&mut self) {
        if let Some(run) = &self.run {
            run.end().await;
        }
        self.finish();
    }

    /// The next piece, when its time has come; `None` when there is no more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        Poll::Ready(match self.stage {
            Stage::Done => None,
            Stage::Reason => {
                if self.reply.text.is_empty() && !self.below_threshold {
                    ready!(self.poll_advance(cx, 1));
                }
                self.finish();
                Some(Piece::End(self.reply.finish_reason))
            }
            Stage::Text(at) => {
                ready!(self.poll_advance(cx, 1));
                let last = at + 1 == self.reply.text.len();
                let told = last && self.reply.finish_reason == "length";
                self.stage = if last { Stage::Reason } else { Stage::Text(at + 1) };
                if told {
                    self.finish();
                }
                Some(Piece::Token(at, told.then_some(self.reply.finish_reason)))
            }
            Stage::Call(call, at) => {
                let arguments = self.reply.calls[call].arguments.len();
                // The tokens around the arguments come with the first fragment.
                let around = self.reply.calls[call].tokens() - arguments;
                ready!(self.poll_advance(cx, if at == 0 { around + 1 } else { 1 }));
                let last = at + 1 >= arguments;
                self.stage = if last {
                    Stage::Call(call + 1, 0)
                } else {
                    Stage::Call(call, at + 1)
                };
                if last && call + 1 == self.reply.calls.len() {
                    self.finish();
                }
                Some(Piece::Fragment(call, at, last))
            }
        })
    }

    fn poll_advance(&mut self, cx: &mut Context<'_>, n: usize) -> Poll<()> {
        match self.run.as_mut() {
            Some(run) => run.poll_advance(cx, n),
            None => Poll::Ready(()),
        }
    }

    /// All is said; the engine has counted the choice and taken its slot back.
    fn finish(&mut self) {
        self.stage = Stage::Done;
        self.run = None;
    }
}
