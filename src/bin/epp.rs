//! `epp`: command line and environment, then the run. Exit codes: 0 clean, 1 refused or failed, 2 usage.

use std::io::Write;
use std::process::ExitCode;

use endpoint_picker::app::epp::{self, CommandLine};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args
        .next()
        .map_or(epp::PROGRAM.into(), |p| p.to_string_lossy().into_owned());
    let args: Vec<_> = args.collect();
    match epp::read(&program, &args, &|name| std::env::var_os(name)) {
        CommandLine::Help(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        CommandLine::Usage(text) => {
            say(&text);
            ExitCode::from(2)
        }
        CommandLine::Refused(lines) => {
            say(&lines.join("\n"));
            ExitCode::FAILURE
        }
        CommandLine::Check(settings, lines) => {
            for line in lines {
                say(&line);
            }
            match epp::check(&settings) {
                Ok(checked) => {
                    for warning in checked.warnings {
                        say(&format!("warning: {warning}"));
                    }
                    let _ = write!(std::io::stdout(), "{}", checked.effective);
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    say(&format!("error: {error}"));
                    ExitCode::FAILURE
                }
            }
        }
        CommandLine::Run(settings, lines) => {
            if !lines.is_empty() {
                say(&lines.join("\n"));
            }
            match epp::run(*settings) {
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
