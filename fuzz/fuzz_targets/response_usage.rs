//! A response body from a hostile server, cut anywhere: no panic, and where it is cut makes no difference.
//! The pieces are repeated as a number in front of them says, so that small inputs reach deep nests and long lines.

#![no_main]

use endpoint_picker::wire::usage::UsageWatcher;
use libfuzzer_sys::fuzz_target;

/// Longest body made from an input, bytes.
const MAX_BODY: usize = 4 << 20;

fuzz_target!(|input: (u16, Vec<Vec<u8>>)| {
    let (repeats, pieces) = input;
    let unit: usize = pieces.iter().map(Vec::len).sum();
    let repeats = usize::from(repeats).clamp(1, (MAX_BODY / unit.max(1)).max(1));
    for kind in ["application/json", "text/event-stream"] {
        let (mut cut, mut whole) =
            (UsageWatcher::for_content(Some(kind), None), UsageWatcher::for_content(Some(kind), None));
        for piece in (0..repeats).flat_map(|_| &pieces) {
            cut.push(piece);
        }
        whole.push(&pieces.concat().repeat(repeats));
        assert_eq!(cut.finish(), whole.finish());
    }
});
