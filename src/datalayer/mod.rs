//! F5: the poller that keeps every endpoint's sample fresh.
//!
//! [`Poller`] runs one task per endpoint of the fleet: at its turn of the interval the task fetches the
//! metrics page, scans it for what its engine reports, and publishes a new sample. [`PoolGauges`] averages
//! the samples for our own metrics page. Wired by `app`, configured by the plugin types of
//! [`plugin_types`].

mod attempts;
mod certificates;
mod connection;
mod engine;
mod extract;
mod fetch;
mod gauges;
mod plugins;
mod poller;
mod probe;
mod schedule;

pub use engine::{DEFAULT_ENGINE, ENGINE_LABELS, Engine, EngineConfig, Engines, FlagSpecs};
pub use fetch::{ParseSchemeError, Scheme};
pub use gauges::PoolGauges;
pub use plugins::{MetricsSource, plugin_types};
pub use poller::{Poller, PollerError, PollerHandle, PollerSettings};
