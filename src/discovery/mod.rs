//! F5: where endpoints come from.

pub mod file;
mod watch;

pub use file::plugin_types;
