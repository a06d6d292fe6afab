//! F0: the ground: Go-style flags and durations, the clock, "did you mean".

pub mod clock;
pub mod duration;
pub mod flags;
pub mod suggest;
