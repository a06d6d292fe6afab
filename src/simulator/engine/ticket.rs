//! A job from its owner's side: how far it is, and what to wait for. Dropped, it takes its job out of the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::Engine;

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const BELOW_THRESHOLD: u8 = 2;
const DONE: u8 = 3;

/// No cache.
const NO_CACHE: u32 = u32::MAX;

/// What the engine writes and the owner reads: a few numbers, however long the answer.
#[derive(Debug)]
pub struct Cell {
    stage: AtomicU8,
    cached: AtomicU32,
    produced: AtomicU32,
    waker: AtomicWaker,
}

impl Default for Cell {
    fn default() -> Self {
        Cell {
            stage: AtomicU8::new(WAITING),
            cached: AtomicU32::new(NO_CACHE),
            produced: AtomicU32::new(0),
            waker: AtomicWaker::new(),
        }
    }
}

impl Cell {
    /// It runs, with so many tokens found in the cache.
    pub fn start(&self, cached: Option<usize>) {
        let cached = cached.map_or(NO_CACHE, |n| u32::try_from(n).unwrap_or(NO_CACHE - 1));
        self.cached.store(cached, Ordering::Relaxed);
        self.stage.store(RUNNING, Ordering::Release);
    }

    /// Prompt tokens found in the cache; `None` without a cache.
    pub fn cached(&self) -> Option<usize> {
        let cached = self.cached.load(Ordering::Relaxed);
        (cached != NO_CACHE).then_some(cached as usize)
    }

    /// So many tokens are there.
    pub fn produce(&self, tokens: u32) {
        self.produced.store(tokens, Ordering::Release);
    }

    /// It is over; `below`: too little was cached.
    pub fn finish(&self, below: bool) {
        let stage = if below { BELOW_THRESHOLD } else { DONE };
        self.stage.store(stage, Ordering::Release);
    }

    /// Wakes the owner.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Is it over?
    pub fn is_over(&self) -> bool {
        self.stage() > RUNNING
    }

    fn stage(&self) -> u8 {
        self.stage.load(Ordering::Acquire)
    }
}

/// How a job has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Prompt tokens found in the cache; `None` without a cache.
    pub cached: Option<usize>,
    /// Too little was cached: the job is over and nothing is generated.
    pub below_threshold: bool,
}

/// A job in the engine.
pub struct Ticket {
    engine: Engine,
    order: u64,
    cell: Arc<Cell>,
}

impl Ticket {
    pub(super) fn new(engine: Engine, order: u64, cell: Arc<Cell>) -> Self {
        Ticket { engine, order, cell }
    }

    /// Waits for the job to run.
    pub async fn started(&self) -> Started {
        std::future::poll_fn(|cx| self.poll_until(cx, |stage, _| stage != WAITING)).await;
        Started {
            cached: self.cell.cached(),
            below_threshold: self.cell.stage() == BELOW_THRESHOLD,
        }
    }

    /// Waits until so many tokens are there, or all there will be. They may have been there for long.
    pub async fn reach(&self, tokens: usize) {
        std::future::poll_fn(|cx| self.poll_reach(cx, tokens)).await;
    }

    /// The same, for whoever polls.
    pub fn poll_reach(&self, cx: &mut Context<'_>, tokens: usize) -> Poll<()> {
        self.poll_until(cx, |stage, produced| {
            stage > RUNNING || (stage == RUNNING && produced as usize >= tokens)
        })
    }

    /// Tokens that are there.
    pub fn produced(&self) -> usize {
        self.cell.produced.load(Ordering::Acquire) as usize
    }

    fn poll_until(&self, cx: &mut Context<'_>, enough: impl Fn(u8, u32) -> bool) -> Poll<()> {
        let enough = || enough(self.cell.stage(), self.cell.produced.load(Ordering::Acquire));
        if enough() {
            return Poll::Ready(());
        }
        self.cell.waker.register(cx.waker());
        // What has happened before the waker was there is seen now.
        if enough() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.cell.is_over() {
            self.engine.cancel(self.order);
        }
    }
}
