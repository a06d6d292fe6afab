//! KV events as MessagePack, in the layouts that routers of different versions read (simulator.md §11.3).

use super::super::engine::Job;
use super::super::kv_cache::Change;

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// An array for every block, without its tokens.
    #[default]
    Block,
    /// An array for every change of a request, with tokens, parent and adapter, as vLLM has them.
    Request,
    /// The same, as a map with names.
    Map,
}

/// Stored blocks that follow each other in a request.
struct Stored<'a> {
    hashes: &'a [u64],
    parent: Option<u64>,
    tokens: &'a [u32],
    block_size: usize,
    adapter: Option<&'a str>,
}

/// The events of some changes, each encoded; places count from the job's block `offset`.
pub fn events(
    layout: Layout,
    changes: &[Change],
    offset: usize,
    job: &Job,
    block_size: usize,
) -> Vec<Vec<u8>> {
    if layout == Layout::Block {
        let one = |change: &Change| match *change {
            Change::Removed(hash) => block_removed(hash),
            Change::Stored(at) => block_stored(job.blocks[offset + at]),
        };
        return changes.iter().map(one).collect();
    }
    let removed: Vec<u64> = changes
        .iter()
        .filter_map(|c| match c {
            Change::Removed(hash) => Some(*hash),
            Change::Stored(_) => None,
        })
        .collect();
    let stored: Vec<usize> = changes
        .iter()
        .filter_map(|c| match c {
            Change::Stored(at) => Some(offset + at),
            Change::Removed(_) => None,
        })
        .collect();
    let mut out = Vec::new();
    if !removed.is_empty() {
        out.push(blocks_removed(layout, &removed));
    }
    for run in stored.chunk_by(|a, b| a + 1 == *b) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let ids = job.ids.as_deref().unwrap_or_default();
        let tokens = ids.get(first * block_size..(last + 1) * block_size);
        let stored = Stored {
            hashes: &job.blocks[first..=last],
            parent: first.checked_sub(1).map(|before| job.blocks[before]),
            tokens: tokens.unwrap_or_default(),
            block_size,
            adapter: job.adapter.as_deref(),
        };
        out.push(blocks_stored(layout, &stored));
    }
    out
}

/// The event of an emptied cache.
pub fn cleared(layout: Layout) -> Vec<u8> {
    let mut out = Pack::default();
    if layout == Layout::Map {
        out.map(1);
        out.text("type");
    } else {
        out.array(1);
    }
    out.text("AllBlocksCleared");
    out.0
}

/// A batch: its time in Unix seconds, its encoded events, and the rank they are of.
pub fn batch(time: f64, events: &[Vec<u8>], rank: u16) -> Vec<u8> {
    let mut out = Pack::default();
    out.array(3);
    out.float(time);
    out.array(events.len());
    events.iter().for_each(|e| out.0.extend_from_slice(e));
    out.number(u64::from(rank));
    out.0
}

fn block_stored(hash: u64) -> Vec<u8> {
    let mut out = Pack::default();
    out.array(7);
    out.text("BlockStored");
    out.hashes(&[hash]);
    out.nil();
    out.nil();
    out.number(0);
    out.nil();
    out.nil();
    out.0
}

fn block_removed(hash: u64) -> Vec<u8> {
    let mut out = Pack::default();
    out.array(3);
    out.text("BlockRemoved");
    out.hashes(&[hash]);
    out.nil();
    out.0
}

fn blocks_removed(layout: Layout, hashes: &[u64]) -> Vec<u8> {
    let mut out = Pack::default();
    if layout == Layout::Map {
        out.map(3);
        out.entry("type");
        out.text("BlockRemoved");
        out.entry("block_hashes");
        out.hashes(hashes);
        out.entry("medium");
    } else {
        out.array(3);
        out.text("BlockRemoved");
        out.hashes(hashes);
    }
    out.text("GPU");
    out.0
}

fn blocks_stored(layout: Layout, stored: &Stored) -> Vec<u8> {
    let mut out = Pack::default();
    let adapter = stored.adapter;
    if layout == Layout::Map {
        out.map(7 + usize::from(adapter.is_some()));
        out.entry("type");
        out.text("BlockStored");
        out.entry("block_hashes");
        out.hashes(stored.hashes);
        out.entry("parent_block_hash");
        match stored.parent {
            Some(parent) => out.hash(parent),
            None => out.nil(),
        }
        out.entry("token_ids");
        out.tokens(stored.tokens);
        out.entry("block_size");
        out.number(stored.block_size as u64);
        out.entry("lora_id");
        out.nil();
        out.entry("medium");
        out.text("GPU");
        if let Some(name) = adapter {
            out.entry("lora_name");
            out.text(name);
        }
        return out.0;
    }
    out.array(9);
    out.text("BlockStored");
    out.hashes(stored.hashes);
    out.hash(stored.parent.unwrap_or(0));
    out.tokens(stored.tokens);
    out.number(stored.block_size as u64);
    out.nil();
    out.text("GPU");
    match adapter {
        Some(name) => out.text(name),
        None => out.nil(),
    }
    out.nil();
    out.0
}

/// MessagePack, as far as events need it. Hashes always take nine bytes, as Go writes them, which no library of ours
/// does by itself.
#[derive(Default)]
struct Pack(Vec<u8>);

impl Pack {
    fn nil(&mut self) {
        self.0.push(0xc0);
    }

