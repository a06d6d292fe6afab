//! A request body from a hostile client: reading it never panics, and a spliced model leaves valid JSON.

#![no_main]

use bytes::Bytes;
use endpoint_picker::model::request::Api;
use endpoint_picker::wire::openai;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    for api in [Api::Completions, Api::ChatCompletions, Api::Responses, Api::Conversations] {
        if let Ok(parsed) = openai::parse(&body, api)
            && let Some((_, span)) = parsed.model
        {
            let spliced = Bytes::from(openai::splice_model(&body, span, "a\"b").concat());
            let again = openai::parse(&spliced, api).ok().and_then(|p| p.model).map(|(model, _)| model);
            assert_eq!(again.as_deref(), Some("a\"b"));
        }
    }
});
