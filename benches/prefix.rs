//! Prefix hashing and matching of a whole 400 KB prompt (block limit raised: 6,250 blocks of 64 bytes) over 100
//! endpoints that all hold it; bar 200 us. Beside it the misses, partial hits, short slices, and what recording
//! costs.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod fixtures;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use endpoint_picker::model::prompt::Prompt;
use endpoint_picker::prefix::{BlockHasher, Holder, PrefixIndex};

const PROMPT_BYTES: usize = 400_000;
const BLOCK_BYTES: usize = 64;
const CAPACITY: usize = 31_250;

fn holders(n: u32) -> Vec<Holder> {
    (0..n)
        .map(|slot| Holder {
            slot,
            id: u64::from(slot) + 1,
        })
        .collect()
}

fn hash(prompt: &Prompt, out: &mut Vec<u64>) {
    BlockHasher::new(1).blocks("llama", prompt, BLOCK_BYTES, usize::MAX, out);
}

fn hashes(bytes: usize, seed: u64) -> Vec<u64> {
    let mut out = Vec::new();
    hash(&fixtures::prompt(bytes, seed), &mut out);
    out
}

/// An index whose endpoints all hold the chain and each some of its own.
fn filled(chain: &[u64], holders: &[Holder], others: u64) -> PrefixIndex {
    let index = PrefixIndex::new();
    for holder in holders {
        for i in 0..others {
            index.record(*holder, CAPACITY, &hashes(2048, holder.id * 1000 + i));
        }
        index.record(*holder, CAPACITY, chain);
    }
    index
}

fn matching(c: &mut Criterion) {
    let prompt = fixtures::prompt(PROMPT_BYTES, 3);
    let (holders, full) = (holders(100), hashes(PROMPT_BYTES, 3));
    assert_eq!(full.len(), 6250);
    let index = filled(&full, &holders, 100);
    let (mut chain, mut by_slot, mut matched) = (Vec::new(), Vec::new(), Vec::new());
    fixtures::against_bar(
        "hash and match, 400 KB, 100 endpoints, full hit",
        Duration::from_micros(200),
        || {
            hash(&prompt, &mut chain);
            index.matches(&chain, holders.iter().copied(), &mut by_slot, &mut matched);
            assert_eq!(matched[99], 6250);
        },
    );
    let mut group = c.benchmark_group("prefix/400KB");
    group.bench_function("hash", |b| b.iter(|| hash(black_box(&prompt), &mut chain)));
    let short = slices(&prompt, 150);
    group.bench_function("hash, slices of 150 bytes", |b| {
        b.iter(|| hash(black_box(&short), &mut chain));
    });
    // Each endpoint holds another length of this one, so that every bisection ends elsewhere.
    let partial = hashes(PROMPT_BYTES, 5);
    for (i, holder) in holders.iter().enumerate() {
        index.record(*holder, CAPACITY, &partial[..i * 60 + 1]);
    }
    let miss = hashes(PROMPT_BYTES, 7);
    let half: Vec<u64> = full[..3125].iter().chain(&miss[..3125]).copied().collect();
    for (what, chain) in [
        ("match, full hit", &full),
        ("match, miss", &miss),
        ("match, half for all", &half),
        ("match, 100 different lengths", &partial),
    ] {
        group.bench_function(what, |b| {
            b.iter(|| {
                index.matches(
                    black_box(chain),
                    holders.iter().copied(),
                    &mut by_slot,
                    &mut matched,
                );
                matched.len()
            });
        });
    }
    group.finish();
}

/// The same text cut into short segments, as a chat body's messages are.
fn slices(prompt: &Prompt, bytes: usize) -> Prompt {
    let end = prompt.bytes.len();
    Prompt {
        segments: (0..end)
            .step_by(bytes)
            .map(|from| from..(from + bytes).min(end))
            .collect(),
        ..prompt.clone()
    }
}

fn recording(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefix/record 32 blocks");
    let holders = holders(100);
    let all = filled(&[], &holders, 900);
    let one = filled(&[], &holders[..1], 900);
    let known = hashes(2048, 1);
    let mut turn = 0_usize;
    group.bench_function("known", |b| {
        b.iter(|| all.record(holders[0], CAPACITY, black_box(&known)));
    });
    // The prompts never repeat and every endpoint is full: each block evicts one. With one endpoint the index
    // stays in the processor's caches; with 100 in turn (3 million blocks) every access misses them.
    let fresh: Vec<Vec<u64>> = (0..100_000).map(|i| distinct(32, i)).collect();
    for (what, index, endpoints) in [
        ("new, evicting, 1 endpoint", &one, 1),
        ("new, evicting, 100 endpoints", &all, 100),
    ] {
        group.bench_function(what, |b| {
            b.iter(|| {
                turn += 1;
                let holder = holders[turn % endpoints];
                index.record(holder, CAPACITY, black_box(&fresh[turn % fresh.len()]));
            });
        });
    }
    group.finish();
}

/// `n` numbers that look like hashes, other ones for every `seed` (SplitMix64).
fn distinct(n: u64, seed: u64) -> Vec<u64> {
    let mix = |i: u64| {
        let z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (1..=n).map(|i| mix(seed * n + i)).collect()
}

criterion_group!(benches, matching, recording);
criterion_main!(benches);
