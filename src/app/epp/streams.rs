//! What all streams share, from the flags: the budget of bytes, the timeouts, and the tick that enforces them.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::base::memory;
use crate::requestcontrol::streams::Streams;
use crate::telemetry::metrics::Metrics;

use super::settings::Settings;

const MIB: u64 = 1 << 20;

/// The budget in bytes: what is asked for, or where that is 0 a fifth of the memory limit.
pub fn max_buffered(asked: u64) -> u64 {
    match asked {
        0 => share_of(memory::limit()),
        bytes => bytes,
    }
}

/// A fifth: the rest is for the process itself, buffers of connections, and the copy that is made of a body while it
/// is read.
fn share_of(memory: Option<u64>) -> u64 {
    memory.map_or(256 * MIB, |m| (m / 5).clamp(40 * MIB, 1024 * MIB))
}

/// The streams of this process; what they hold is on the metrics page.
pub fn shared(settings: &Settings, metrics: &Arc<Metrics>) -> Arc<Streams> {
    let streams = Streams::new(settings.max_buffered, settings.stream_timeouts, metrics.clone());
    let streams = Arc::new(streams);
    let read = Arc::downgrade(&streams);
    metrics.buffered_bytes(settings.max_buffered, move || {
        read.upgrade().map_or(0, |streams| streams.budget().used())
    });
    streams
}

/// Looks at all streams again and again, until `stop`.
pub async fn tick(streams: Arc<Streams>, stop: CancellationToken) {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(streams.interval());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => streams.tick(start.elapsed()),
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_fifth_of_the_memory_within_bounds() {
        assert_eq!(share_of(Some(1024 * MIB)), 1024 * MIB / 5);
        assert_eq!(share_of(Some(128 * MIB)), 40 * MIB);
        assert_eq!(share_of(Some(64 << 30)), 1024 * MIB);
        assert_eq!(share_of(None), 256 * MIB);
        assert_eq!(max_buffered(5 * MIB), 5 * MIB);
    }
}
