//! Signals and the drain: the first signal drains, a second one ends the process at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::net::places::Places;

/// Time between two looks at the open streams.
const LOOK: Duration = Duration::from_millis(10);

/// Longest time connections without streams have for ending, so that what was written last is sent.
const GOODBYE: Duration = Duration::from_secs(1);

/// SIGINT and SIGTERM, listened to from when this is made: none that comes later is missed.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts to listen; from now on a signal does not end the process by itself.
    ///
    /// # Errors
    /// Signals cannot be listened to.
    pub fn listen() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Why a drain was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Streams were still open when the time was over.
    #[error("{0} streams were still open after the drain timeout")]
    Timeout(usize),
    /// A second signal came.
    #[error("a second signal ended the drain")]
    Signal,
}

/// How long a drain lasts.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Its longest time. New connections and streams are taken for the first half of it.
    pub timeout: Duration,
    /// It is over when no stream has been open for this long; in the second half, as soon as none is.
    pub quiet: Duration,
}

impl Drain {
    /// Serves on until the drain is over. `closed` is cancelled when the port takes no more connections.
    ///
    /// # Errors
    /// Streams were open at the end of the longest time.
    pub async fn run(self, places: &Places, closed: &CancellationToken) -> Result<(), Cut> {
        let began = Instant::now();
        let (mut quiet_since, mut seen) = (began, 0);
        let ended = loop {
            let (open, all) = places.streams();
            let now = Instant::now();
            if open > 0 || all != seen {
                (quiet_since, seen) = (now, all);
            }
            if now - began >= self.timeout / 2 && !closed.is_cancelled() {
                closed.cancel();
                places.finish();
            }
            if open == 0 && (closed.is_cancelled() || now - quiet_since >= self.quiet) {
                break Ok(());
            }
            if now - began >= self.timeout {
                break Err(Cut::Timeout(open));
            }
            sleep(LOOK).await;
        };
        closed.cancel();
        places.finish();
        if ended.is_ok() {
            let _ = tokio::time::timeout(GOODBYE, async {
                while places.connections() > 0 {
                    sleep(LOOK).await;
                }
            })
            .await;
        }
        ended
    }
}
