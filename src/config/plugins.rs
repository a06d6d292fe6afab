//! The one list of all plugin types.

use crate::plugin::Registry;
use crate::{datalayer, discovery, scheduling};

/// Every plugin type a configuration may use.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let types = [
        scheduling::plugin_types(),
        datalayer::plugin_types(),
        discovery::plugin_types(),
    ];
    for plugin in types.into_iter().flatten() {
        registry.register(plugin);
    }
    registry
}
