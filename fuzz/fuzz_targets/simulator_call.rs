//! A gRPC message sent to the simulator by a hostile client: reading it never panics, and it brings no more token ids than
//! were counted before it was read.

#![no_main]

use endpoint_picker::simulator::grpc::messages::GenerateRequest;
use endpoint_picker::simulator::grpc::{bounded, generate};
use endpoint_picker::simulator::order::Input;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let counted = bounded::ids(data);
    let Ok(request) = GenerateRequest::decode(data) else {
        return;
    };
    let Ok(wish) = generate::wish("m", request) else {
        return;
    };
    for input in &wish.inputs {
        if let Input::Ids(ids) = input {
            assert!(ids.len() <= counted);
        }
    }
});
