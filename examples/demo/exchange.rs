//! One request as a client sees it: status, time to first token, usage.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::Value;

/// Longest wait for one whole response.
const LIMIT: Duration = Duration::from_secs(30);

/// How a request went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Time from sending it to the first token of the answer; for streamed answers only.
    pub first_token: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Of these, the tokens taken from the model server's cache.
    pub cached: u64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Sends `body` to `url` and reads the whole answer, streamed or not.
pub async fn run(client: &reqwest::Client, url: &str, body: &Value) -> Outcome {
    let mut outcome = Outcome::default();
    let done = tokio::time::timeout(LIMIT, ask(client, url, body, &mut outcome)).await;
    outcome.failure = match done {
        Ok(Ok(())) => None,
        Ok(Err(text)) => Some(text),
        Err(_) => Some(format!("no whole answer within {LIMIT:?}")),
    };
    outcome
}

async fn ask(client: &reqwest::Client, url: &str, body: &Value, outcome: &mut Outcome) -> Result<(), String> {
    let sent = Instant::now();
    let request = client.post(url).header("content-type", "application/json");
    let response = request
        .body(body.to_string())
        .send()
        .await
        .map_err(|e| e.to_string())?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("{status}: {}", response.text().await.unwrap_or_default()));
    }
    if !body["stream"].as_bool().unwrap_or(false) {
        let text = response.text().await.map_err(|e| e.to_string())?;
        let answer = serde_json::from_str(&text).map_err(|e| format!("an answer that is not JSON: {e}"))?;
        return usage(&answer, outcome);
    }
    let mut chunks = response.bytes_stream();
    let mut events = Events::default();
    while let Some(chunk) = chunks.next().await {
        for event in events.push(&chunk.map_err(|e| e.to_string())?) {
            if outcome.first_token.is_none() && has_text(&event) {
                outcome.first_token = Some(sent.elapsed());
            }
            if event["usage"].is_object() {
                usage(&event, outcome)?;
            }
        }
    }
    match outcome.first_token {
        Some(_) => Ok(()),
        None => Err("the stream ended without a token".into()),
    }
}

/// Does the event carry a piece of the answer? A chat stream opens with one that only names the role.
fn has_text(event: &Value) -> bool {
    let choice = &event["choices"][0];
    let text = choice["text"].as_str().or(choice["delta"]["content"].as_str());
    text.is_some_and(|t| !t.is_empty())
}

fn usage(answer: &Value, outcome: &mut Outcome) -> Result<(), String> {
    let usage = &answer["usage"];
    outcome.prompt = usage["prompt_tokens"].as_u64().ok_or("an answer without usage")?;
    outcome.cached = usage["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap_or(0);
    Ok(())
}

/// Cuts a stream of bytes into events.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// The events that `chunk` completes.
    fn push(&mut self, chunk: &[u8]) -> Vec<Value> {
        self.rest.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data: ") {
                events.extend(serde_json::from_slice(data).ok());
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        let stream = b"data: {\"n\":1}\n\n: comment\ndata: {\"n\":2}\n\ndata: [DONE]\n\n";
        for cut in 0..=stream.len() {
            let mut events = Events::default();
            let mut found = events.push(&stream[..cut]);
            found.extend(events.push(&stream[cut..]));
            assert_eq!(
                found,
                [serde_json::json!({"n": 1}), serde_json::json!({"n": 2})],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn only_an_event_with_text_is_a_token() {
        let event = |text| serde_json::from_str(text).unwrap();
        for (text, token) in [
            (r#"{"choices":[{"text":"a"}]}"#, true),
            (r#"{"choices":[{"text":""}]}"#, false),
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                false,
            ),
            (r#"{"choices":[{"delta":{"content":"a"}}]}"#, true),
            (r#"{"choices":[],"usage":{}}"#, false),
        ] {
            assert_eq!(has_text(&event(text)), token, "{text}");
        }
    }
}
