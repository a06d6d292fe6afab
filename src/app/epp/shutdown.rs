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

/// Waits for `finished`, at most `limit` and not past another signal. Was it reached?
pub async fn drained(finished: impl Future<Output = ()>, limit: Duration) -> bool {
    let second = async {
        if first_signal().await.is_err() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = finished => true,
        () = tokio::time::sleep(limit) => false,
        () = second => false,
    }
}
