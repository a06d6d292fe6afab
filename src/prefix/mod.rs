//! F3: prompt-prefix hashing and the index of which endpoint holds which leading blocks.
//!
//! A prompt is cut into blocks and hashed as a chain ([`BlockHasher`]), so that a block's hash stands for
//! everything up to it. The [`PrefixIndex`] remembers, per endpoint, the chains it was sent lately, and answers
//! for all endpoints at once how many leading blocks of a new prompt each has seen.

mod hash;
mod index;
mod table;
mod writer;

pub use hash::BlockHasher;
pub use index::{DEFAULT_BUDGET, Holder, MAX_SLOTS, PrefixIndex};
