//! Tests of the index: against a naive model, on slots that are reused, and with threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::model::prompt::Prompt;
use crate::prefix::BlockHasher;

/// The chain of `text`, a block per byte.
fn chain(text: &[u8]) -> Vec<u64> {
    let mut out = Vec::new();
    let prompt = Prompt {
        bytes: bytes::Bytes::copy_from_slice(text),
        segments: std::iter::once(0..text.len()).collect(),
        cache_salt: 0..0,
    };
    BlockHasher::new(0).blocks("m", &prompt, 1, usize::MAX, &mut out);
    out
}

fn holder(slot: u32, id: u64) -> Holder {
    Holder { slot, id }
}

fn matches(index: &PrefixIndex, hashes: &[u64], holders: &[Holder]) -> Vec<u32> {
    let (mut by_slot, mut matched) = (vec![9; 3], vec![7; 2]);
    index.matches(hashes, holders.iter().copied(), &mut by_slot, &mut matched);
    matched
}

#[test]
fn the_first_prompt_matches_nothing_and_the_second_what_they_share() {
    let index = PrefixIndex::new();
    let (a, b) = (holder(0, 1), holder(200, 2));
    assert_eq!(matches(&index, &chain(b"abcdef"), &[a, b]), [0, 0]);
    index.record(a, 100, &chain(b"abcdef"));
    index.record(b, 100, &chain(b"abx"));
    for (text, expected) in [
        (&b"abcdef"[..], [6, 2]),
        (b"abcdefgh", [6, 2]),
        (b"abcd", [4, 2]),
        (b"abx", [2, 3]),
        (b"a", [1, 1]),
        (b"x", [0, 0]),
        (b"bcdef", [0, 0]),
        (b"", [0, 0]),
    ] {
        assert_eq!(matches(&index, &chain(text), &[a, b]), expected, "{text:?}");
    }
    assert_eq!(index.blocks(), 9);
}

#[test]
fn capacity_is_frozen_by_the_first_record_and_leaves_go_first() {
    let index = PrefixIndex::new();
    let a = holder(3, 1);
    index.record(a, 4, &chain(b"abcd"));
    index.record(a, 1000, &chain(b"abx"));
    // a b x are recent; of c and d, the deeper went.
    assert_eq!(matches(&index, &chain(b"abcd"), &[a]), [3]);
    assert_eq!(matches(&index, &chain(b"abx"), &[a]), [3]);
    // Longer than the capacity: its leading part is kept.
    index.record(a, 1000, &chain(b"qwertyuiop"));
    assert_eq!(matches(&index, &chain(b"qwertyuiop"), &[a]), [4]);
    assert_eq!(matches(&index, &chain(b"abx"), &[a]), [0]);
    assert_eq!(index.blocks(), 4);
}

#[test]
fn a_reused_slot_starts_empty_and_late_records_are_ignored() {
    let index = PrefixIndex::new();
    let (old, new) = (holder(5, 10), holder(5, 11));
    index.record(old, 9, &chain(b"abc"));
    assert_eq!(matches(&index, &chain(b"abc"), &[new]), [0]);
    index.remove(old);
    assert_eq!(
        (index.blocks(), matches(&index, &chain(b"abc"), &[old])),
        (0, vec![0])
    );
    index.record(old, 9, &chain(b"abc"));
    assert_eq!(index.blocks(), 0);
    index.record(new, 9, &chain(b"xy"));
    index.record(old, 9, &chain(b"abc"));
    index.remove(old);
    assert_eq!(matches(&index, &chain(b"xy"), &[new, old]), [2, 0]);
    // The removal of the old one was never told: the new one's first record does it.
    let newer = holder(5, 12);
    index.record(newer, 9, &chain(b"z"));
    assert_eq!(matches(&index, &chain(b"xy"), &[new, newer]), [0, 0]);
    assert_eq!(index.blocks(), 1);
}

#[test]
fn slots_beyond_the_limit_hold_nothing() {
    let index = PrefixIndex::new();
    let far = holder(MAX_SLOTS as u32, 1);
    index.record(far, 9, &chain(b"abc"));
    index.remove(holder(u32::MAX, 7));
    assert_eq!(
        matches(&index, &chain(b"abc"), &[far, holder(u32::MAX, 7)]),
        [0, 0]
    );
}

/// What the index should hold: per endpoint its blocks, most recent first.
#[derive(Default)]
struct Naive(HashMap<u32, (u64, usize, Vec<u64>)>);

impl Naive {
    fn record(&mut self, h: Holder, capacity: usize, hashes: &[u64]) {
        let entry = self.0.entry(h.slot).or_insert((h.id, capacity, Vec::new()));
        if entry.0 != h.id {
            *entry = (h.id, capacity, Vec::new());
        }
        let (_, capacity, held) = entry;
        for hash in hashes.iter().take(*capacity).rev() {
            held.retain(|x| x != hash);
            held.insert(0, *hash);
        }
        held.truncate(*capacity);
    }

    fn matched(&self, h: Holder, hashes: &[u64]) -> u32 {
        let held: HashSet<u64> = match self.0.get(&h.slot) {
            Some((id, _, held)) if *id == h.id => held.iter().copied().collect(),
            _ => HashSet::new(),
        };
        hashes.iter().take_while(|x| held.contains(x)).count() as u32
    }
}

