//! Trace context from the headers of a request: reading it never panics, and what is continued is what was named.

#![no_main]

use endpoint_picker::telemetry::spans::continued;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, Option<&str>)| {
    let (parent, state) = data;
    if let Some(context) = continued(parent, state) {
        assert!(context.is_valid());
        assert!(parent.contains(&context.trace_id().to_string()));
        assert!(parent.contains(&context.span_id().to_string()));
    }
});
