//! What the demo prints: tables that compare the passes, and what to try next.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use crate::exchange::Outcome;
use crate::measure::CacheCounters;
use crate::stack::Stack;

/// One pass, measured.
pub struct Run {
    /// Its name.
    pub label: &'static str,
    /// Every request.
    pub outcomes: Vec<Outcome>,
    /// Time of the whole pass.
    pub wall: Duration,
    /// CPU time that `epp` used in it.
    pub epp_cpu: Option<Duration>,
    /// Share of a core that `epp` used before it, scraping only.
    pub epp_idle: Option<f64>,
    /// Requests by model server.
    pub per_endpoint: Vec<(SocketAddr, u64)>,
    /// What the model servers say of their caches.
    pub cache: Option<CacheCounters>,
}

impl Run {
    /// How many requests failed and why the first did, if any.
    pub fn failures(&self) -> Option<String> {
        let mut failures = self.outcomes.iter().filter_map(|o| o.failure.as_deref());
        let first = failures.next()?;
        let count = 1 + failures.count();
        Some(format!(
            "{count} of {} requests, first: {first}",
            self.outcomes.len()
        ))
    }

    /// Times to first token, shortest first.
    fn first_tokens(&self) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.outcomes.iter().filter_map(|o| o.first_token).collect();
        times.sort_unstable();
        times
    }

    fn row(&self) -> [String; 9] {
        let times = self.first_tokens();
        let at = |q: f64| percentile(&times, q).map_or("-".into(), |d| format!("{} ms", d.as_millis()));
        let (prompt, cached) = self
            .outcomes
            .iter()
            .fold((0, 0), |(p, c), o| (p + o.prompt, c + o.cached));
        let requests = self.outcomes.len() as f64;
        let per_request = |cpu: Duration| format!("{:.0} us", cpu.as_secs_f64() * 1e6 / requests);
        [
            self.label.into(),
            at(0.5),
            at(0.9),
            at(0.99),
            share(cached as f64, prompt as f64),
            self.cache.map_or("-".into(), |c| share(c.hits, c.queries)),
            format!("{:.1} s", self.wall.as_secs_f64()),
            self.epp_cpu.map_or("-".into(), per_request),
            self.epp_idle
                .map_or("-".into(), |idle| format!("{:.1} %", idle * 100.0)),
        ]
    }
}

/// The smallest time that a share `q` of `sorted` does not exceed.
fn percentile(sorted: &[Duration], q: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn share(part: f64, whole: f64) -> String {
    match whole {
        0.0 => "-".into(),
        _ => format!("{:.0} %", 100.0 * part / whole),
    }
}

/// All tables.
pub fn tables(runs: &[Run]) -> String {
    let mut text = format!(
        "\nTime to first token (TTFT, streamed requests, seen by the client) and cached share of the prompt tokens\n{}",
        table(
            &[
                "choice",
                "TTFT p50",
                "p90",
                "p99",
                "cached (usage)",
                "cached (metrics)",
                "whole pass",
                "epp CPU/request",
                "epp idle, of a core"
            ],
            runs.iter().map(|r| r.row().to_vec()).collect()
        )
    );
    let _ = write!(
        text,
        "CPU per request is all that epp did in that time: TLS, the pick, 24 tokens streamed through it one by one,\nand scraping {} servers every 50 ms.\n\n\
         Where the requests went\n{}",
        runs.first().map_or(0, |r| r.per_endpoint.len()),
        table(
            &["choice", "server 0", "server 1", "server 2", "server 3"],
            runs.iter().map(endpoints).collect()
        )
    );
    text
}

fn endpoints(run: &Run) -> Vec<String> {
    let counts = run.per_endpoint.iter().map(|(_, n)| n.to_string());
    std::iter::once(run.label.to_owned()).chain(counts).collect()
}

/// Columns as wide as their widest cell.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(String::len);
        cells.chain([head[i].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (i, (cell, width)) in cells.zip(&widths).enumerate() {
            let _ = match i {
                0 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// What a person can do while it stays up.
pub fn try_it(stack: &Stack) -> String {
    format!(
        "Everything stays up until Ctrl-C. Try:\n\n  curl -N http://{}/v1/completions -H 'content-type: \
         application/json' \\\n    -d '{{\"model\":\"demo\",\"prompt\":\"Tell me about harbours\",\"max_tokens\":20,\
         \"stream\":true}}'\n  curl -s http://{}/metrics | grep '^inference_'\n  curl -s http://{}/clusters | grep rq_total\n",
        stack.traffic(),
        stack.metrics(),
        stack.admin()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        for (q, expected) in [(0.0, 1), (0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10)] {
            assert_eq!(
                percentile(&times, q),
                Some(Duration::from_millis(expected)),
                "{q}"
            );
        }
        assert_eq!(percentile(&[], 0.5), None);
    }
}
