//! `inference-sim` as a program: options as typed -> settings made sense of -> run.

mod machine;
mod options;
mod run;
mod settings;

pub use options::FLAGS;
pub use run::{RunError, run};
pub use settings::{CommandLine, Settings, read};
