//! F2: bytes to nouns and back, pure and fuzzed. No I/O, no clock.

pub mod prometheus;
