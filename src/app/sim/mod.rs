//! `inference-sim` as a program: options as typed -> settings made sense of -> run.

mod checks;
mod download;
mod events;
mod lists;
mod live;
mod machine;
mod options;
mod run;
mod serving;
mod settings;
mod shown;
#[cfg(test)]
mod tests;
mod tls;
mod yaml_file;

pub use options::FLAGS;
pub use run::{RunError, run};
pub use settings::{CommandLine, Settings, read};
