//! Signals: the first one drains, a second one ends the process at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Waits for SIGINT or SIGTERM.
///
/// # Errors
/// Signals cannot be listened to.
pub async fn first_signal() -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    either(&mut interrupt, &mut terminate).await;
    Ok(())
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
pub async fn drained(finished: impl Future<Output = ()>, limit: Duration) -> Result<(), Cut> {
    let second = async {
        if first_signal().await.is_err() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = finished => Ok(()),
        () = tokio::time::sleep(limit) => Err(Cut::Timeout),
        () = second => Err(Cut::Signal),
    }
}
