//! Which messages are shown: the verbosity of a place in the code, and the threshold it is held against.

use tracing::metadata::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// Crates whose messages are ours: the library and the two binaries.
const OURS: [&str; 3] = ["endpoint_picker", "epp", "inference_sim"];

/// How much more verbose other crates' messages count.
const FOREIGN: u32 = 2;

/// What is shown. Ordered: a greater threshold shows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threshold {
    /// Nothing (`--zap-log-level panic`).
    Panic,
    /// Errors (`error`).
    Error,
    /// Errors and warnings (`warn`).
    Warn,
    /// Those, and messages of at most this verbosity (`-v n`; `info` is 0, `debug` is 1).
    Verbosity(u32),
}

impl Default for Threshold {
    fn default() -> Self {
        Threshold::Verbosity(0)
    }
}

/// What a message needs to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// An error.
    Error,
    /// A warning.
    Warn,
    /// Information of a verbosity.
    Info(u32),
}

impl Grade {
    /// The grade of a place in the code.
    pub fn of(metadata: &Metadata) -> Grade {
        let target = metadata.target();
        let ours = OURS.contains(&target.split([':', '@']).next().unwrap_or(target));
        let later = if ours { 0 } else { FOREIGN };
        let verbosity = match *metadata.level() {
            // Its watches warn at every try; ours say each failure once, with what to do.
            Level::ERROR | Level::WARN if target.starts_with("kube") => 2,
            Level::ERROR => return Grade::Error,
            Level::WARN => return Grade::Warn,
            Level::INFO => 0,
            Level::DEBUG => marked(target).unwrap_or(4),
            Level::TRACE => 5,
        };
        Grade::Info(verbosity + later)
    }

    /// The level as the reference writes it.
    pub fn name(self) -> String {
        match self {
            Grade::Error => "error".into(),
            Grade::Warn => "warn".into(),
            Grade::Info(0) => "info".into(),
            Grade::Info(1) => "debug".into(),
            Grade::Info(n) => format!("Level(-{n})"),
        }
    }

    fn shown(self, threshold: Threshold) -> bool {
        match self {
            Grade::Error => threshold >= Threshold::Error,
            Grade::Warn => threshold >= Threshold::Warn,
            Grade::Info(n) => threshold >= Threshold::Verbosity(n),
        }
    }
}

/// The verbosity the `verbose!` macro wrote into a target.
fn marked(target: &str) -> Option<u32> {
    target.rsplit_once("@v")?.1.parse().ok()
}

/// The filter of the log layer.
#[derive(Clone, Copy, Debug)]
pub struct Verbosity(pub Threshold);

impl<S> Filter<S> for Verbosity {
    fn enabled(&self, metadata: &Metadata, _: &Context<S>) -> bool {
        Grade::of(metadata).shown(self.0)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Grade::of(metadata).shown(self.0) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0 {
            Threshold::Panic => LevelFilter::OFF,
            Threshold::Error => LevelFilter::ERROR,
            Threshold::Warn => LevelFilter::WARN,
            Threshold::Verbosity(0) => LevelFilter::INFO,
            Threshold::Verbosity(1..=4) => LevelFilter::DEBUG,
            Threshold::Verbosity(_) => LevelFilter::TRACE,
        })
    }
}
