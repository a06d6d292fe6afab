//! A body sent to the simulator by a hostile client: reading it, its tools and its prompt never panics, and tokens
//! joined are the text.

#![no_main]

use endpoint_picker::simulator::api::{Prompt, Request, lenient};
use endpoint_picker::simulator::tokenizer::Tokenizer;
use endpoint_picker::simulator::{api::request::joined, tools};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(request) = lenient::read::<Request>(data) else {
        return;
    };
    if let Some(raw) = &request.tools {
        let _ = tools::read(raw, false);
    }
    let texts = match &request.prompt {
        Some(Prompt::Text(text)) => vec![text.clone()],
        Some(Prompt::Texts(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let chat = request.messages.as_ref().map(|messages| joined(&messages.0));
    for text in texts.into_iter().chain(chat) {
        let tokens = Tokenizer::Simple.cut(text.clone());
        assert_eq!(tokens.iter().collect::<String>(), text);
        assert_eq!(tokens.ids().len(), tokens.len());
    }
});
