//! Configurations and endpoints files: reading them never panics, whatever they hold.

#![no_main]

use endpoint_picker::api::document::Mistakes;
use endpoint_picker::api::{endpoints_file, picker_config};
use endpoint_picker::wire::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(tree) = yaml::parse("fuzz", data) {
        let mut mistakes = Mistakes::of("fuzz");
        let _ = picker_config::read(&tree, &mut mistakes);
        let _ = endpoints_file::read(&tree, &mut mistakes);
        let _ = mistakes.to_string();
    }
});
