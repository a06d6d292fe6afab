//! Starts what tells others about the KV cache: the publisher, and the socket that answers who has missed something.
//! Called by `run`.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::run::RunError;
use crate::net::listen::{self, Reach};
use crate::simulator::kv_events::publisher;
use crate::simulator::kv_events::replay::{self, Replay};
use crate::simulator::kv_events::window::Window;
use crate::simulator::machine::Events;

/// Starts both; they end with the runtime.
///
/// # Errors
/// The port of the second one cannot be opened.
pub fn start((target, inbox): Events) -> Result<(), RunError> {
    let mut window = None;
    if let Some(again) = &target.replay {
        let reach = again.address.map_or(Reach::Everyone, Reach::Address);
        let listener = listen::bind(reach, again.port, "kv-events-replay-endpoint")?;
        let kept = Arc::new(Window::new(again.messages));
        let replay = Replay {
            window: kept.clone(),
            topic: again.with_topic.then(|| target.topic.to_string()),
            stalled: replay::STALLED,
        };
        tracing::info!(
            port = again.port,
            rank = target.rank,
            "KV events can be asked for again"
        );
        tokio::spawn(replay::serve(TcpListener::from_std(listener)?, replay));
        window = Some(kept);
    }
    tokio::spawn(publisher::run(target, inbox, window));
    Ok(())
}
