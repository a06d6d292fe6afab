//! F1: documents as people write them: `EndpointPickerConfig`, the endpoints file. Reading is strict and
//! collects every mistake with its place.

pub mod document;
pub mod endpoints_file;
pub mod picker_config;