    fn hash(&mut self, hash: u64) {
        self.0.push(0xcf);
        self.0.extend_from_slice(&hash.to_be_bytes());
    }

    fn hashes(&mut self, hashes: &[u64]) {
        self.array(hashes.len());
        hashes.iter().for_each(|h| self.hash(*h));
    }

    fn tokens(&mut self, tokens: &[u32]) {
        self.array(tokens.len());
        tokens.iter().for_each(|t| self.number(u64::from(*t)));
    }

    fn float(&mut self, x: f64) {
        self.0.push(0xcb);
        self.0.extend_from_slice(&x.to_be_bytes());
    }

    fn number(&mut self, n: u64) {
        match n {
            0..0x80 => self.0.push(n as u8),
            0x80..0x1_0000_0000 => {
                self.0.push(0xce);
                self.0.extend_from_slice(&(n as u32).to_be_bytes());
            }
            _ => self.hash(n),
        }
    }

    fn text(&mut self, text: &str) {
        self.head(text.len(), 0xa0, 32, 0xda, 0xdb);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// The name of a map's entry.
    fn entry(&mut self, name: &str) {
        self.text(name);
    }

    fn array(&mut self, n: usize) {
        self.head(n, 0x90, 16, 0xdc, 0xdd);
    }

    fn map(&mut self, n: usize) {
        self.head(n, 0x80, 16, 0xde, 0xdf);
    }

    fn head(&mut self, n: usize, fixed: u8, fixed_below: usize, two: u8, four: u8) {
        if n < fixed_below {
            self.0.push(fixed | n as u8);
        } else if let Ok(n) = u16::try_from(n) {
            self.0.push(two);
            self.0.extend_from_slice(&n.to_be_bytes());
        } else {
            self.0.push(four);
            self.0
                .extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    use serde_json::{Value, json};

    fn job(adapter: Option<&str>) -> Job {
        Job {
            adapter: adapter.map(Arc::from),
            prompt: 8,
            output: 0,
            finish_reason: "stop",
            max_tokens: None,
            remote_prefill: false,
            blocks: vec![11, 12, 13, u64::MAX],
            ids: Some((1..=8).collect()),
            cache_hit_threshold: None,
            cache_threshold_forced: false,
            seed: 0,
            arrived: Instant::now(),
        }
    }

    fn read(event: &[u8]) -> Value {
        rmp_serde::from_slice(event).unwrap()
    }

    const CHANGES: [Change; 5] = [
        Change::Removed(7),
        Change::Stored(0),
        Change::Removed(8),
        Change::Stored(1),
        Change::Stored(3),
    ];

    fn decoded(layout: Layout, adapter: Option<&str>) -> Vec<Value> {
        let events = events(layout, &CHANGES, 0, &job(adapter), 2);
        events.iter().map(|e| read(e)).collect()
    }

    #[test]
    fn one_event_a_block_in_the_order_of_the_changes() {
        assert_eq!(
            decoded(Layout::Block, None),
            [
                json!(["BlockRemoved", [7], null]),
                json!(["BlockStored", [11], null, null, 0, null, null]),
                json!(["BlockRemoved", [8], null]),
                json!(["BlockStored", [12], null, null, 0, null, null]),
                json!(["BlockStored", [u64::MAX], null, null, 0, null, null]),
            ]
        );
        assert_eq!(read(&cleared(Layout::Block)), json!(["AllBlocksCleared"]));
    }

    #[test]
    fn one_event_a_request_with_tokens_parent_and_adapter() {
        assert_eq!(
            decoded(Layout::Request, Some("l")),
            [
                json!(["BlockRemoved", [7, 8], "GPU"]),
                json!([
                    "BlockStored",
                    [11, 12],
                    0,
                    [1, 2, 3, 4],
                    2,
                    null,
                    "GPU",
                    "l",
                    null
                ]),
                json!(["BlockStored", [u64::MAX], 13, [7, 8], 2, null, "GPU", "l", null]),
            ]
        );
    }

    #[test]
    fn the_same_as_maps() {
        assert_eq!(
            decoded(Layout::Map, None),
            [
                json!({"type": "BlockRemoved", "block_hashes": [7, 8], "medium": "GPU"}),
                json!({"type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": null,
                       "token_ids": [1, 2, 3, 4], "block_size": 2, "lora_id": null, "medium": "GPU"}),
                json!({"type": "BlockStored", "block_hashes": [u64::MAX], "parent_block_hash": 13,
                       "token_ids": [7, 8], "block_size": 2, "lora_id": null, "medium": "GPU"}),
            ]
        );
        assert_eq!(read(&cleared(Layout::Map)), json!({"type": "AllBlocksCleared"}));
    }

    #[test]
    fn a_batch_has_time_events_and_rank_and_hashes_take_nine_bytes() {
        let events: Vec<Vec<u8>> = (0..40).map(block_removed).collect();
        assert_eq!(events[0][15..24], [0xcf, 0, 0, 0, 0, 0, 0, 0, 0]);
        let batch = read(&batch(1.5, &events, 3));
        assert_eq!((&batch[0], &batch[2]), (&json!(1.5), &json!(3)));
        assert_eq!(batch[1].as_array().unwrap().len(), 40);
        let long: Vec<u32> = (0..70_000).collect();
        let mut pack = Pack::default();
        pack.tokens(&long);
        assert_eq!(read(&pack.0).as_array().unwrap().len(), 70_000);
    }
}
