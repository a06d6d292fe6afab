//! F7: `EndpointPickerConfig`: load, defaults, check, and build into live plugins.
