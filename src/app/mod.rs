//! F8: the two programs: options as typed, settings made sense of, and the run.

pub mod epp;
#[cfg(feature = "sim")]
pub mod sim;
