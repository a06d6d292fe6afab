//! Tokens and texts: the simple tokenizer, lengths and random sentences (simulator.md §5).

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};

const SENTENCES: [&str; 12] = [
    "The harbour was quiet before the first boats came in. ",
    "She counted the steps twice and found one more each time. ",
    "Rain fell on the tin roof and nobody spoke for a while. ",
    "A small engine can move a large train if the track is flat. ",
    "He kept the letter in a drawer with old keys and string. ",
    "The map showed a road that had not been built yet. ",
    "Every clock in the house agreed except the one in the hall. ",
    "They planted beans along the fence and waited for June. ",
    "Numbers are patient, people are not. ",
    "The bridge opens at noon for ships with tall masts. ",
    "Tea first, then the difficult question. ",
    "Nothing in the box was broken, and nothing was new. ",
];

/// Cuts `text` into tokens: a run of letters, digits and underscores, or any other single character, each with
/// the white space after it. Nothing is dropped: the tokens joined are the text.
pub fn tokenize(text: &str) -> Vec<&str> {
    let mut tokens = Vec::with_capacity(text.len() / 4);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let space = rest[end..]
            .find(|c: char| !c.is_whitespace())
            .map_or(rest.len(), |i| end + i);
        let (token, after) = rest.split_at(space);
        tokens.push(token);
        rest = after;
    }
    tokens
}

/// The id of a token: its FNV-1a hash of 32 bits.
pub fn token_id(token: &str) -> u32 {
    token.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// How many tokens to answer with, and whether that is the limit (finish reason `length`).
pub fn answer_length(rng: &mut SmallRng, max: Option<usize>, ignore_eos: bool, room: usize) -> (usize, bool) {
    match max {
        Some(max) if ignore_eos || max <= 1 => (max, true),
        Some(max) => {
            let n = if max <= 6 {
                rng.random_range(1..=max)
            } else {
                from_histogram(rng, max)
            };
            (n, n == max)
        }
        None if room < 20 => {
            let n = rng.random_range(1..=room.max(1));
            (n, n >= room)
        }
        None => loop {
            let n = (40.0 + 20.0 * normal(rng)).round();
            if n >= 1.0 && n <= room as f64 {
                break (n as usize, n as usize == room);
            }
        },
    }
}

/// A draw from five buckets over `1..max`, or exactly `max` with probability 0.15.
fn from_histogram(rng: &mut SmallRng, max: usize) -> usize {
    let r: f64 = rng.random();
    let mut reached = 0.0;
    for ((low, high), p) in buckets(max).into_iter().zip([0.20, 0.30, 0.20, 0.05, 0.10]) {
        reached += p;
        if r <= reached {
            return rng.random_range(low..=high.max(low));
        }
    }
    max
}

/// The five buckets over `1..=max-1`.
fn buckets(max: usize) -> [(usize, usize); 5] {
    let mut out = [(0, 0); 5];
    let mut end = 0.0;
    for (i, bucket) in out.iter_mut().enumerate() {
        let size = match max {
            0..=101 => (max - 1) as f64 / 5.0,
            _ if i == 3 => (max - 80) as f64,
            _ => 20.0,
        };
        let start = end as usize + 1;
        end += size;
        *bucket = (start, (end as usize).min(max - 1));
    }
    out
}

/// A draw of the standard normal distribution (Box–Muller).
pub fn normal(rng: &mut impl Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// `n` tokens of random sentences.
pub fn random_tokens(rng: &mut SmallRng, n: usize) -> Vec<&'static str> {
    let mut tokens = Vec::with_capacity(n);
    while tokens.len() < n {
        let sentence = SENTENCES[rng.random_range(0..SENTENCES.len())];
        tokens.extend(tokenize(sentence).into_iter().take(n - tokens.len()));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    #[test]
    fn tokens_carry_the_space_after_them() {
        let tokens = tokenize("Hello, world! 42 degrees.");
        assert_eq!(tokens, ["Hello", ", ", "world", "! ", "42 ", "degrees", "."]);
        assert_eq!(tokenize(r#"{"location":"Boston","days":3}"#).len(), 15);
    }

    #[test]
    fn buckets_are_those_of_the_specification() {
        assert_eq!(buckets(500), [(1, 20), (21, 40), (41, 60), (61, 480), (481, 499)]);
        assert_eq!(buckets(47), [(1, 9), (10, 18), (19, 27), (28, 36), (37, 46)]);
        assert_eq!(buckets(50), [(1, 9), (10, 19), (20, 29), (30, 39), (40, 49)]);
    }

    #[test]
    fn lengths_keep_their_limits() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert_eq!(answer_length(&mut rng, Some(9), true, 100), (9, true));
        for max in 2..200 {
            let (n, limit) = answer_length(&mut rng, Some(max), false, 1000);
            assert!((1..=max).contains(&n) && limit == (n == max));
        }
        for room in [0, 1, 5, 30, 1000] {
            assert!(answer_length(&mut rng, None, false, room).0 <= room.max(1));
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_is_dropped(text in "\\PC{0,80}") {
            prop_assert_eq!(tokenize(&text).concat(), text);
        }
    }
}
