//! The table at the end: each attack beside the bars.

use std::time::Duration;

use super::Outcome;
use super::support::polite::Record;

/// Most a polite exchange may take at p99.
const P99: Duration = Duration::from_millis(50);
/// How many times slower than in a quiet run.
const SLOWER: u32 = 3;
/// Most memory resident, bytes.
const RESIDENT: u64 = 512 << 20;

/// What was measured of one attack.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What the polite client got; none where `epp` is to end.
    pub polite: Option<Record>,
    /// Most memory `epp` had, bytes; 0 where it has ended.
    pub peak: u64,
    /// Of the attack itself.
    pub outcome: Outcome,
}

/// Prints it. Are all bars met?
pub fn print(quiet: &Row, rows: &[Row]) -> bool {
    let usual = quiet.polite.as_ref().map_or(Duration::ZERO, Record::p99);
    println!("| attack | polite requests | lost | p99 ms | peak resident MiB | also | verdict |");
    println!("|---|---|---|---|---|---|---|");
    let mut all = true;
    for row in std::iter::once(quiet).chain(rows) {
        let missed = missed(row, usual);
        all &= missed.is_empty();
        let (requests, lost, p99) = row.polite.as_ref().map_or_else(Default::default, |p| {
            let all = p.times.len() + p.lost.len();
            (all.to_string(), p.lost.len().to_string(), milliseconds(p.p99()))
        });
        let also = row.outcome.as_ref().map_or("", String::as_str);
        let verdict = if missed.is_empty() {
            "met".to_owned()
        } else {
            format!("MISSED: {}", missed.join("; "))
        };
        let peak = row.peak >> 20;
        println!(
            "| {} | {requests} | {lost} | {p99} | {peak} | {also} | {verdict} |",
            row.name
        );
    }
    let bar = milliseconds(P99.min(usual * SLOWER));
    println!(
        "\nBars: 0 lost, p99 {bar} ms, {} MiB resident, and none of what is in the verdict.",
        RESIDENT >> 20
    );
    all
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// The bars that were missed.
fn missed(row: &Row, usual: Duration) -> Vec<String> {
    let mut missed = Vec::new();
    if let Some(polite) = &row.polite {
        if let Some(first) = polite.lost.first() {
            missed.push(format!("lost {} ({first})", polite.lost.len()));
        }
        if polite.p99() > P99.min(usual * SLOWER) {
            missed.push("p99".to_owned());
        }
    }
    if row.peak > RESIDENT {
        missed.push("resident".to_owned());
    }
    missed.extend(row.outcome.as_ref().err().cloned());
    missed
}
