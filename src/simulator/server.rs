//! One simulated server: its settings, its state, and what is asked of it beside generating. Made by `app::sim`,
//! used by everything in [`super::http`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Config;
use super::dataset::Dataset;
use super::machine::Machine;
use super::tokenizer::Tokenizer;

/// Adapters known at once.
const MAX_ADAPTERS: usize = 10_000;

/// Longest name of an adapter, bytes.
const MAX_ADAPTER_NAME: usize = 512;

/// Request bodies over a mebibyte that are in memory at once; more wait.
const LARGE_BODIES: usize = 16;

/// One simulated server.
pub struct Simulator {
    /// Settings.
    pub config: Config,
    /// Engine, cache, metrics, failures.
    pub machine: Machine,
    /// Cuts texts.
    pub tokenizer: Tokenizer,
    /// Answers from a file, where one is given.
    pub dataset: Option<Arc<Dataset>>,
    /// Places for large bodies.
    pub large_bodies: Arc<Semaphore>,
    /// Names of adapters, in the order they came. Read by every request, written when one is loaded.
    adapters: RwLock<Vec<Arc<str>>>,
    requests: AtomicU64,
    sleep: Mutex<Sleep>,
    stopping: AtomicBool,
}

#[derive(Clone, Copy, Default)]
struct Sleep {
    asleep: bool,
    cache_off: bool,
}

/// A model as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What answers call it.
    pub name: Arc<str>,
    /// The adapter, if it is one.
    pub adapter: Option<Arc<str>>,
}

/// A request's place in the order of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Counts from 0.
    pub number: u64,
    /// What answers and headers say.
    pub text: String,
}

impl Simulator {
    /// An idle simulator.
    pub fn new(
        config: Config,
        machine: Machine,
        tokenizer: Tokenizer,
        dataset: Option<Arc<Dataset>>,
    ) -> Self {
        Simulator {
            machine,
            tokenizer,
            dataset,
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            adapters: RwLock::new(config.adapters.iter().map(|a| Arc::from(a.as_str())).collect()),
            requests: AtomicU64::new(0),
            sleep: Mutex::default(),
            stopping: AtomicBool::new(false),
            config,
        }
    }

    /// The first served name.
    pub fn first_name(&self) -> &str {
        self.config.served_names.first().unwrap_or(&self.config.model)
    }

    /// The model asked for; `None`: unknown.
    pub fn asked(&self, model: &str) -> Option<Asked> {
        if self.config.served_names.iter().any(|n| n == model) {
            return Some(Asked {
                name: Arc::from(self.first_name()),
                adapter: None,
            });
        }
        let adapters = self.adapters.read();
        let adapter = adapters.iter().find(|a| a.as_ref() == model)?.clone();
        Some(Asked {
            name: adapter.clone(),
            adapter: Some(adapter),
        })
    }

    /// The adapters now.
    pub fn adapters(&self) -> Vec<Arc<str>> {
        self.adapters.read().clone()
    }

    /// Makes an adapter known; nothing changes if it is.
    ///
    /// # Errors
    /// The name is empty or too long, or there are too many.
    pub fn load_adapter(&self, name: &str) -> Result<(), String> {
        if name.is_empty() || name.len() > MAX_ADAPTER_NAME {
            return Err(format!("lora_name must have 1 to {MAX_ADAPTER_NAME} bytes"));
        }
        let mut adapters = self.adapters.write();
        if adapters.iter().any(|a| a.as_ref() == name) {
            return Ok(());
        }
        if adapters.len() >= MAX_ADAPTERS {
            return Err(format!(
                "there are {MAX_ADAPTERS} adapters already; unload some first"
            ));
        }
        adapters.push(Arc::from(name));
        Ok(())
    }

    /// Forgets an adapter; requests under way go on.
    pub fn unload_adapter(&self, name: &str) {
        self.adapters.write().retain(|a| a.as_ref() != name);
    }

    /// The id of the next request: `given` where the client may choose and has, else UUIDv5 of seed, port and number.
    pub fn next_id(&self, given: Option<&str>) -> RequestId {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let text = match given.filter(|id| self.config.request_id_headers && !id.is_empty()) {
            Some(given) => given.to_owned(),
            None => made_id(self.config.seed, self.config.port, number),
        };
        RequestId { number, text }
    }

    /// Goes to sleep, where that is allowed: the cache is emptied and off. Requests are answered as before.
    pub fn fall_asleep(&self) {
        if self.config.sleep_mode {
            let mut sleep = self.sleep.lock();
            *sleep = Sleep {
                asleep: true,
                cache_off: true,
            };
            self.machine.engine.switch_cache(false);
        }
    }

    /// Wakes up; the cache stays off unless it is woken too.
    pub fn wake_up(&self, cache_too: bool) {
        let mut sleep = self.sleep.lock();
        sleep.asleep = false;
        if cache_too && std::mem::take(&mut sleep.cache_off) {
            self.machine.engine.switch_cache(true);
        }
    }

    /// Is it asleep?
    pub fn is_asleep(&self) -> bool {
        self.sleep.lock().asleep
    }

    /// From now on new requests are refused.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Are new requests refused?
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

fn made_id(seed: u64, port: u16, number: u64) -> String {
    // Seeds are signed numbers on the command line.
    let name = format!("{}-{port}-{number}", seed.cast_signed());
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_specification() {
        assert_eq!(made_id(42, 8000, 0), "cda04074-6efd-5c7c-a13c-725a8b68df45");
        assert_eq!(made_id(42, 8000, 1), "e4059423-e80a-5ae9-907a-9bcb0ef160bc");
    }
}
