//! The hash chain of a prompt, over its slices as they lie in the body: nothing is joined or copied but the
//! bytes of one block. Called once per request by prefix plugins.

use xxhash_rust::xxh64::{Xxh64, xxh64};

/// Blocks up to this many bytes are hashed in one shot from the stack; longer ones by streaming.
const SHORT_BLOCK: usize = 248;

/// Hashes the leading `max_blocks` whole blocks of `slices`, into `out` (cleared first). Blocks cross slice
/// borders; a trailing partial block has no hash. `h₀ = XXH64(model ‖ salt)` starts the chain and is not in
/// `out`; `hᵢ = XXH64(blockᵢ ‖ LE64(hᵢ₋₁))` (plugins.md §3.4). A block of 0 bytes gives no hashes.
pub fn hash_blocks<'a>(
    model: &str,
    salt: &str,
    slices: impl Iterator<Item = &'a [u8]>,
    block_bytes: usize,
    max_blocks: usize,
    out: &mut Vec<u64>,
) {
    out.clear();
    if block_bytes == 0 || max_blocks == 0 {
        return;
    }
    let mut previous = start(model, salt);
    let mut partial = Xxh64::new(0);
    let mut filled = 0;
    for slice in slices {
        let (head, rest) = slice.split_at(slice.len().min((block_bytes - filled) % block_bytes));
        partial.update(head);
        filled += head.len();
        if filled == block_bytes {
            partial.update(&previous.to_le_bytes());
            previous = partial.digest();
            out.push(previous);
            partial.reset(0);
            filled = 0;
        }
        let blocks = rest.chunks_exact(block_bytes);
        let tail = blocks.remainder();
        for block in blocks.take(max_blocks - out.len()) {
            previous = link(block, previous);
            out.push(previous);
        }
        if out.len() == max_blocks {
            return;
        }
        partial.update(tail);
        filled += tail.len();
    }
}

fn start(model: &str, salt: &str) -> u64 {
    let mut state = Xxh64::new(0);
    state.update(model.as_bytes());
    state.update(salt.as_bytes());
    state.digest()
}

/// `XXH64(block ‖ LE64(previous))`.
#[inline]
fn link(block: &[u8], previous: u64) -> u64 {
    // The default block of 16 tokens: a copy of known length.
    if let Ok(block) = <&[u8; 64]>::try_from(block) {
        let mut joined = [0; 72];
        joined[..64].copy_from_slice(block);
        joined[64..].copy_from_slice(&previous.to_le_bytes());
        return xxh64(&joined, 0);
    }
    let n = block.len();
    if n <= SHORT_BLOCK {
        let mut joined = [0; SHORT_BLOCK + 8];
        joined[..n].copy_from_slice(block);
        joined[n..n + 8].copy_from_slice(&previous.to_le_bytes());
        return xxh64(&joined[..n + 8], 0);
    }
    let mut state = Xxh64::new(0);
    state.update(block);
    state.update(&previous.to_le_bytes());
    state.digest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, on joined bytes.
    fn chain(model: &str, salt: &str, text: &[u8], block: usize, max: usize) -> Vec<u64> {
        let mut previous = xxh64(format!("{model}{salt}").as_bytes(), 0);
        text.chunks_exact(block)
            .take(max)
            .map(|b| {
                previous = xxh64(&[b, &previous.to_le_bytes()].concat(), 0);
                previous
            })
            .collect()
    }

    fn hashes(model: &str, salt: &str, slices: &[&[u8]], block: usize, max: usize) -> Vec<u64> {
        let mut out = vec![1, 2, 3];
        hash_blocks(model, salt, slices.iter().copied(), block, max, &mut out);
        out
    }

    #[test]
    fn known_answer() {
        // XXH64 of no bytes is a published constant; the chain starts there for an empty model.
        assert_eq!(start("", ""), 0xEF46_DB37_51D8_E999);
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
        let other = hashes("m", "", &[b"aaacbbbb"], 4, 9);
        assert!(base[0] != other[0] && base[1] != other[1]);
    }

    proptest! {
        #[test]
        fn slices_may_be_cut_anywhere(
            text in prop::collection::vec(any::<u8>(), 0..2000),
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
