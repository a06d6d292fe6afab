//! What the core does with the KV cache: takes blocks, grows, takes them away from the youngest, forgets them all.

use super::core::Core;
use super::request::{Nanos, Phase, Request};
use crate::simulator::kv_cache::{Change, NoCapacity};

impl Core {
    /// Empties the cache and turns it off, or on again.
    pub fn switch_cache(&mut self, on: bool, now: Nanos) {
        if on || !self.cache_on {
            self.cache_on = on && self.cache.is_some();
            return;
        }
        self.cache_on = false;
        self.generation += 1;
        if let Some(cache) = &mut self.cache {
            cache.clear();
        }
        if let Some(events) = &mut self.events {
            events.cleared();
        }
        self.short_of_blocks = false;
        self.fill(now);
        self.plan_step(now);
    }

    /// Takes the blocks of what a request has so far; returns the tokens that were cached.
    pub(super) fn take_blocks(&mut self, request: &mut Request) -> Result<Option<usize>, NoCapacity> {
        let block_size = self.block_size();
        let Some(cache) = self.cache.as_mut().filter(|_| self.cache_on) else {
            return Ok(None);
        };
        let wanted = request.blocks_now(block_size);
        let mut changes = Vec::new();
        let told = self.events.is_some();
        let change = |change| {
            if told {
                changes.push(change);
            }
        };
        let cached = cache.take(&request.job.blocks[..wanted], change)?;
        request.held = wanted;
        request.generation = self.generation;
        // Read by `start`, which follows at once.
        request.cell.start(Some(cached * block_size));
        self.publish(request, &changes, 0);
        Ok(Some(cached * block_size))
    }

    fn publish(&mut self, request: &Request, changes: &[Change], offset: usize) {
        if let Some(events) = &mut self.events
            && !changes.is_empty()
        {
            events.changed(changes, offset, &request.job);
        }
    }

    /// Takes the block a request has just filled. Where there is none, the youngest gives its own back and waits.
    /// Does the request go on?
    pub(super) fn grow(&mut self, order: u64, over: bool, now: Nanos) -> bool {
        let block_size = self.block_size();
        loop {
            let Some(request) = self.requests.get_mut(&order) else {
                return false;
            };
            let Some(cache) = self.cache.as_mut().filter(|_| self.cache_on) else {
                return true;
            };
            if request.generation != self.generation || request.blocks_now(block_size) <= request.held {
                return true;
            }
            let at = request.held;
            let mut changes = Vec::new();
            if cache
                .take(&request.job.blocks[at..=at], |c| changes.push(c))
                .is_ok()
            {
                request.held += 1;
                if let Some(events) = &mut self.events
                    && !changes.is_empty()
                {
                    events.changed(&changes, at, &request.job);
                }
                continue;
            }
            if over {
                return true;
            }
            let holds = |order: &u64| self.requests.get(order).is_some_and(|r| r.held > 0);
            let youngest = self.running.values().rev().find(|o| holds(o)).copied();
            let youngest = youngest.unwrap_or(order);
            self.preempt(youngest, now);
            if youngest == order {
                return false;
            }
        }
    }

    /// Takes a running request's slot and blocks away; it waits where it stood in the order of arrival.
    fn preempt(&mut self, order: u64, now: Nanos) {
        let Some(mut request) = self.requests.remove(&order) else {
            return;
        };
        self.release(order, &mut request);
        request.phase = Phase::Waiting;
        let adapter = request.job.adapter.clone();
        self.requests.insert(order, request);
        self.queue.push(order, adapter.clone());
        self.stats.preemptions += 1;
        self.short_of_blocks = true;
        self.note_adapters(adapter.is_some(), now);
    }
}
