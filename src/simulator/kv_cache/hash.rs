//! Block hashes as the reference's cache library computes them (simulator.md §11.2): a router that hashes prompts
//! the same way, with the same seed, finds the blocks by these numbers.

use ring::digest::{Context, SHA256};

/// How blocks are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256 over CBOR; the number is the digest's last eight bytes.
    #[default]
    Sha256Cbor,
    /// FNV-1a of 64 bits over CBOR, with the model's name in the root.
    Fnv64,
}

/// A way to hash the blocks of a model.
#[derive(Clone, Debug)]
pub struct Hasher {
    algorithm: Algorithm,
    seed: String,
    root: Root,
    block_size: usize,
}

#[derive(Clone, Copy, Debug)]
enum Root {
    Sha([u8; 32]),
    Fnv(u64),
}

impl Hasher {
    /// Hashes blocks of `block_size` tokens, at least 1, of `model` from `seed` on.
    pub fn new(algorithm: Algorithm, seed: &str, model: &str, block_size: usize) -> Self {
        Hasher {
            algorithm,
            seed: seed.to_owned(),
            root: root(algorithm, seed, model),
            block_size: block_size.max(1),
        }
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The hashes of the whole blocks of `ids`, for the base model or an adapter. With `Sha256Cbor` they are the same
    /// for all, as in the reference; `Fnv64` keeps an adapter's blocks apart.
    pub fn blocks(&self, adapter: Option<&str>, ids: impl Iterator<Item = u32>) -> Vec<u64> {
        let mut out = Vec::with_capacity(ids.size_hint().0 / self.block_size);
        let mut parent = match adapter {
            Some(name) => root(self.algorithm, &self.seed, name),
            None => self.root,
        };
        let mut cbor = Vec::with_capacity(40 + 5 * self.block_size);
        let mut ids = ids.peekable();
        while ids.peek().is_some() {
            cbor.clear();
            head(&mut cbor, ARRAY, 3);
            match parent {
                Root::Sha(digest) => {
                    head(&mut cbor, BYTES, 32);
                    cbor.extend_from_slice(&digest);
                }
                Root::Fnv(hash) => head(&mut cbor, UNSIGNED, hash),
            }
            head(&mut cbor, ARRAY, self.block_size as u64);
            let mut n = 0;
            for id in ids.by_ref().take(self.block_size) {
                head(&mut cbor, UNSIGNED, u64::from(id));
                n += 1;
            }
            if n < self.block_size {
                break;
            }
            cbor.push(NULL);
            let hash = match &mut parent {
                Root::Sha(digest) => {
                    *digest = sha256(&cbor);
                    last_eight(digest)
                }
                Root::Fnv(hash) => {
                    *hash = fnv64(&cbor);
                    *hash
                }
            };
            out.push(hash);
        }
        out
    }
}

/// The parent of a first block.
fn root(algorithm: Algorithm, seed: &str, model: &str) -> Root {
    let mut cbor = Vec::new();
    match algorithm {
        Algorithm::Sha256Cbor => {
            text(&mut cbor, seed);
            Root::Sha(sha256(&cbor))
        }
        Algorithm::Fnv64 => {
            head(&mut cbor, ARRAY, 3);
            head(&mut cbor, UNSIGNED, fnv64(seed.as_bytes()));
            cbor.push(NULL);
            text(&mut cbor, model);
            Root::Fnv(fnv64(&cbor))
        }
    }
}

const UNSIGNED: u8 = 0x00;
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
const ARRAY: u8 = 0x80;
const NULL: u8 = 0xf6;

/// A CBOR head in its shortest form, as canonical CBOR wants it.
fn head(out: &mut Vec<u8>, major: u8, n: u64) {
    match n {
        0..24 => out.push(major | n as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, n as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn last_eight(digest: &[u8; 32]) -> u64 {
    let mut last = [0; 8];
    last.copy_from_slice(&digest[24..]);
    u64::from_be_bytes(last)
}

fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciborium::Value;

    #[test]
    fn hashes_are_those_of_the_specification() {
        use Algorithm::{Fnv64, Sha256Cbor};
        let rows = [
            (
                Sha256Cbor,
                "",
                [11_631_753_831_168_957_093, 15_926_291_254_479_123_099],
            ),
            (
                Sha256Cbor,
                "42",
                [16_688_788_724_021_408_268, 4_116_951_586_946_998_730],
            ),
            (Fnv64, "", [5_577_290_583_401_719_650, 8_754_320_283_940_647_457]),
            (
                Fnv64,
                "42",
                [2_885_729_743_872_470_033, 8_856_261_653_058_836_515],
            ),
        ];
        for (algorithm, seed, expected) in rows {
            let hasher = Hasher::new(algorithm, seed, "test-model", 8);
            assert_eq!(hasher.blocks(None, 1..=16), expected, "{algorithm:?} {seed:?}");
            // The tail that fills no block is left out.
            assert_eq!(hasher.blocks(None, 1..=23), expected);
            let of_adapter = hasher.blocks(Some("adapter"), 1..=16);
            assert_eq!(of_adapter == expected, algorithm == Sha256Cbor);
        }
    }

    #[test]
    fn the_input_is_canonical_cbor() {
        for id in [0u32, 23, 24, 255, 256, 65_535, 65_536, u32::MAX] {
            let mut ours = Vec::new();
            head(&mut ours, UNSIGNED, u64::from(id));
            let mut theirs = Vec::new();
            ciborium::into_writer(&Value::Integer(id.into()), &mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
    }
}
