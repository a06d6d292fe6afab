//! F0: the ground: Go-style flags and durations, the clock, files and their watches, the memory limit, "did you mean".

pub mod clock;
pub mod duration;
pub mod file_watch;
pub mod flags;
pub mod json_escape;
pub mod memory;
pub mod regular_file;
pub mod suggest;
