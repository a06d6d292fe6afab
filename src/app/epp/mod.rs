//! `epp` as a program: options as typed -> settings made sense of -> run.

pub mod environment;
mod options;
mod settings;
mod validate;

pub use options::{FLAGS, PROGRAM};
pub use settings::{CommandLine, MetricSpecs, Settings, read};
