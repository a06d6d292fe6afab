//! The machinery behind the answers of one server: the engine, how prompts become blocks, what is told to others about
//! them, and which requests fail on purpose. Made by `app::sim`, used where requests are answered.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::control::{Control, Fields, Reader};
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
    /// Reads changes of all this while it runs.
    pub reader: Reader,
}

/// The machinery of one server.
pub struct Machine {
    /// The engine.
    pub engine: Engine,
    model: String,
    hasher: Option<Hasher>,
    /// Events carry the tokens of blocks.
    with_ids: bool,
    // One lock for both: a change of the first and a draw from the second are as short as each other.
    failures: Mutex<(Failures, SmallRng)>,
    control: Control,
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
            failures: Mutex::new((settings.failures, SmallRng::seed_from_u64(settings.seed))),
            control: Control::new(settings.reader),
        };
        Ok((machine, events))
    }

    /// Does the next request fail on purpose, and how?
    pub fn fails(&self) -> Option<Failure> {
        let (failures, draws) = &mut *self.failures.lock();
        if failures.rate == 0 {
            return None;
        }
        Some(failures.draw(draws)?.failure(&self.model))
    }

    /// The settings now, by the names of flags.
    ///
    /// # Errors
    /// They cannot be read again.
    pub fn configuration(&self) -> Result<Fields, String> {
        self.control.shown()
    }

    /// Changes latencies, failures and made-up metrics; the settings then.
    ///
    /// # Errors
    /// What is wrong with the changes; nothing has changed.
    pub fn change(&self, fields: &Fields) -> Result<Fields, String> {
        self.control.change(fields, |effective| {
            self.failures.lock().0 = effective.failures;
            self.engine.change(effective.latency, effective.fake);
        })
    }

    /// What a job says about the tokens of prompt and answer: the hashes of their blocks, and their ids where events
    /// carry them. Nothing without a cache.
    pub fn blocks(
        &self,
        adapter: Option<&str>,
        ids: impl FnOnce() -> Vec<u32>,
    ) -> (Vec<u64>, Option<Arc<[u32]>>) {
        let Some(hasher) = &self.hasher else {
            return (Vec::new(), None);
        };
        let ids = ids();
        let blocks = hasher.blocks(adapter, &ids);
        (blocks, self.with_ids.then(|| ids.into()))
    }
}
