//! `make demo`: four simulated model servers, `epp` and Envoy as real processes; the same traffic once with `epp`
//! choosing by prefix, queue and cache, and once at random; tables that compare the two.
//!
//! `--once` stops after the tables, `--requests N` sends more or fewer, `--binaries DIR` says where `epp` and
//! `inference-sim` are (else beside this program's folder, where cargo puts them).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the demo talks to the person who runs it"
)]

#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "shared with the end-to-end tests"
)]
#[path = "../../tests/support/envoy.rs"]
mod envoy;
mod exchange;
mod measure;
mod options;
#[allow(clippy::unwrap_used, reason = "shared with the end-to-end tests")]
#[path = "../../tests/support/ports.rs"]
mod ports;
#[allow(dead_code, clippy::print_stderr, reason = "shared with the end-to-end tests")]
#[path = "../../tests/support/process.rs"]
mod process;
mod report;
mod stack;
mod traffic;

use std::process::ExitCode;

use options::Options;
use report::Run;
use stack::{Choice, Stack};

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        // Whichever ends first: what the demo started dies with the future that holds it.
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                done = demo(&options) => done,
                () = interrupted() => match options.once {
                    true => Err("stopped before the end".into()),
                    false => Ok(()),
                },
            }
        }),
        Err(e) => Err(format!("cannot start: {e}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Returns at Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn demo(options: &Options) -> Result<(), String> {
    // Once per process, and before any HTTP client is built.
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!(
        "client -> Envoy -> epp (picks) -> one of {} model servers\n",
        stack::SERVERS
    );
    let plan = traffic::plan(options.requests);
    let mut runs = Vec::new();
    // The interesting stack comes last, so that it is the one that stays up.
    for choice in [Choice::Random, Choice::Informed] {
        let mut stack = Stack::start(choice, options).await?;
        let run = measured(&mut stack, choice, &plan).await?;
        let failed = run.failures();
        runs.push(run);
        if let Some(first) = failed {
            return Err(format!("the demo's traffic failed: {first}\n{}", stack.logs()));
        }
        if choice == Choice::Informed {
            runs.reverse();
            println!("{}", report::tables(&runs));
            if !options.once {
                println!("{}", report::try_it(&stack));
                std::future::pending::<()>().await;
            }
        }
        stack.stop().await;
    }
    Ok(())
}

/// One pass of the plan through a fresh stack.
async fn measured(stack: &mut Stack, choice: Choice, plan: &[traffic::Planned]) -> Result<Run, String> {
    let idle = measure::idle_cpu(stack.epp_pid()).await;
    let before = measure::cpu(stack.epp_pid());
    let started = tokio::time::Instant::now();
    let outcomes = traffic::drive(stack.traffic(), plan, choice.label()).await?;
    let wall = started.elapsed();
    let cpu = measure::cpu(stack.epp_pid())
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    Ok(Run {
        label: choice.label(),
        outcomes,
        wall,
        epp_cpu: cpu,
        epp_idle: idle,
        per_endpoint: stack.requests_per_endpoint().await?,
        cache: stack.cache_counters().await,
    })
}
