//! A response body from a hostile server, cut anywhere: no panic, and where events are cut makes no difference.

#![no_main]

use endpoint_picker::wire::usage::UsageWatcher;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    for kind in ["application/json", "text/event-stream"] {
        let (mut cut, mut whole) =
            (UsageWatcher::for_content(Some(kind), None), UsageWatcher::for_content(Some(kind), None));
        for piece in &pieces {
            cut.push(piece);
        }
        whole.push(&pieces.concat());
        assert_eq!(cut.finish(), whole.finish());
    }
});
