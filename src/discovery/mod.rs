//! F5: where endpoints come from.

pub mod file;
pub mod kubernetes;

pub use file::plugin_types;
