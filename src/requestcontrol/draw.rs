//! The random draws of a decision beside the scheduler's: each follows from the seed that is recorded with the decision, so that
//! whoever has the record can draw again.

use rand::{RngExt, SeedableRng};

use crate::plugin::DecisionRng;

/// Sets the draw of a rewrite apart from the scheduler's, which takes the seed as it is.
const REWRITE: u64 = 0x7265_7772_6974_6531;
/// Sets the draw of an endpoint for a request without a body apart.
const ENDPOINT: u64 = 0x656e_6470_6f69_6e74;

/// The seed of a new exchange.
pub fn seed() -> u64 {
    rand::random()
}

/// A number in `0..n` that chooses the target of a weighted rewrite; 0 if `n` is.
pub fn rewrite(seed: u64, n: u64) -> u64 {
    below(seed ^ REWRITE, n)
}

/// The index below `n` of the endpoint for a request without a body; 0 if `n` is.
pub fn endpoint(seed: u64, n: usize) -> usize {
    below(seed ^ ENDPOINT, n as u64) as usize
}

fn below(seed: u64, n: u64) -> u64 {
    if n == 0 {
        return 0;
    }
    DecisionRng::seed_from_u64(seed).random_range(0..n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_from_the_seed_and_are_uniform() {
        let mut counts = [[0u32; 4]; 2];
        for seed in 0..8000 {
            assert_eq!(
                (rewrite(seed, 4), endpoint(seed, 4)),
                (rewrite(seed, 4), endpoint(seed, 4))
            );
            counts[0][rewrite(seed, 4) as usize] += 1;
            counts[1][endpoint(seed, 4)] += 1;
        }
        for n in counts.as_flattened() {
            assert!((1800..2200).contains(n), "{counts:?}");
        }
        assert_eq!((rewrite(1, 0), endpoint(1, 0)), (0, 0));
    }
}
