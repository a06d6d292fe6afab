//! Log set-up: the reference's verbosities and line formats on top of `tracing`. Called by `app` once, first
//! thing; everything else just logs.
//!
//! # Which macro is which verbosity
//! A message of verbosity n is shown when `-v` is at least n; errors and warnings are shown at any `-v`.
//!
//! | written | verbosity | level on the line |
//! |---|---|---|
//! | `error!` | always | `error` |
//! | `warn!` | always | `warn` |
//! | `info!` | 0 | `info` |
//! | `verbose!(1, …)` | 1 | `debug` |
//! | `verbose!(2, …)`, `verbose!(3, …)` | 2 (default of the reference), 3 (verbose) | `Level(-2)`, `Level(-3)` |
//! | `debug!` | 4 | `Level(-4)` |
//! | `trace!` | 5 | `Level(-5)` |
//!
//! Of other crates warnings and errors count the same, the rest two verbosities later: a transport's debug
//! messages would drown ours. Whether a message is shown is decided once per place in the code, so that a
//! message that is off costs one relaxed load and builds no argument.
//!
//! Lines written while a request is handled carry its id ([`request_scope`]). Of each place in the code ten warnings
//! or errors are written in ten seconds; the next one says how many were left out.

mod line;
mod repeats;
mod request;
mod sampling;
mod stack;
mod time_format;
mod verbosity;

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use line::Lines;
use repeats::Repeats;
pub use request::{RequestScope, request_scope};
use sampling::Sampler;
pub use stack::StackLevel;
pub use time_format::TimeFormat;
pub use verbosity::Threshold;
use verbosity::Verbosity;

/// Logs at verbosity 1, 2 or 3; for 0, 4 and 5 there are `info!`, `debug!` and `trace!`.
macro_rules! verbose {
    (1, $($arg:tt)+) => { ::tracing::debug!(target: concat!(module_path!(), "@v1"), $($arg)+) };
    (2, $($arg:tt)+) => { ::tracing::debug!(target: concat!(module_path!(), "@v2"), $($arg)+) };
    (3, $($arg:tt)+) => { ::tracing::debug!(target: concat!(module_path!(), "@v3"), $($arg)+) };
}
pub(crate) use verbose;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoder {
    /// Tab-separated: time, level, logger, caller, message, then a JSON object of the fields.
    #[default]
    Console,
    /// One JSON object: `level`, `ts`, `logger`, `caller`, `msg`, the fields, `error`, `stacktrace`.
    Json,
}

/// What the log flags come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What is shown (`-v`, `--zap-log-level`).
    pub threshold: Threshold,
    /// How it is written (`--zap-encoder`; console with `--zap-devel`, else JSON).
    pub encoder: Encoder,
    /// How the time is written (`--zap-time-encoding`).
    pub time: TimeFormat,
    /// Production logging (`--zap-devel=false`): of the same message the first 100 a second are written, then
    /// every 100th. Not done from verbosity 2 on.
    pub sampled: bool,
    /// Lines that carry a stack trace (`--zap-stacktrace-level`).
    pub stack: StackLevel,
}

/// Starts logging to standard error, for the whole process.
///
/// # Errors
/// When logging was started before.
pub fn init(options: Options) -> Result<(), TryInitError> {
    tracing_subscriber::registry()
        .with(layer(options, std::io::stderr))
        .try_init()?;
    stack::log_panics();
    Ok(())
}

/// The layer that writes lines to `writer`, filtered by the options' threshold; stands beside other layers.
pub fn layer<S, W>(options: Options, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    let sampled = options.sampled && options.threshold < Threshold::Verbosity(2);
    let sampler = sampled.then(Sampler::default);
    let lines = Lines {
        options,
        sampler,
        repeats: Repeats::default(),
        writer,
    };
    lines.with_filter(Verbosity(options.threshold))
}

#[cfg(test)]
mod tests;
