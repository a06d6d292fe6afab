//! Signals: the first one drains, a second one ends the process at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

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
    #[error("streams were still open after the drain timeout")]
    Timeout,
    /// A second signal came.
    #[error("a second signal ended the drain")]
    Signal,
}

/// Waits for `finished`, at most `limit` and not past another signal.
///
/// # Errors
/// What cut the wait short.
pub async fn drained(
    finished: impl Future<Output = ()>,
    limit: Duration,
    signals: &mut Signals,
) -> Result<(), Cut> {
    tokio::select! {
        () = finished => Ok(()),
        () = tokio::time::sleep(limit) => Err(Cut::Timeout),
        _ = signals.next() => Err(Cut::Signal),
    }
}
