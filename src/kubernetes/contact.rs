//! When the API server last answered: the time of its last word, and a heartbeat that asks for one when there has been none.
//! A watch may be quiet for hours because nothing changes; the heartbeat tells that from a server that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kube::Client;
use kube::client::Body;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Longest time without a word before the server is asked for one.
const INTERVAL: Duration = Duration::from_secs(5);

/// What everybody who is known to the server may ask for, and what costs it nothing.
const PATH: &str = "/version";

/// The time of the API server's last word. Share it in an `Arc`.
#[derive(Debug)]
pub struct Contact {
    start: Instant,
    /// Milliseconds from `start` to the last word.
    heard: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Contact {
            start: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }
}

impl Contact {
    /// Something has come from the API server: the head of an answer, or a piece of a body.
    pub fn heard(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.fetch_max(now, Ordering::Relaxed);
    }

    /// Time since the last word; before the first one, since the start.
    pub fn age(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(heard)
    }

    /// Asks for a word when none has come for five seconds, and logs when the server stops answering and when it answers
    /// again. Runs until `stop`.
    pub async fn keep(self: Arc<Self>, client: Client, stop: CancellationToken) {
        let mut away = false;
        loop {
            let pause = INTERVAL.saturating_sub(self.age()).max(INTERVAL / 10);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            if self.age() >= INTERVAL {
                let asked = tokio::select! {
                    () = stop.cancelled() => return,
                    asked = ask(&client) => asked,
                };
                if let Err(error) = asked
                    && !away
                {
                    away = true;
                    let age = self.age().as_secs();
                    tracing::warn!(
                        error,
                        seconds = age,
                        "The API server does not answer: what is known of the pool stays in use"
                    );
                }
            }
            if away && self.age() < INTERVAL {
                away = false;
                tracing::info!("The API server answers again");
            }
        }
    }
}

/// Any answer is a word, a refusal as well.
async fn ask(client: &Client) -> Result<(), String> {
    let request = http::Request::get(PATH).body(Body::empty());
    let request = request.map_err(|e| e.to_string())?;
    match client.send(request).await {
        Ok(_) => Ok(()),
        Err(error) => Err(super::innermost(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_falls_with_every_word() {
        let start = Instant::now().checked_sub(Duration::from_secs(60));
        let contact = Contact {
            start: start.unwrap(),
            ..Contact::default()
        };
        assert!(contact.age() >= Duration::from_secs(60));
        contact.heard();
        assert!(contact.age() < Duration::from_secs(30));
    }
}
