//! `inference-sim`: command line, then the run. Exit codes: 0 clean, 1 refused or failed.

use std::io::Write;
use std::process::ExitCode;

use endpoint_picker::app::sim::{self, CommandLine};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args
        .next()
        .map_or("inference-sim".into(), |p| p.to_string_lossy().into_owned());
    match sim::read(&program, args.collect(), &|name| std::env::var(name).ok()) {
        CommandLine::Help(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        CommandLine::Refused(text) => {
            say(&text);
            ExitCode::FAILURE
        }
        CommandLine::Run(settings, notes) => {
            notes.iter().for_each(|n| say(n));
            match sim::run(*settings) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    say(&format!("error: {error}"));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Writes to stderr; a closed stderr is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
