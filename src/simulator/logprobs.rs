//! Made-up log-probabilities, the same for the same place in an answer (simulator.md §4.4).

use super::api::Endpoint;
use super::api::answer::{Alternatives, ChatLogprob, ChatLogprobs, LogprobsOf, TextLogprobs};

/// Of the alternative `j` at place `at`; 0 is the token that was chosen. Made of tenths, so that the values print
/// as -1.1 and not with the dust of a sum.
fn value(at: usize, j: usize) -> f64 {
    -((10 + at % 3 + 5 * j) as f64) / 10.0
}

/// The chosen token and its alternatives: `wanted` in all.
fn alternatives(token: &str, at: usize, wanted: usize) -> Vec<(String, f64)> {
    let name = |j: usize| {
        if j == 0 {
            token.to_owned()
        } else {
            format!("{token}_{j}")
        }
    };
    (0..wanted).map(|j| (name(j), value(at, j))).collect()
}

/// Log-probabilities of `tokens`, the first of which stands at place `at`, byte `offset` of the answer.
pub fn of<'a>(
    endpoint: Endpoint,
    tokens: impl Iterator<Item = &'a str>,
    at: usize,
    offset: usize,
    wanted: usize,
) -> LogprobsOf {
    match endpoint {
        Endpoint::Chat => LogprobsOf::Chat(ChatLogprobs {
            content: tokens
                .enumerate()
                .map(|(i, token)| chat(token, at + i, wanted))
                .collect(),
        }),
        Endpoint::Text => {
            let mut all = TextLogprobs::default();
            let mut offset = offset;
            for (i, token) in tokens.enumerate() {
                all.tokens.push(token.to_owned());
                all.token_logprobs.push(value(at + i, 0));
                all.top_logprobs
                    .push(Alternatives(alternatives(token, at + i, wanted)));
                all.text_offset.push(offset);
                offset += token.len();
            }
            LogprobsOf::Text(all)
        }
    }
}

/// Of one token by its id: its own log-probability, then the alternatives, `wanted` in all.
pub fn of_id(id: u32, at: usize, wanted: usize) -> (f64, Vec<(u32, f64)>) {
    let alternative = |j: usize| (id.wrapping_add(j as u32), value(at, j));
    (value(at, 0), (0..wanted).map(alternative).collect())
}

fn chat(token: &str, at: usize, wanted: usize) -> ChatLogprob {
    let entry = |token: String, logprob: f64, top_logprobs| ChatLogprob {
        bytes: token.clone().into_bytes(),
        token,
        logprob,
        top_logprobs,
    };
    let top = alternatives(token, at, wanted)
        .into_iter()
        .map(|(token, p)| entry(token, p, None))
        .collect();
    entry(token.to_owned(), value(at, 0), Some(top))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn json_of(endpoint: Endpoint, tokens: &[&str], at: usize, offset: usize, wanted: usize) -> Value {
        serde_json::to_value(of(endpoint, tokens.iter().copied(), at, offset, wanted)).unwrap()
    }

    #[test]
    fn a_chat_has_an_entry_a_token() {
        assert_eq!(
            json_of(Endpoint::Chat, &["a", "b"], 1, 0, 2),
            json!({"content": [
                {"token": "a", "logprob": -1.1, "bytes": [97], "top_logprobs": [
                    {"token": "a", "logprob": -1.1, "bytes": [97]},
                    {"token": "a_1", "logprob": -1.6, "bytes": [97, 95, 49]}]},
                {"token": "b", "logprob": -1.2, "bytes": [98], "top_logprobs": [
                    {"token": "b", "logprob": -1.2, "bytes": [98]},
                    {"token": "b_1", "logprob": -1.7, "bytes": [98, 95, 49]}]}]})
        );
    }

    #[test]
    fn alternatives_by_id_are_the_ids_that_follow() {
        assert_eq!(of_id(u32::MAX, 1, 2), (-1.1, vec![(u32::MAX, -1.1), (0, -1.6)]));
    }

    #[test]
    fn a_text_has_columns_and_offsets() {
        assert_eq!(
            json_of(Endpoint::Text, &["ab ", "c"], 0, 4, 2),
            json!({"tokens": ["ab ", "c"], "token_logprobs": [-1.0, -1.1],
                "top_logprobs": [{"ab ": -1.0, "ab _1": -1.5}, {"c": -1.1, "c_1": -1.6}], "text_offset": [4, 7]})
        );
    }
}
