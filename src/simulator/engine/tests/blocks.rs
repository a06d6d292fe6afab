//! The KV cache in the engine: waiting for blocks, growing, taking them away.

use super::*;
use std::collections::BTreeSet;

/// A cache of `blocks` blocks of 4 tokens; 10 ms to the first token and between tokens.
fn cached(slots: usize, blocks: usize) -> Config {
    let mut c = ttft(config(slots, 1), 10);
    c.latency.inter_token = (Duration::from_millis(10), Duration::ZERO);
    c.cache = true;
    c.labels.cache = (4, blocks);
    c
}

/// A job whose blocks are numbered from `first` on.
fn blocks(first: u64, prompt: usize, output: usize) -> Job {
    Job {
        blocks: (first..first + ((prompt + output) / 4) as u64).collect(),
        ..job(prompt, output)
    }
}

#[test]
fn usage_counts_the_blocks_of_those_who_run() {
    // Slots, and milliseconds between requests -> running, waiting, blocks in use.
    for (slots, step, expected) in [(5, 0, (3.0, 0.0, 2.0)), (2, 500, (2.0, 1.0, 1.0))] {
        let mut c = cached(slots, 16);
        c.latency.time_to_first_token.0 = Duration::from_secs(5);
        let mut d = Drive::new(c);
        // The first two share their only block; the third has one of its own, unless it waits.
        for (i, first) in [100, 100, 200].into_iter().enumerate() {
            d.submit(i, step * i as u64, blocks(first, 5, 1)).unwrap();
        }
        d.until(3000);
        let (gauges, _, _) = d.core.snapshot();
        let shown = (gauges.running, gauges.waiting, gauges.cache_usage * 16.0);
        assert_eq!(shown, expected, "{slots} slots");
        d.until(20_000);
        d.assert_idle();
    }
}

#[test]
fn what_was_generated_is_cached_too() {
    let mut d = Drive::new(cached(5, 16));
    d.submit(0, 0, blocks(1, 6, 6)).unwrap();
    d.until(1000);
    // The same conversation goes on: prompt and answer of before are its prompt now.
    d.submit(1, 1000, blocks(1, 14, 2)).unwrap();
    assert_eq!(d.open[&1].1.cached(), Some(12));
    d.until(2000);
    assert_eq!(d.stats().cache, Some((20, 12)));
    d.assert_idle();
}

#[test]
fn who_finds_no_blocks_waits_and_so_do_those_behind() {
    let mut d = Drive::new(cached(5, 4));
    d.submit(0, 0, blocks(1, 12, 2)).unwrap();
    d.submit(1, 0, blocks(11, 8, 2)).unwrap();
    d.submit(2, 0, blocks(21, 4, 2)).unwrap();
    assert_eq!(d.running_and_waiting(), (1, 2));
    d.until(20);
    assert_eq!(d.running_and_waiting(), (2, 0));
    d.until(1000);
    assert_eq!(d.groups(), [vec![0], vec![1, 2]]);
    d.assert_idle();
}

#[test]
fn a_prompt_larger_than_the_cache_is_refused_and_a_long_answer_is_not() {
    let mut d = Drive::new(cached(5, 4));
    let refused = d.submit(0, 0, blocks(1, 20, 2)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the kv cache does not have sufficient capacity to store this request"
    );
    d.submit(1, 0, blocks(1, 16, 100)).unwrap();
    d.until(10_000);
    assert_eq!(d.ended.len(), 1);
    d.assert_idle();
}

#[test]
fn growing_takes_blocks_from_the_youngest_who_starts_again() {
    let mut d = Drive::new(cached(5, 4));
    d.submit(0, 0, blocks(1, 4, 12)).unwrap();
    d.submit(1, 0, blocks(11, 4, 8)).unwrap();
    d.until(10_000);
    let s = d.stats();
    assert!(s.preemptions > 0);
    assert_eq!(d.ended.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(s.generation_total, Some(20), "no token twice");
    assert_eq!(s.ttft.count(), 2);
    // The first one never waited for blocks: 10 ms to the first token and 11 gaps.
    assert_eq!(d.ended[0].0, 120);
    d.assert_idle();
}

#[test]
fn too_little_in_the_cache_ends_a_request_at_once() {
    let mut d = Drive::new(cached(5, 16));
    let asking = |threshold| Job {
        cache_hit_threshold: Some(threshold),
        ..blocks(1, 8, 4)
    };
    d.submit(0, 0, asking(0.5)).unwrap();
    assert_eq!(d.ended, [(0, 0)]);
    // Its blocks are there now.
    d.submit(1, 0, asking(0.5)).unwrap();
    d.until(1000);
    assert_eq!(d.ended[1], (40, 1));
    let forced = Job {
        cache_threshold_forced: true,
        ..job(8, 4)
    };
    d.submit(2, 2000, forced).unwrap();
    assert_eq!(d.ended[2], (2000, 2));
    let s = d.stats();
    assert_eq!((s.success["cache_threshold"], s.success["stop"]), (2, 1));
    d.assert_idle();
}

#[test]
fn an_emptied_cache_forgets_and_stays_off_until_it_is_on() {
    let mut d = Drive::new(cached(5, 4));
    d.submit(0, 0, blocks(1, 8, 4)).unwrap();
    d.core.switch_cache(false, 0);
    assert_eq!(d.core.counts().blocks, 0);
    d.until(1000);
    d.submit(1, 1000, blocks(1, 8, 4)).unwrap();
    assert_eq!(d.open[&1].1.cached(), None);
    d.until(2000);
    d.core.switch_cache(true, 2000 * MS);
    d.submit(2, 2000, blocks(1, 8, 4)).unwrap();
    assert_eq!(d.open[&2].1.cached(), Some(0));
    d.until(3000);
    d.assert_idle();
}

#[test]
fn events_say_what_is_there() {
    let (outbox, mut inbox) =
        crate::simulator::kv_events::channel(crate::simulator::kv_events::Layout::Block, 4);
    let mut core = Core::new(cached(5, 3), Some(outbox), Duration::ZERO);
    core.submit(blocks(1, 8, 0), 0, 0).unwrap();
    core.advance(10 * MS, 10);
    core.submit(blocks(11, 8, 0), 10 * MS, 10 * MS).unwrap();
    core.switch_cache(false, 20 * MS);
    drop(core);
    let mut known = BTreeSet::new();
    let mut cleared = false;
    while let Some(event) = inbox.taken() {
        let event: serde_json::Value = rmp_serde::from_slice(&event).unwrap();
        let hash = event[1][0].as_u64();
        match event[0].as_str().unwrap() {
            "BlockStored" => assert!(known.insert(hash.unwrap())),
            "BlockRemoved" => assert!(known.remove(&hash.unwrap())),
            _ => cleared = true,
        }
    }
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [1, 11, 12]);
    assert!(cleared);
}
