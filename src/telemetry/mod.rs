//! F1: metric names and recorders, log set-up. Knows no other module of its floor.

pub mod logging;
pub mod metrics;
