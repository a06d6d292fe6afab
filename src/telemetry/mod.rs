//! F1: metric names and recorders, log set-up, spans. Knows no other module of its floor.

pub mod logging;
pub mod metrics;
pub mod spans;
