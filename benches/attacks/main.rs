//! What an attacker costs everybody else: each attack through a real Envoy with the shipped configuration, or directly
//! at a port, beside a polite client on a connection of its own. `cargo bench --bench attacks [-- NAME…]` after `make
//! venv` runs those whose names contain one of the words; all of them take about five minutes.
//!
//! Bars: no polite request lost; its p99 at most three times that of a quiet run, and at most 50 ms; at most 512 MiB
//! resident, in a cgroup of 1 GiB; what else an attack must not do stands in its row.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

mod bodies;
mod connections;
mod frames;
#[path = "../load/mod.rs"]
mod load;
mod pages;
mod scene;
mod servers;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use scene::{Scene, SetUp};
use table::Row;

/// Longest time an attack has.
const LIMIT: Duration = Duration::from_secs(40);
/// How long the polite client is looked at beside each attack, at least.
const LOOK: Duration = Duration::from_secs(4);
/// The same of the quiet run.
const QUIET: Duration = Duration::from_secs(10);

/// What an attack found besides what every one is measured by: a note, or which of its own bars was missed.
type Outcome = Result<String, String>;
type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// An attack.
pub struct Attack {
    name: &'static str,
    set_up: SetUp,
    run: for<'a> fn(&'a mut Scene) -> Running<'a>,
}

/// An attack on the usual set-up.
fn attack(name: &'static str, run: for<'a> fn(&'a mut Scene) -> Running<'a>) -> Attack {
    let set_up = SetUp::default();
    Attack { name, set_up, run }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let all = [
        frames::attacks(),
        bodies::attacks(),
        servers::attacks(),
        connections::attacks(),
        pages::attacks(),
    ];
    let wanted = |a: &Attack| words.is_empty() || words.iter().any(|w| a.name.contains(w.as_str()));
    let attacks: Vec<Attack> = all.into_iter().flatten().filter(wanted).collect();
    assert!(!attacks.is_empty(), "no attack has any of {words:?} in its name");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(run(attacks)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn run(attacks: Vec<Attack>) -> bool {
    let progress = ProgressBar::new(attacks.len() as u64 + 1);
    let style = ProgressStyle::with_template("{spinner} {pos}/{len} {msg} ({elapsed})");
    progress.set_style(style.unwrap());
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("quiet");
    let quiet = quiet().await;
    let mut rows = Vec::new();
    for attack in attacks {
        progress.inc(1);
        progress.set_message(attack.name);
        rows.push(measured(attack).await);
    }
    progress.finish_and_clear();
    table::print(&quiet, &rows)
}

/// The polite client alone.
async fn quiet() -> Row {
    let scene = Scene::start(&SetUp::default()).await;
    scene.warm().await;
    scene.forget_peak();
    let polite = scene.polite().unwrap();
    tokio::time::sleep(QUIET).await;
    Row {
        name: "none",
        polite: Some(polite.end().await),
        peak: scene.epp.peak_resident(),
        outcome: Ok(String::new()),
    }
}

async fn measured(attack: Attack) -> Row {
    let mut scene = Scene::start(&attack.set_up).await;
    scene.warm().await;
    scene.forget_peak();
    let polite = scene.polite();
    let until = tokio::time::Instant::now() + LOOK;
    let outcome = tokio::time::timeout(LIMIT, (attack.run)(&mut scene)).await;
    let mut outcome = outcome.unwrap_or_else(|_| Err(format!("not over after {LIMIT:?}")));
    let peak = scene.epp.peak_resident();
    if polite.is_some() {
        tokio::time::sleep_until(until).await;
        if let Some(status) = scene.epp.has_ended() {
            outcome = Err(format!("epp has ended: {status}"));
        }
    }
    let peak = peak.max(scene.epp.peak_resident());
    let polite = match polite {
        Some(polite) => Some(polite.end().await),
        None => None,
    };
    Row {
        name: attack.name,
        polite,
        peak,
        outcome,
    }
}
