//! A request body from a hostile client: reading it never panics, what is kept of it is bounded by its size, and a
//! spliced model leaves valid JSON in which nothing else has changed. The input is repeated as a number in front of
//! it says, so that small inputs reach wide lists and deep nests.

#![no_main]

use std::ops::ControlFlow;

use bytes::Bytes;
use endpoint_picker::model::request::Api;
use endpoint_picker::wire::openai;
use libfuzzer_sys::fuzz_target;

/// Longest body made from an input, bytes.
const MAX_BODY: usize = 4 << 20;

fuzz_target!(|input: (&[u8], &[u8], u16, &[u8])| {
    let (before, unit, repeats, behind) = input;
    let repeats = usize::from(repeats).min(MAX_BODY / unit.len().max(1));
    let body = Bytes::from([before, &unit.repeat(repeats), behind].concat());
    for api in [Api::Completions, Api::ChatCompletions, Api::Responses, Api::Conversations] {
        let Ok(parsed) = openai::parse(&body, api) else { continue };
        if let Ok(prompt) = &parsed.prompt {
            assert!(prompt.segments.len() <= (1 << 16) + 1);
            prompt.text(|_| ControlFlow::Continue(()));
            prompt.salt(|_| ());
        }
        let Ok(model) = parsed.model else { continue };
        let spliced = Bytes::from(openai::splice_model(&body, &model.places, "a\"b").concat());
        let again = openai::parse(&spliced, api).map(|p| p.model);
        let again = again.expect("still JSON").expect("still a model");
        assert_eq!(again.name, "a\"b");
        let back = openai::splice_model(&spliced, &again.places, &model.name).concat();
        let once = openai::parse(&Bytes::from(back), api).map(|p| p.model);
        assert_eq!(once.expect("still JSON").expect("still a model").name, model.name);
    }
});
