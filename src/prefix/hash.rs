//! The hash chain of a prompt, over its slices as they lie in the body: nothing is joined or copied but the
//! bytes of one block. Called once per request by prefix plugins.

use std::ops::ControlFlow;

use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::model::prompt::Prompt;

/// Blocks up to this many bytes are hashed in one shot from the stack; longer ones by streaming.
const SHORT_BLOCK: usize = 248;

/// Hashes prompts under a seed. One with a seed of its own must not be compared with another's hashes.
#[derive(Clone, Copy, Debug)]
pub struct BlockHasher {
    seed: u64,
}

impl BlockHasher {
    /// A hasher whose hashes nobody can foresee who does not know `seed`: draw it at random, so that clients
    /// cannot choose prompts whose hashes meet in one place of an index.
    pub fn new(seed: u64) -> Self {
        BlockHasher { seed }
    }

    /// Hashes the leading `max_blocks` whole blocks of `prompt`, into `out` (cleared first). Blocks cross the
    /// borders of slices; a trailing partial block has no hash. `h₀ = H(LE64(|model|) ‖ model ‖ salt)` starts the
    /// chain and is not in `out`; `hᵢ = H(blockᵢ ‖ LE64(hᵢ₋₁))`, where H is seeded XXH64. A block of 0 bytes gives
    /// no hashes.
    pub fn blocks(
        &self,
        model: &str,
        prompt: &Prompt,
        block_bytes: usize,
        max_blocks: usize,
        out: &mut Vec<u64>,
    ) {
        out.clear();
        if block_bytes == 0 || max_blocks == 0 {
            return;
        }
        let mut chain = Chain {
            seed: self.seed,
            previous: self.start(model, prompt),
            partial: Xxh64::new(self.seed),
            filled: 0,
            block_bytes,
            max_blocks,
            out,
        };
        prompt.text(|slice| chain.push(slice));
    }

    fn start(&self, model: &str, prompt: &Prompt) -> u64 {
        let mut state = Xxh64::new(self.seed);
        // The length keeps a model and its salt apart: ("ab", "c") is not ("a", "bc").
        state.update(&(model.len() as u64).to_le_bytes());
        state.update(model.as_bytes());
        prompt.salt(|piece| state.update(piece));
        state.digest()
    }
}

/// A chain that grows by slices.
struct Chain<'o> {
    seed: u64,
    previous: u64,
    /// The block that has begun, and how many bytes of it were seen.
    partial: Xxh64,
    filled: usize,
    block_bytes: usize,
    max_blocks: usize,
    out: &'o mut Vec<u64>,
}

impl Chain<'_> {
    fn push(&mut self, slice: &[u8]) -> ControlFlow<()> {
        let block_bytes = self.block_bytes;
        let (head, rest) = slice.split_at(slice.len().min((block_bytes - self.filled) % block_bytes));
        if !head.is_empty() {
            self.partial.update(head);
            self.filled += head.len();
        }
        if self.filled == block_bytes {
            self.partial.update(&self.previous.to_le_bytes());
            self.previous = self.partial.digest();
            self.out.push(self.previous);
            self.partial.reset(self.seed);
            self.filled = 0;
        }
        let blocks = rest.chunks_exact(block_bytes);
        let tail = blocks.remainder();
        for block in blocks.take(self.max_blocks - self.out.len()) {
            self.previous = link(block, self.previous, self.seed);
            self.out.push(self.previous);
        }
        if self.out.len() == self.max_blocks {
            return ControlFlow::Break(());
        }
        if !tail.is_empty() {
            self.partial.update(tail);
            self.filled += tail.len();
        }
        ControlFlow::Continue(())
    }
}

