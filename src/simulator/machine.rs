//! The machinery behind the answers of one server: the engine, how prompts become blocks, what is told to others about
//! them, and which requests fail on purpose. Made by `app::sim`, used where requests are answered.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::engine::{self, Engine};
use super::failure::{Failure, Failures};
use super::kv_cache::hash::{Algorithm, Hasher};
use super::kv_events::publisher::Target;
use super::kv_events::{self, Inbox, Layout};

/// What the machinery is told, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the base model, part of hashes and of what failures say.
    pub model: String,
    /// Makes failures reproducible.
    pub seed: u64,
    /// The engine.
    pub engine: engine::Config,
    /// Failures.
    pub failures: Failures,
    /// How blocks are hashed, and from which seed.
    pub hashing: (Algorithm, String),
    /// Where events of the cache go, and how they are written.
    pub events: Option<(Target, Layout)>,
}

/// The machinery of one server.
pub struct Machine {
    /// The engine.
    pub engine: Engine,
    model: String,
    hasher: Option<Hasher>,
    /// Events carry the tokens of blocks.
    with_ids: bool,
    failures: Failures,
    draws: Mutex<SmallRng>,
}

/// Events on their way: [`kv_events::publisher::run`] sends them.
pub type Events = (Target, Inbox);

impl Machine {
    /// Starts the machinery; what it says about its cache comes out of the second part.
    ///
    /// # Errors
    /// The engine's thread cannot be started.
    pub fn start(settings: Settings) -> io::Result<(Self, Option<Events>)> {
        let block_size = settings.engine.labels.cache.0;
        let events = settings.events.filter(|_| settings.engine.cache);
        let with_ids = events
            .as_ref()
            .is_some_and(|(_, layout)| *layout != Layout::Block);
        let (outbox, events) = match events {
            Some((target, layout)) => {
                let (outbox, inbox) = kv_events::channel(layout, block_size);
                (Some(outbox), Some((target, inbox)))
            }
            None => (None, None),
        };
        let (algorithm, seed) = &settings.hashing;
        let hasher = Hasher::new(*algorithm, seed, &settings.model, block_size);
        let machine = Machine {
            hasher: settings.engine.cache.then_some(hasher),
            engine: Engine::new(settings.engine, outbox)?,
            model: settings.model,
            with_ids,
            failures: settings.failures,
            draws: Mutex::new(SmallRng::seed_from_u64(settings.seed)),
        };
        Ok((machine, events))
    }

    /// Does the next request fail on purpose, and how?
    pub fn fails(&self) -> Option<Failure> {
        if self.failures.rate == 0 {
            return None;
        }
        let kind = self.failures.draw(&mut *self.draws.lock())?;
        Some(kind.failure(&self.model))
    }

    /// What a job says about the tokens of prompt and answer: the hashes of their blocks, and their ids where events
    /// carry them. Nothing without a cache.
    pub fn blocks(
        &self,
        adapter: Option<&str>,
        ids: impl Iterator<Item = u32> + Clone,
    ) -> (Vec<u64>, Option<Arc<[u32]>>) {
        let Some(hasher) = &self.hasher else {
            return (Vec::new(), None);
        };
        let kept = self.with_ids.then(|| ids.clone().collect());
        (hasher.blocks(adapter, ids), kept)
    }
}
