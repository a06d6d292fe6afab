//! Waiting for a condition, with an end.

use std::time::{Duration, Instant};

/// The longest a condition may take to come true; far beyond what any should need.
const DEADLINE: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds.
///
/// # Panics
/// When it does not hold within the deadline; `what` says what was waited for.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
