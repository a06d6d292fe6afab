//! F4: the scheduler, its profiles, and the filter, scorer, picker and handler plugins, one file each.

pub mod filter;
pub mod handler;
mod observe;
pub mod picker;
mod profile;
mod scheduler;
pub mod scorer;

#[cfg(test)]
mod fixture;

pub use observe::{Observer, PluginTimers, Stage, Unobserved};
pub use profile::{Profile, RatedScorer, weigh};
pub use scheduler::{ScheduleError, Scheduler};

use crate::plugin::PluginType;

/// Every plugin type of this floor, for the registry.
pub fn plugin_types() -> Vec<PluginType> {
    vec![
        handler::single_profile::TYPE,
        filter::header_based_testing::TYPE,
        filter::destination_endpoint_served::TYPE,
        scorer::queue::TYPE,
        scorer::running_requests::TYPE,
        scorer::kv_cache_utilization::TYPE,
        scorer::lora_affinity::TYPE,
        scorer::prefix_cache::TYPE,
        picker::max_score::TYPE,
        picker::random::TYPE,
        picker::weighted_random::TYPE,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Params;

    #[test]
    fn every_type_has_a_name_of_its_own_and_works_with_its_defaults() {
        let mut names: Vec<&str> = plugin_types().iter().map(|t| t.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), plugin_types().len());
        for t in plugin_types() {
            assert!(
                (t.make)(&fixture::context(t.name), &Params::default()).is_ok(),
                "{}",
                t.name
            );
        }
    }

    #[test]
    fn unknown_parameters_are_refused_by_every_type() {
        for t in plugin_types() {
            let made = (t.make)(&fixture::context(t.name), &fixture::params("{\"zebra\": 1}"));
            let text = made.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains("unknown parameter \"zebra\""), "{}: {text}", t.name);
        }
    }
}