#[derive(Clone, Debug)]
enum Step {
    Record(usize, usize, Vec<u8>),
    Replace(usize),
    Match(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    // Few letters, so that prompts share prefixes.
    let text = || prop::collection::vec(0_u8..2, 0..24);
    prop_oneof![
        6 => (0_usize..6, 1_usize..20, text()).prop_map(|(e, c, t)| Step::Record(e, c, t)),
        1 => (0_usize..6).prop_map(Step::Replace),
        4 => text().prop_map(Step::Match),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 0..80)) {
        let (index, mut naive) = (PrefixIndex::new(), Naive::default());
        let mut holders: Vec<Holder> = [0, 1, 63, 64, 130, 700].iter().map(|s| holder(*s, 1)).collect();
        for step in steps {
            match step {
                Step::Record(e, capacity, text) => {
                    index.record(holders[e], capacity, &chain(&text));
                    if !text.is_empty() {
                        naive.record(holders[e], capacity, &chain(&text));
                    }
                }
                Step::Replace(e) => {
                    index.remove(holders[e]);
                    naive.0.remove(&holders[e].slot);
                    holders[e].id += 1;
                }
                Step::Match(text) => {
                    let hashes = chain(&text);
                    let expected: Vec<u32> = holders.iter().map(|h| naive.matched(*h, &hashes)).collect();
                    prop_assert_eq!(matches(&index, &hashes, &holders), expected);
                }
            }
            prop_assert_eq!(index.blocks(), naive.0.values().map(|(_, _, held)| held.len()).sum::<usize>());
        }
    }
}

#[test]
fn a_full_queue_drops_and_says_so_and_what_was_queued_is_applied_later() {
    let index = PrefixIndex::new();
    let a = holder(0, 1);
    let held = index.inner.lock();
    let record = |i: &usize| index.record(a, 10_000, &chain(&i.to_le_bytes()[..2]));
    let taken = (0..QUEUE + 3).filter(record).count();
    assert_eq!((taken, index.queued.load(SeqCst)), (QUEUE, QUEUE));
    drop(held);
    index.remove(holder(9, 1));
    assert_eq!(index.queued.load(SeqCst), 0);
    assert_eq!(matches(&index, &chain(&[5, 0]), &[a]), [2]);
    // 258 = [2, 1] was dropped; its first block is that of 2 = [2, 0].
    assert_eq!(matches(&index, &chain(&[2, 1]), &[a]), [1]);
}

/// Recorders, a fleet that changes under them, and readers. Every endpoint records only its own text, so that
/// any match of another's text would be a bit read under the wrong owner.
#[test]
fn with_threads_no_owner_is_wrong_and_no_removal_is_lost() {
    const SLOTS: u32 = 70;
    const ROUNDS: u64 = 60;
    let index = PrefixIndex::new();
    let done = AtomicBool::new(false);
    let text = |slot: u32, id: u64| chain(&[&slot.to_le_bytes()[..], &id.to_le_bytes(), &[1; 20]].concat());
    std::thread::scope(|s| {
        let writers: Vec<_> = (0..2)
            .map(|half| {
                let (index, text) = (&index, &text);
                s.spawn(move || {
                    for id in 1..=ROUNDS {
                        for slot in (0..SLOTS).filter(|s| s % 2 == half) {
                            index.record(holder(slot, id), 25, &text(slot, id));
                            // Late news of the one before.
                            index.record(holder(slot, id - 1), 25, &text(slot, id - 1));
                            if id > 1 && slot % 3 == 0 {
                                index.remove(holder(slot, id - 1));
                            }
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            s.spawn(|| {
                let mut round = 0_u64;
                while !done.load(SeqCst) {
                    round += 1;
                    let (slot, id) = (round as u32 % SLOTS, round % ROUNDS + 1);
                    let hashes = text(slot, id);
                    let others: Vec<Holder> = (0..=ROUNDS + 1)
                        .filter(|other| *other != id)
                        .map(|other| holder(slot, other))
                        .collect();
                    // All prompts for a slot share its four leading bytes, nothing more.
                    let found = matches(&index, &hashes, &others);
                    assert!(found.iter().all(|m| *m <= 4), "{slot} {id} {found:?}");
                    let own = matches(&index, &hashes, &[holder(slot, id)]);
                    assert!(own[0] <= 32, "{own:?}");
                }
            });
        }
        for w in writers {
            w.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    for slot in 0..SLOTS {
        // A record may have been dropped while the lock's holder was off the processor.
        index.record(holder(slot, ROUNDS), 25, &text(slot, ROUNDS));
        index.remove(holder(slot, ROUNDS - 1));
    }
    for slot in 0..SLOTS {
        let hashes = text(slot, ROUNDS);
        let found = matches(&index, &hashes, &[holder(slot, ROUNDS), holder(slot, ROUNDS - 1)]);
        assert_eq!(found, [25, 0], "slot {slot}");
        index.remove(holder(slot, ROUNDS));
    }
    assert_eq!(index.blocks(), 0);
    assert_eq!(index.inner.lock().writer.rows(), 0);
}

#[test]
fn beyond_the_budget_the_endpoint_that_holds_most_loses_its_oldest_blocks() {
    let index = PrefixIndex::with_budget(1_000);
    let (greedy, modest) = (holder(0, 1), holder(1, 2));
    let small = chain(b"modest");
    index.record(modest, 100, &small);
    for n in 0..500_u64 {
        let text: Vec<u8> = (0..8).flat_map(|i| (n * 8 + i).to_le_bytes()).collect();
        index.record(greedy, usize::MAX, &chain(&text));
        assert!(index.blocks() <= 1_000, "{}", index.blocks());
    }
    assert!(index.blocks() > 900, "{}", index.blocks());
    assert_eq!(matches(&index, &small, &[modest]), [6]);
}