/// `H(block ‖ LE64(previous))`.
#[inline]
fn link(block: &[u8], previous: u64, seed: u64) -> u64 {
    // The default block of 16 tokens: a copy of known length.
    if let Ok(block) = <&[u8; 64]>::try_from(block) {
        let mut joined = [0; 72];
        joined[..64].copy_from_slice(block);
        joined[64..].copy_from_slice(&previous.to_le_bytes());
        return xxh64(&joined, seed);
    }
    let n = block.len();
    if n <= SHORT_BLOCK {
        let mut joined = [0; SHORT_BLOCK + 8];
        joined[..n].copy_from_slice(block);
        joined[n..n + 8].copy_from_slice(&previous.to_le_bytes());
        return xxh64(&joined[..n + 8], seed);
    }
    let mut state = Xxh64::new(seed);
    state.update(block);
    state.update(&previous.to_le_bytes());
    state.digest()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const SEED: u64 = 7;

    /// The definition, on joined bytes.
    fn chain(model: &str, salt: &str, text: &[u8], block: usize, max: usize) -> Vec<u64> {
        let start = [
            &(model.len() as u64).to_le_bytes(),
            model.as_bytes(),
            salt.as_bytes(),
        ]
        .concat();
        let mut previous = xxh64(&start, SEED);
        text.chunks_exact(block)
            .take(max)
            .map(|b| {
                previous = xxh64(&[b, &previous.to_le_bytes()].concat(), SEED);
                previous
            })
            .collect()
    }

    /// A prompt of these slices, with `salt` behind them.
    fn prompt(salt: &str, slices: &[&[u8]]) -> Prompt {
        let text = slices.concat();
        let mut end = 0;
        Prompt {
            bytes: Bytes::from([&text, salt.as_bytes()].concat()),
            segments: slices
                .iter()
                .map(|s| {
                    end += s.len();
                    end - s.len()..end
                })
                .collect(),
            cache_salt: text.len()..text.len() + salt.len(),
        }
    }

    fn hashes(model: &str, salt: &str, slices: &[&[u8]], block: usize, max: usize) -> Vec<u64> {
        let mut out = vec![1, 2, 3];
        BlockHasher::new(SEED).blocks(model, &prompt(salt, slices), block, max, &mut out);
        out
    }

    #[test]
    fn known_answer() {
        // XXH64 of no bytes under seed 0 is a published constant.
        assert_eq!(xxh64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(
            hashes("m", "", &[b"abcdefgh"], 4, 9),
            chain("m", "", b"abcdefgh", 4, 9)
        );
    }
    #[test]
    fn only_whole_blocks_are_hashed() {
        for (len, block, max, expected) in [
            (0, 4, 9, 0),
            (3, 4, 9, 0),
            (4, 4, 9, 1),
            (11, 4, 9, 2),
            (40, 4, 3, 3),
            (40, 4, 0, 0),
            (40, 0, 9, 0),
            (40, usize::MAX, 9, 0),
        ] {
            let text = vec![b'x'; len];
            assert_eq!(
                hashes("m", "", &[&text], block, max).len(),
                expected,
                "{len} {block} {max}"
            );
        }
    }

    #[test]
    fn model_salt_and_every_earlier_byte_change_the_hash() {
        let base = hashes("m", "", &[b"aaaabbbb"], 4, 9);
        assert_ne!(base[0], hashes("n", "", &[b"aaaabbbb"], 4, 9)[0]);
        assert_ne!(base[0], hashes("m", "s", &[b"aaaabbbb"], 4, 9)[0]);
        for (model, salt) in [("a", "bc"), ("abc", ""), ("", "abc")] {
            let apart = hashes(model, salt, &[b"aaaabbbb"], 4, 9);
            assert_ne!(apart, hashes("ab", "c", &[b"aaaabbbb"], 4, 9), "{model} {salt}");
        }
        let other = hashes("m", "", &[b"aaacbbbb"], 4, 9);
        assert!(base[0] != other[0] && base[1] != other[1]);
    }

    #[test]
    fn another_seed_gives_other_hashes() {
        let of = |seed| {
            let mut out = Vec::new();
            BlockHasher::new(seed).blocks("m", &prompt("", &[b"aaaabbbb"]), 4, 9, &mut out);
            out
        };
        assert_eq!(of(1), of(1));
        assert!(of(1).iter().zip(of(2)).all(|(a, b)| *a != b));
    }

    #[test]
    fn the_spelling_of_escapes_makes_no_difference() {
        let escaped = hashes("m", r"\u0073", &[br"caf\u00e9 \ud83d\ude00 au lait"], 4, 9);
        assert_eq!(escaped, hashes("m", "s", &["café 😀 au lait".as_bytes()], 4, 9));
        assert_eq!(escaped.len(), 4);
    }

    proptest! {
        #[test]
        fn slices_may_be_cut_anywhere(
            text in prop::collection::vec(any::<u8>().prop_filter("no escapes", |b| *b != b'\\'), 0..2000),
            cuts in prop::collection::vec(0_usize..2000, 0..12),
            block in prop::sample::select(vec![1_usize, 4, 7, 64, 72, 248, 249, 600]),
            max in 0_usize..40,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let slices: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(hashes("m", "s", &slices, block, max), chain("m", "s", &text, block, max));
        }
    }
}
