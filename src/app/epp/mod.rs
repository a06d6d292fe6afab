//! `epp` as a program: options as typed -> settings made sense of -> run.

pub mod environment;
mod options;
mod settings;
mod validate;

mod run;
mod shutdown;
mod workers;

pub use options::{FLAGS, PROGRAM};
pub use run::{RunError, run};
pub use settings::{CommandLine, MetricSpecs, Settings, read};
