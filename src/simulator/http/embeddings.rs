//! `/v1/embeddings`: vectors made of token ids (simulator.md §14). The same text has the same vector.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::generate::{json, of_prompt, refuse};
use super::order::Input;
use super::{Shared, body, order, with_headers};
use crate::simulator::api::{Prompt, Refusal};
use crate::simulator::server::Simulator;

/// Longest vector.
const MAX_DIMENSIONS: usize = 65_536;

/// Numbers in one answer at most.
const MAX_NUMBERS: usize = 8 << 20;

#[derive(Deserialize)]
struct Ask {
    model: Option<String>,
    input: Option<Prompt>,
    dimensions: Option<i64>,
    encoding_format: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    object: &'static str,
    data: Vec<Entry>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// Embeds texts.
pub async fn answer(State(sim): Shared, request: Request<Body>) -> Response {
    let answered = embed(&sim, request).await;
    with_headers(&sim, None, answered.unwrap_or_else(|refusal| refuse(&refusal)))
}

async fn embed(sim: &Arc<Simulator>, request: Request<Body>) -> Result<Response, Refusal> {
    let (head, sent) = request.into_parts();
    let ask: Ask = body::read(sim, &head.headers, sent)
        .await?
        .json()
        .map_err(Refusal::unreadable)?;
    let name = ask.model.unwrap_or_default();
    let model = sim.asked(&name).ok_or_else(|| Refusal::unknown_model(&name))?;
    let input = ask.input.ok_or_else(|| Refusal::unreadable("input is missing"))?;
    let dimensions = match ask.dimensions {
        None => sim.config.embedding_dimensions,
        Some(n) => usize::try_from(n)
            .ok()
            .filter(|n| (1..=MAX_DIMENSIONS).contains(n))
            .ok_or_else(|| Refusal::new(400, format!("dimensions must be 1 to {MAX_DIMENSIONS}, not {n}")))?,
    };
    let packed = match ask.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(Refusal::new(
                400,
                format!("encoding_format must be float or base64, not {other:?}"),
            ));
        }
    };
    let inputs = of_prompt(input);
    if inputs.len().saturating_mul(dimensions) > MAX_NUMBERS {
        return Err(Refusal::new(
            400,
            format!("inputs times dimensions must be at most {MAX_NUMBERS}"),
        ));
    }
    let mut data = Vec::with_capacity(inputs.len());
    let mut prompt_tokens = 0;
    for (index, input) in inputs.into_iter().enumerate() {
        let ids = match input {
            Input::Ids(ids) => ids,
            Input::Text(text) => order::cut(sim, text).await.ids(),
            Input::Messages(_) => Vec::new(),
        };
        prompt_tokens += ids.len();
        data.push(Entry {
            object: "embedding",
            index,
            embedding: encode(&vector(&ids, dimensions), packed),
        });
    }
    let answer = Answer {
        object: "list",
        data,
        model: model.name.as_ref().to_owned(),
        usage: Usage {
            prompt_tokens,
            total_tokens: prompt_tokens,
        },
    };
    // Structs of texts and finite numbers always have a JSON form.
    Ok(json(
        StatusCode::OK,
        serde_json::to_string(&answer).unwrap_or_default(),
    ))
}

/// A vector in -1..1 made of ids, which repeat with a coarser grain when there are too few.
fn vector(ids: &[u32], dimensions: usize) -> Vec<f32> {
    let number = |i: usize| match ids.get(i) {
        Some(id) => 2.0 * (id % 1024) as f32 / 1024.0 - 1.0,
        None if ids.is_empty() => 0.0,
        None => 2.0 * (ids[i % ids.len()] % 256) as f32 / 256.0 - 1.0,
    };
    (0..dimensions).map(number).collect()
}

fn encode(vector: &[f32], packed: bool) -> Vector {
    if packed {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        Vector::Base64(STANDARD.encode(bytes))
    } else {
        Vector::Numbers(vector.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_made_of_ids_and_then_of_their_coarser_repeats() {
        assert_eq!(vector(&[512, 1024 + 256], 4), [0.0, -0.5, -1.0, -1.0]);
        assert_eq!(vector(&[], 2), [0.0, 0.0]);
        assert!(matches!(encode(&[1.0], true), Vector::Base64(text) if text == "AACAPw=="));
    }
}
