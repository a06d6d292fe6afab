//! Stack traces of log lines and panics, one `function\n\tfile:line` a frame as zap writes them, without the frames
//! of logging itself.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::panic::PanicHookInfo;

use super::verbosity::Grade;

/// Lines that carry a stack trace (`--zap-stacktrace-level`). Panics always do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StackLevel {
    /// Information of verbosity 0, warnings and errors (`info`).
    Info,
    /// Errors (`error`).
    Error,
    /// None but panics (`panic`); also where the flag is not given, for capturing a stack takes milliseconds.
    #[default]
    Panic,
}

impl StackLevel {
    /// Does a line of this grade carry one?
    pub fn covers(self, grade: Grade) -> bool {
        match self {
            StackLevel::Info => grade <= Grade::Info(0),
            StackLevel::Error => grade == Grade::Error,
            StackLevel::Panic => false,
        }
    }
}

/// Most frames written.
const MAX_FRAMES: usize = 64;

/// The stack here.
pub fn capture() -> String {
    frames(&Backtrace::force_capture().to_string())
}

/// `text` as the standard library writes a stack (`  3: function`, `     at file:line:column`), reworked.
fn frames(text: &str) -> String {
    let mut frames: Vec<(&str, &str)> = Vec::new();
    for line in text.lines().map(str::trim) {
        match (line.strip_prefix("at "), line.split_once(": ")) {
            (Some(place), _) => {
                if let Some(last) = frames.last_mut() {
                    last.1 = place;
                }
            }
            (None, Some((number, function))) if number.bytes().all(|b| b.is_ascii_digit()) => {
                frames.push((function, ""));
            }
            _ => {}
        }
    }
    let inside = |(function, place): &(&str, &str)| {
        [
            "std::", "core::", "alloc::", "tracing", "<tracing", "<alloc::", "<core::", "__rustc",
        ]
        .iter()
        .any(|p| function.starts_with(p))
            || function.contains("telemetry::logging::")
            || place.contains("telemetry/logging/")
    };
    let first = frames.iter().position(|f| !inside(f)).unwrap_or(0);
    let mut out = String::new();
    for (function, place) in frames.iter().skip(first).take(MAX_FRAMES) {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = write!(out, "{function}\n\t{place}");
    }
    out
}

/// From now on a panic is a line of the log, with its stack, instead of raw text on standard
/// error. Where errors are not logged, the raw text stays.
pub fn log_panics() {
    let raw = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        if !tracing::enabled!(tracing::Level::ERROR) {
            return raw(panic);
        }
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(
            error = panic.payload_as_str().unwrap_or("(no text)"),
            place = place.as_deref().unwrap_or("unknown"),
            thread = thread.name().unwrap_or("unnamed"),
            stacktrace = capture(),
            "Panic"
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_begins_where_logging_ends() {
        let text = "   0: std::backtrace::Backtrace::create\n             at /rustc/x.rs:1:2\n   1: \
                    endpoint_picker::telemetry::logging::stack::capture\n   2: tracing_core::dispatch\n   3: \
                    epp::serve\n             at ./src/a.rs:7:9\n   4: core::ops::call\n";
        assert_eq!(frames(text), "epp::serve\n\t./src/a.rs:7:9\ncore::ops::call\n\t");
        assert_eq!(frames("disabled backtrace"), "");
        assert!(capture().contains("\n\t"), "{}", capture());
    }

    #[test]
    fn levels_cover_what_is_as_severe() {
        use Grade::{Error, Info, Warn};
        for (level, covered) in [
            (StackLevel::Info, [true, true, true, false]),
            (StackLevel::Error, [true, false, false, false]),
            (StackLevel::Panic, [false; 4]),
        ] {
            let got = [Error, Warn, Info(0), Info(1)].map(|g| level.covers(g));
            assert_eq!(got, covered, "{level:?}");
        }
    }
}
