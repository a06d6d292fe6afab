//! The traffic: requests in groups that share a long prefix, streamed and not, the same list for every pass.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::exchange::{self, Outcome};

/// Clients that each wait for an answer before they ask again.
const CLIENTS: usize = 20;
/// Conversations with a prefix of their own. Together they are more than one server's cache holds.
const GROUPS: usize = 40;
/// Words of a prefix; a token each.
const PREFIX_WORDS: usize = 1000;

const WORDS: [&str; 16] = [
    "harbour", "lantern", "meadow", "copper", "signal", "window", "garden", "engine", "letter", "river",
    "market", "summit", "thread", "orchard", "bridge", "compass",
];

/// A request to come.
#[derive(Clone, Debug)]
pub struct Planned {
    path: &'static str,
    body: Value,
}

/// The list of `requests`, always the same.
pub fn plan(requests: usize) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(7);
    let groups = GROUPS.min(requests.div_ceil(4));
    let prefixes: Vec<String> = (0..groups).map(|_| words(&mut rng, PREFIX_WORDS)).collect();
    let mut plan: Vec<Planned> = (0..requests)
        .map(|i| {
            let question = words(&mut rng, 12);
            request(i, &format!("{} Question {i}: {question}?", prefixes[i % groups]))
        })
        .collect();
    plan.shuffle(&mut rng);
    plan
}

fn words(rng: &mut StdRng, count: usize) -> String {
    let words: Vec<&str> = (0..count)
        .map(|_| WORDS[rng.random_range(0..WORDS.len())])
        .collect();
    words.join(" ")
}

/// Of ten: eight streamed completions, one whole completion, one whole chat.
fn request(i: usize, prompt: &str) -> Planned {
    let (path, mut body) = match i / GROUPS % 10 {
        8 => (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": prompt}]}),
        ),
        9 => ("/v1/completions", json!({"prompt": prompt})),
        _ => (
            "/v1/completions",
            json!({"prompt": prompt, "stream": true, "stream_options": {"include_usage": true}}),
        ),
    };
    body["model"] = "demo".into();
    body["max_tokens"] = 24.into();
    Planned { path, body }
}

/// Sends `plan` to Envoy at `to`; outcomes in no particular order.
///
/// # Errors
/// No client can be made.
pub async fn drive(to: SocketAddr, plan: &[Planned], label: &str) -> Result<Vec<Outcome>, String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .map_err(|e| e.to_string())?;
    let left: Arc<Mutex<VecDeque<Planned>>> = Arc::new(Mutex::new(plan.iter().cloned().collect()));
    let progress = Progress::new(label, plan.len());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, left, progress) = (client.clone(), left.clone(), progress.clone());
        clients.spawn(async move {
            let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let mut outcomes = Vec::new();
            while let Some(planned) = next() {
                let url = format!("http://{to}{}", planned.path);
                outcomes.push(exchange::run(&client, &url, &planned.body).await);
                progress.one_more();
            }
            outcomes
        });
    }
    let outcomes = clients.join_all().await.concat();
    progress.bar.finish_and_clear();
    Ok(outcomes)
}

/// A bar on a terminal, else a line per quarter.
#[derive(Clone)]
struct Progress {
    bar: ProgressBar,
    label: String,
    drawn: bool,
}

impl Progress {
    fn new(label: &str, length: usize) -> Self {
        let bar = ProgressBar::new(length as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:14} [{bar:40}] {pos}/{len} requests, {per_sec}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label.to_owned());
        Progress {
            bar,
            label: label.to_owned(),
            drawn: std::io::stderr().is_terminal(),
        }
    }

    fn one_more(&self) {
        self.bar.inc(1);
        let (at, of) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let quarter = (of / 4).max(1);
        if !self.drawn && (at == of || at.is_multiple_of(quarter)) {
            println!("{:14} {at}/{of} requests", self.label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_gets_the_same_mixed_traffic() {
        let (first, second) = (plan(480), plan(480));
        let same = |(a, b): (&Planned, &Planned)| a.path == b.path && a.body == b.body;
        assert!(first.iter().zip(&second).all(same));
        let streamed = first.iter().filter(|p| p.body["stream"] == true).count();
        let chats = first
            .iter()
            .filter(|p| p.path.ends_with("/chat/completions"))
            .count();
        assert_eq!((first.len(), streamed, chats), (480, 400, 40));
    }
}
