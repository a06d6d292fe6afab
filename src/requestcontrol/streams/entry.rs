//! One stream as others see it: since when it waits, what it holds, why it must end.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

/// Why a stream must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Its bytes are needed for others: it has held some for the longest time.
    Shed,
    /// Its request was not complete in time.
    BodyTimeout,
    /// Nothing has come or gone for too long.
    Idle,
}

const NONE: u8 = 0;
const SHED: u8 = 1;
const BODY_TIMEOUT: u8 = 2;
const IDLE: u8 = 3;

/// Shared between a stream and those who may end it. Ticks are those of the registry.
#[derive(Debug, Default)]
pub struct Entry {
    waker: AtomicWaker,
    interrupt: AtomicU8,
    /// Tick of the first wait for the request; 0 when the request is complete.
    waiting_since: AtomicU32,
    /// Tick of the last wait.
    active: AtomicU32,
    /// Bytes reserved in the budget.
    pub(super) reserved: AtomicU64,
    /// Of these, bytes counted as soon free since the stream was shed.
    pub(super) doomed: AtomicU64,
}

impl Entry {
    /// The stream waits: `waker` wakes it. `request_open` tells that its request is not complete.
    pub fn waits(&self, now: u32, request_open: bool, waker: &Waker) {
        self.active.store(now, Ordering::Relaxed);
        if !request_open {
            self.waiting_since.store(0, Ordering::Relaxed);
        } else if self.waiting_since.load(Ordering::Relaxed) == 0 {
            self.waiting_since.store(now, Ordering::Relaxed);
        }
        self.waker.register(waker);
    }

    /// Why it must end, if it must.
    pub fn interrupt(&self) -> Option<Interrupt> {
        match self.interrupt.load(Ordering::Acquire) {
            SHED => Some(Interrupt::Shed),
            BODY_TIMEOUT => Some(Interrupt::BodyTimeout),
            IDLE => Some(Interrupt::Idle),
            _ => None,
        }
    }

    /// The stream goes on in spite of the interrupt.
    pub fn go_on(&self) {
        self.interrupt.store(NONE, Ordering::Release);
    }

    /// Ends the stream.
    pub fn end(&self, why: Interrupt) {
        let why = match why {
            Interrupt::Shed => SHED,
            Interrupt::BodyTimeout => BODY_TIMEOUT,
            Interrupt::Idle => IDLE,
        };
        self.interrupt.store(why, Ordering::Release);
        self.waker.wake();
    }

    /// Ends the stream if its time is up.
    pub fn look(&self, now: u32, body: Option<u32>, idle: Option<u32>) {
        if self.interrupt.load(Ordering::Relaxed) != NONE {
            // It may have been told between two registrations.
            self.waker.wake();
            return;
        }
        let since = self.waiting_since.load(Ordering::Relaxed);
        let over = |from: u32, limit: Option<u32>| limit.is_some_and(|l| now.wrapping_sub(from) > l);
        if since != 0 && over(since, body) {
            self.end(Interrupt::BodyTimeout);
        } else if over(self.active.load(Ordering::Relaxed), idle) {
            self.end(Interrupt::Idle);
        }
    }
}
