//! F4: the scheduler, its profiles, and the filter, scorer, picker and handler plugins, one file each.

mod profile;
mod scheduler;

pub use profile::{Profile, RatedScorer};
pub use scheduler::{ScheduleError, Scheduler};
