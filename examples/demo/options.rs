//! The demo's command line.

use std::path::PathBuf;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Stop after the tables.
    pub once: bool,
    /// Requests of one pass, 1 to 100,000.
    pub requests: usize,
    /// Folder of `epp` and `inference-sim`.
    pub binaries: PathBuf,
}

const USAGE: &str = "usage: demo [--once] [--requests N] [--binaries DIR]";

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// An argument is unknown or its value is no use; the text says which, and how it would be right.
    pub fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options {
            once: false,
            requests: 480,
            binaries: beside_this_program()?,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--once" => options.once = true,
                "--requests" => options.requests = count(&value()?)?,
                "--binaries" => options.binaries = value()?.into(),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn count(text: &str) -> Result<usize, String> {
    let n = text.parse().ok().filter(|n| (1..=100_000).contains(n));
    n.ok_or(format!(
        "--requests {text}: a number from 1 to 100000 is needed\n{USAGE}"
    ))
}

/// `target/release` for `target/release/examples/demo`.
fn beside_this_program() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    let folder = program.parent().and_then(|examples| examples.parent());
    Ok(folder.unwrap_or(&program).to_owned())
}
