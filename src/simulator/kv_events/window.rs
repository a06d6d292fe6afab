//! The latest messages of the publisher, kept for who has missed them. Filled by `publisher`, read by `replay`.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes of messages kept at most.
const BYTES: usize = 64 << 20;

/// The latest messages, numbered from 1 on without a gap.
pub struct Window {
    messages: usize,
    // Held for one push or one look-up.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Bytes>,
    /// Number of the first of them, or of the first that will come.
    first: u64,
    bytes: usize,
}

impl Window {
    /// Room for so many messages, at least 1.
    pub fn new(messages: usize) -> Self {
        let kept = Kept {
            first: 1,
            ..Kept::default()
        };
        Window {
            messages: messages.max(1),
            kept: Mutex::new(kept),
        }
    }

    /// Keeps the next message. The oldest ones go when there are too many, or too many bytes.
    pub fn keep(&self, batch: Bytes) {
        let mut kept = self.kept.lock();
        kept.bytes += batch.len();
        kept.batches.push_back(batch);
        while kept.batches.len() > self.messages || (kept.bytes > BYTES && kept.batches.len() > 1) {
            let oldest = kept.batches.pop_front();
            kept.bytes -= oldest.map_or(0, |b| b.len());
            kept.first += 1;
        }
    }

    /// The oldest message with this number or a greater one.
    pub fn next(&self, number: u64) -> Option<(u64, Bytes)> {
        let kept = self.kept.lock();
        let number = number.max(kept.first);
        let at = usize::try_from(number - kept.first).ok()?;
        Some((number, kept.batches.get(at)?.clone()))
    }

    /// The number of the newest message; 0: there is none yet.
    pub fn newest(&self) -> u64 {
        let kept = self.kept.lock();
        kept.first + kept.batches.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(window: &Window, from: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut from = from;
        while let Some((number, batch)) = window.next(from) {
            assert_eq!(batch[0], number as u8);
            numbers.push(number);
            from = number + 1;
        }
        numbers
    }

    #[test]
    fn the_oldest_messages_go_first() {
        let window = Window::new(3);
        assert_eq!((window.newest(), window.next(0)), (0, None));
        for number in 1..=5u8 {
            window.keep(Bytes::from(vec![number]));
            assert_eq!(window.newest(), u64::from(number));
        }
        for (from, kept) in [
            (0, &[3, 4, 5][..]),
            (1, &[3, 4, 5]),
            (4, &[4, 5]),
            (6, &[]),
            (u64::MAX, &[]),
        ] {
            assert_eq!(numbers(&window, from), kept, "{from}");
        }
    }

    #[test]
    fn bytes_are_limited_but_the_newest_message_is_kept() {
        let window = Window::new(1000);
        let message = |number: u8, size: usize| {
            let mut batch = vec![0; size];
            batch[0] = number;
            window.keep(batch.into());
        };
        message(1, BYTES / 2);
        message(2, BYTES / 2);
        assert_eq!(numbers(&window, 0), [1, 2]);
        message(3, 1);
        assert_eq!(numbers(&window, 0), [2, 3]);
        message(4, BYTES + 1);
        assert_eq!(numbers(&window, 0), [4]);
    }
}
