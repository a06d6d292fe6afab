//! Tells others which blocks the KV cache has (simulator.md §11.3): the engine hands changes to an [`Outbox`], a task
//! ([`publisher`]) sends them in batches over ZMQ, and [`replay`] sends the latest ones again. What nobody takes is
//! dropped, never waited for.

mod layout;
pub mod publisher;
pub mod replay;
pub mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

pub use layout::Layout;

use super::engine::Job;
use super::kv_cache::Change;

/// Events that wait to be sent, at most.
const PENDING: usize = 10_000;

/// Bytes of them, at most.
const PENDING_BYTES: usize = 64 << 20;

/// Where changes of the cache go; owned by the engine.
pub struct Outbox {
    layout: Layout,
    block_size: usize,
    to_publisher: mpsc::Sender<Vec<u8>>,
    pending_bytes: Arc<AtomicUsize>,
    dropping: bool,
}

/// What has been put into an [`Outbox`], encoded.
pub struct Inbox {
    events: mpsc::Receiver<Vec<u8>>,
    pending_bytes: Arc<AtomicUsize>,
}

/// Both ends, for blocks of `block_size` tokens.
pub fn channel(layout: Layout, block_size: usize) -> (Outbox, Inbox) {
    let (to_publisher, events) = mpsc::channel(PENDING);
    let pending_bytes = Arc::<AtomicUsize>::default();
    let outbox = Outbox {
        layout,
        block_size,
        to_publisher,
        pending_bytes: pending_bytes.clone(),
        dropping: false,
    };
    (
        outbox,
        Inbox {
            events,
            pending_bytes,
        },
    )
}

impl Outbox {
    /// Blocks of a job have come and others gone; places in `changes` count from the job's block `offset`.
    pub fn changed(&mut self, changes: &[Change], offset: usize, job: &Job) {
        for event in layout::events(self.layout, changes, offset, job, self.block_size) {
            self.send(event);
        }
    }

    /// The cache was emptied.
    pub fn cleared(&mut self) {
        self.send(layout::cleared(self.layout));
    }

    fn send(&mut self, event: Vec<u8>) {
        let bytes = event.len();
        // Counted before it is sent, so that the other end never takes off more than is there.
        let before = self.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= PENDING_BYTES && self.to_publisher.try_send(event).is_ok() {
            self.dropping = false;
            return;
        }
        self.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !self.dropping {
            self.dropping = true;
            tracing::warn!("KV events come faster than they are taken; some are dropped");
        }
    }
}

impl Inbox {
    /// The next event, if there is one already.
    #[cfg(test)]
    pub fn taken(&mut self) -> Option<Vec<u8>> {
        self.events.try_recv().ok()
    }

    /// The next event; `None`: the engine is gone.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let event = self.events.recv().await?;
        self.pending_bytes.fetch_sub(event.len(), Ordering::Relaxed);
        Some(event)
    }
}
