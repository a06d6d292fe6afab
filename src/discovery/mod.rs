//! F5: where endpoints come from.

pub mod file;
pub mod kubernetes;
mod watch;

pub use file::plugin_types;
