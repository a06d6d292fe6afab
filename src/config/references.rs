//! References to plugins by name. Called by `build` and `profiles`.

use crate::api::document::Mistakes;
use crate::api::picker_config::{PickerConfig, PluginRef};
use crate::base::suggest;
use crate::plugin::PluginInstance;

/// The plugin a reference names; `referrer` is what the message calls the one who names it. One that is configured but could not be made is not reported again.
pub fn find<'p>(
    document: &PickerConfig,
    plugins: &'p [PluginInstance],
    reference: &PluginRef,
    referrer: &str,
    m: &mut Mistakes,
) -> Option<&'p PluginInstance> {
    let found = plugins.iter().find(|p| *p.name == *reference.name);
    if found.is_none() && !document.plugins.iter().any(|p| p.name == reference.name) {
        let names = document.plugins.iter().map(|p| p.name.as_str());
        let hint = suggest::hint(&reference.name, names);
        m.add(
            reference.at,
            reference.path.clone(),
            format!(
                "{referrer} references undefined plugin '{}'{hint}",
                reference.name
            ),
        );
    }
    found
}
