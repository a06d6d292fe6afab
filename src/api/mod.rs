//! F1: documents as people write them: `EndpointPickerConfig`, the endpoints file, Kubernetes objects. Reading the
//! files is strict and collects every mistake with its place; of objects, only what is wrong is left out.

pub mod document;
pub mod endpoints_file;
pub mod kubernetes;
pub mod picker_config;
