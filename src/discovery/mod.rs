//! F5: where endpoints come from.

pub mod file;

pub use file::plugin_types;
