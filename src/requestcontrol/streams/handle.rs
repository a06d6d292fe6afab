//! A stream's own side: what it holds, that it waits, whether it must end.

use std::sync::Arc;
use std::task::Waker;

use super::budget::{BLOCK, FREE, Refusal};
use super::entry::{Entry, Interrupt};
use super::{Place, Streams};

/// One stream among all. Dropping it gives everything back.
pub struct StreamHandle {
    streams: Arc<Streams>,
    /// Made at the first wait, or when the stream begins to hold bytes.
    listed: Option<(Arc<Entry>, Place)>,
    /// Place among those who hold bytes.
    turn: Option<u64>,
    reserved: u64,
    /// Tick of the last wait that was noted, and whether the request was open then.
    noted: (u32, bool),
}

impl StreamHandle {
    /// A stream that has just begun.
    pub fn new(streams: Arc<Streams>) -> Self {
        StreamHandle {
            streams,
            listed: None,
            turn: None,
            reserved: 0,
            noted: (0, false),
        }
    }

    /// What all streams share.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Why the stream must end, if it must.
    #[inline]
    pub fn interrupted(&self) -> Option<Interrupt> {
        self.listed.as_ref()?.0.interrupt()
    }

    /// The stream goes on in spite of the interrupt.
    pub fn go_on(&mut self) {
        self.noted = (0, false);
        if let Some((entry, _)) = &self.listed {
            entry.go_on();
        }
    }

    /// The stream is about to wait, its request not complete yet if `request_open`. Of many waits within one tick only the
    /// first costs more than a comparison.
    #[inline]
    pub fn waits(&mut self, request_open: bool, waker: &Waker) {
        let now = (self.streams.now(), request_open);
        if self.noted != now {
            self.note(now, waker);
        }
    }

    fn note(&mut self, now: (u32, bool), waker: &Waker) {
        self.noted = now;
        let entry = self.entry();
        entry.waits(now.0, now.1, waker);
        // Told before the waker was there: nobody else will wake it.
        if entry.interrupt().is_some() {
            waker.wake_by_ref();
        }
    }

    fn entry(&mut self) -> &Arc<Entry> {
        let streams = &self.streams;
        let (entry, _) = self.listed.get_or_insert_with(|| {
            let entry = Arc::new(Entry::default());
            let place = streams.list(entry.clone());
            (entry, place)
        });
        entry
    }

    /// The stream holds this many bytes now.
    ///
    /// # Errors
    /// They are too many. The stream has to let go, and say how many it holds then.
    #[inline]
    pub fn hold(&mut self, bytes: usize, waker: &Waker) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        let wanted = if bytes <= FREE {
            0
        } else {
            bytes.next_multiple_of(BLOCK)
        };
        if wanted == self.reserved {
            return Ok(());
        }
        self.resize(wanted, waker)
    }

    #[cold]
    fn resize(&mut self, wanted: u64, waker: &Waker) -> Result<(), Refusal> {
        let had = std::mem::replace(&mut self.reserved, wanted);
        if wanted < had {
            self.shrink(had - wanted);
            return Ok(());
        }
        let limit = self.streams.budget.limit();
        if wanted > limit {
            self.reserved = had;
            return Err(Refusal::TooLarge(limit));
        }
        if self.listed.is_none() {
            self.note((self.streams.now(), false), waker);
        }
        let entry = self.entry().clone();
        let budget = &self.streams.budget;
        let turn = *self.turn.get_or_insert_with(|| budget.enter(&entry));
        budget.grow(&entry, turn, wanted - had)
    }

    fn shrink(&mut self, by: u64) {
        let Some((entry, _)) = &self.listed else { return };
        let budget = &self.streams.budget;
        budget.shrink(entry, by);
        if self.reserved == 0
            && let Some(turn) = self.turn.take()
        {
            budget.leave(entry, turn);
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let had = std::mem::take(&mut self.reserved);
        if had > 0 {
            self.shrink(had);
        }
        if let Some((_, place)) = self.listed.take() {
            self.streams.unlist(place);
        }
    }
}
