//! F1: documents as people write them: `EndpointPickerConfig`, the endpoints file.
