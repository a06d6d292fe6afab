//! Profile handlers: which profiles run, and which one names the destination.

pub mod single_profile;
