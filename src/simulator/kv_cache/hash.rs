//! Block hashes as the reference's cache library computes them (simulator.md §11.2): a router that hashes prompts
//! the same way, with the same seed, finds the blocks by these numbers.

use sha2::block_api::compress256;

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
    pub fn blocks(&self, adapter: Option<&str>, ids: &[u32]) -> Vec<u64> {
        let mut out = Vec::with_capacity(ids.len() / self.block_size);
        let mut parent = match adapter {
            Some(name) => root(self.algorithm, &self.seed, name),
            None => self.root,
        };
        let mut message = Message::of_up_to(HEADS + UNSIGNED_BYTES * self.block_size);
        for block in ids.chunks_exact(self.block_size) {
            out.push(match &mut parent {
                Root::Sha(digest) => {
                    message.length = 0;
                    encode(&mut message, Root::Sha(*digest), block);
                    *digest = message.sha256();
                    last_eight(digest)
                }
                Root::Fnv(hash) => {
                    let mut fnv = Fnv::default();
                    encode(&mut fnv, Root::Fnv(*hash), block);
                    *hash = fnv.0;
                    *hash
                }
            });
        }
        out
    }
}

/// What is hashed of a block: its parent, its tokens, and nothing more.
#[inline]
fn encode(out: &mut impl Sink, parent: Root, block: &[u32]) {
    head(out, ARRAY, 3);
    match parent {
        Root::Sha(digest) => {
            head(out, BYTES, 32);
            out.put(digest);
        }
        Root::Fnv(hash) => head(out, UNSIGNED, hash),
    }
    head(out, ARRAY, block.len() as u64);
    block.iter().for_each(|id| unsigned(out, *id));
    out.put([NULL]);
}

/// The parent of a first block.
fn root(algorithm: Algorithm, seed: &str, model: &str) -> Root {
    match algorithm {
        Algorithm::Sha256Cbor => {
            let mut message = Message::of_up_to(HEADS + seed.len());
            text(&mut message, seed);
            Root::Sha(message.sha256())
        }
        Algorithm::Fnv64 => {
            let mut of_seed = Fnv::default();
            of_seed.put_all(seed.as_bytes());
            let mut fnv = Fnv::default();
            head(&mut fnv, ARRAY, 3);
            head(&mut fnv, UNSIGNED, of_seed.0);
            fnv.put([NULL]);
            text(&mut fnv, model);
            Root::Fnv(fnv.0)
        }
    }
}

const UNSIGNED: u8 = 0x00;
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
const ARRAY: u8 = 0x80;
const NULL: u8 = 0xf6;

/// Bytes of a block's heads and its parent at most, and of one token's id.
const HEADS: usize = 48;
const UNSIGNED_BYTES: usize = 5;
/// Bytes that SHA-256 adds at least: a bit, and the length.
const PADDING: usize = 9;

/// Takes bytes.
trait Sink {
    fn put<const N: usize>(&mut self, bytes: [u8; N]);

    fn put_all(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.put([*b]));
    }
}

/// What is hashed by SHA-256. It is padded where it is: a third faster than to copy it through a buffer, for messages of
/// two blocks.
struct Message {
    bytes: Vec<u8>,
    length: usize,
}

impl Sink for Message {
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.length..self.length + N].copy_from_slice(&bytes);
        self.length += N;
    }
}

impl Message {
    /// An empty message that has room for `length` bytes.
    fn of_up_to(length: usize) -> Self {
        Message {
            bytes: vec![0; (length + PADDING).next_multiple_of(64)],
            length: 0,
        }
    }

    /// Its digest; the message is spent.
    fn sha256(&mut self) -> [u8; 32] {
        let bits = self.length as u64 * 8;
        let end = (self.length + PADDING).next_multiple_of(64);
        self.put([0x80]);
        self.bytes[self.length..end - 8].fill(0);
        self.bytes[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        let mut state = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ];
        compress256(&mut state, self.bytes[..end].as_chunks().0);
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }
}

/// FNV-1a of 64 bits, byte by byte: the CBOR of a block is never in memory.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Sink for Fnv {
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A CBOR head in its shortest form, as canonical CBOR wants it.
fn head(out: &mut impl Sink, major: u8, n: u64) {
    match u32::try_from(n) {
        Ok(n) => short_head(out, major, n),
        Err(_) => {
            out.put([major | 27]);
            out.put(n.to_be_bytes());
        }
    }
}

/// An id of a token.
#[inline]
fn unsigned(out: &mut impl Sink, id: u32) {
    short_head(out, UNSIGNED, id);
}

#[inline]
fn short_head(out: &mut impl Sink, major: u8, n: u32) {
    let [a, b, c, d] = n.to_be_bytes();
    match n {
        0x1_0000.. => out.put([major | 26, a, b, c, d]),
        0x100.. => out.put([major | 25, c, d]),
        24.. => out.put([major | 24, d]),
        _ => out.put([major | d]),
    }
}

fn text(out: &mut impl Sink, text: &str) {
    head(out, TEXT, text.len() as u64);
    out.put_all(text.as_bytes());
}

fn last_eight(digest: &[u8; 32]) -> u64 {
    let mut last = [0; 8];
    last.copy_from_slice(&digest[24..]);
    u64::from_be_bytes(last)
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
        let ids: Vec<u32> = (1..=23).collect();
        for (algorithm, seed, expected) in rows {
            let hasher = Hasher::new(algorithm, seed, "test-model", 8);
            assert_eq!(
                hasher.blocks(None, &ids[..16]),
                expected,
                "{algorithm:?} {seed:?}"
            );
            // The tail that fills no block is left out.
            assert_eq!(hasher.blocks(None, &ids), expected);
            let of_adapter = hasher.blocks(Some("adapter"), &ids[..16]);
            assert_eq!(of_adapter == expected, algorithm == Sha256Cbor);
        }
    }

    #[test]
    fn messages_of_every_length_are_hashed_as_the_library_does() {
        use sha2::{Digest, Sha256};
        for length in 0..300u32 {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut message = Message::of_up_to(bytes.len());
            message.put_all(&bytes);
            let expected: [u8; 32] = Sha256::digest(&bytes).into();
            assert_eq!(message.sha256(), expected, "{length}");
        }
    }

    #[test]
    fn the_input_is_canonical_cbor() {
        for id in [0u32, 23, 24, 255, 256, 65_535, 65_536, u32::MAX] {
            let mut ours = Message::of_up_to(HEADS);
            unsigned(&mut ours, id);
            let mut theirs = Vec::new();
            ciborium::into_writer(&Value::Integer(id.into()), &mut theirs).unwrap();
            assert_eq!(&ours.bytes[..ours.length], theirs);
        }
    }
}
