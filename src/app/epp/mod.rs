//! `epp` as a program: options as typed -> settings made sense of -> run.

pub mod environment;
mod options;
mod settings;
mod validate;

mod announce;
mod check;
mod cluster;
mod configure;
mod descriptors;
mod errors;
mod generation;
mod parts;
mod ports;
mod reload;
mod run;
mod shutdown;
mod streams;
mod tasks;
mod workers;

pub use check::{Checked, check};
pub use errors::RunError;
pub use options::{FLAGS, PROGRAM};
pub use run::run;
pub use settings::{CommandLine, MetricSpecs, Settings, read};
