//! The cycle: everything one decision may look at. No clock, no I/O, no lock, no global.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use crate::model::endpoint_list::EndpointList;
use crate::model::request::InferenceRequest;
use crate::model::sample::Signals;

/// Inputs of a decision. Endpoints are named by their index in `endpoints`; `signals` has the same indices.
pub struct Cycle<'a> {
    /// The request.
    pub request: &'a InferenceRequest,
    /// The candidates, after the subset filter.
    pub endpoints: &'a EndpointList,
    /// Each candidate's numbers, read once for the whole decision.
    pub signals: &'a [Signals],
    /// Endpoints that no profile starts with, by ascending index: those that cannot be reached while enough others can.
    pub avoided: &'a [u32],
    /// The time of the decision.
    pub now: Instant,
    /// Prefix hashes and matches, computed once per request and shared by every profile.
    pub prefix: &'a RefCell<PrefixState>,
}

/// What the hash chain of a prompt depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixKey {
    /// Bytes per block.
    pub block_bytes: usize,
    /// Blocks hashed at most.
    pub max_blocks: usize,
}

/// What one prefix plugin found for this request; buffers are reused from request to request.
#[derive(Clone, Debug, Default)]
pub struct PrefixMatch {
    /// Name of the plugin instance.
    pub plugin: Arc<str>,
    /// Its key, once computed in this cycle.
    pub key: Option<PrefixKey>,
    /// Chained block hashes of the prompt.
    pub hashes: Vec<u64>,
    /// Leading blocks each candidate holds, by candidate index.
    pub matched: Vec<u32>,
    /// Working memory of the plugin, indexed by endpoint slot.
    pub by_slot: Vec<u32>,
}

/// The prefix findings of a cycle, one entry per prefix plugin that has run.
#[derive(Clone, Debug, Default)]
pub struct PrefixState {
    entries: Vec<PrefixMatch>,
}

impl PrefixState {
    /// Forgets the last request, keeping the buffers.
    pub fn reset(&mut self) {
        for entry in &mut self.entries {
            entry.key = None;
            entry.hashes.clear();
            entry.matched.clear();
        }
    }

    /// The entry of `plugin`, made on first use. `key` is `None` until the plugin fills it in this cycle.
    pub fn entry(&mut self, plugin: &Arc<str>) -> &mut PrefixMatch {
        let found = self
            .entries
            .iter()
            .position(|e| Arc::ptr_eq(&e.plugin, plugin) || e.plugin == *plugin);
        let i = found.unwrap_or_else(|| {
            self.entries.push(PrefixMatch {
                plugin: plugin.clone(),
                ..PrefixMatch::default()
            });
            self.entries.len() - 1
        });
        &mut self.entries[i]
    }

    /// The entry of the plugin called `name`, if it ran in this cycle.
    pub fn get(&self, name: &str) -> Option<&PrefixMatch> {
        self.entries
            .iter()
            .find(|e| &*e.plugin == name && e.key.is_some())
    }

    /// All entries filled in this cycle.
    pub fn iter(&self) -> impl Iterator<Item = &PrefixMatch> {
        self.entries.iter().filter(|e| e.key.is_some())
    }
}
