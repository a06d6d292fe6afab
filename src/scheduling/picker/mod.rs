//! Pickers: choose among rated candidates. Ties are broken by the decision's own random generator.

pub mod max_score;
pub mod random;
pub mod weighted_random;

use rand::RngExt;
use serde::Deserialize;

use crate::plugin::{DecisionRng, ParamDoc, Params, ParamsError};

/// Parameters of every picker.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameters {
    max_num_of_endpoints: i64,
}

/// Documentation of [`Parameters`].
const PARAMS: &[ParamDoc] = &[ParamDoc {
    name: "maxNumOfEndpoints",
    kind: "int",
    default: "1",
    help: "How many endpoints to name, best first; the proxy falls back along the list. 0 or less means 1.",
}];

/// Reads how many endpoints to pick, at least 1.
fn limit(params: &Params) -> Result<usize, ParamsError> {
    let given: Parameters = params.decode(&["maxNumOfEndpoints"])?;
    Ok(usize::try_from(given.max_num_of_endpoints).unwrap_or(1).max(1))
}

/// Moves `n` randomly chosen elements to the front of `items`, in random order.
fn shuffle_front(items: &mut [u32], n: usize, rng: &mut DecisionRng) {
    let len = items.len();
    for i in 0..n.min(len.saturating_sub(1)) {
        items.swap(i, rng.random_range(i..len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::fixture;

    #[test]
    fn at_least_one_endpoint_is_picked() {
        for (json, n) in [
            ("{}", 1),
            (r#"{"maxNumOfEndpoints": 3}"#, 3),
            (r#"{"maxNumOfEndpoints": 0}"#, 1),
            (r#"{"maxNumOfEndpoints": -4}"#, 1),
        ] {
            assert_eq!(limit(&fixture::params(json)), Ok(n), "{json}");
        }
        assert!(limit(&fixture::params(r#"{"maxNumOfEndpoints": "x"}"#)).is_err());
    }
}
