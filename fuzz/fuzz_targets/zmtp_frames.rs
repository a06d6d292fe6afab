//! Frames of ZMTP: reading them never panics, takes no more than a frame may have, and leaves what is not whole.

#![no_main]

use bytes::BytesMut;
use endpoint_picker::wire::zmtp::{Frame, MAX_FRAME, check_greeting, pong, socket_type, take_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(greeting) = data.first_chunk() {
        let _ = check_greeting(greeting);
    }
    let mut bytes = BytesMut::from(data);
    loop {
        let before = bytes.len();
        match take_frame(&mut bytes) {
            Ok(Some(Frame::Command(name, body))) => {
                assert!(name.len() + body.len() <= MAX_FRAME);
                let _ = socket_type(&body);
                let _ = pong(&body);
            }
            Ok(Some(Frame::Part(body, _))) => assert!(body.len() <= MAX_FRAME),
            Ok(None) => {
                assert_eq!(bytes.len(), before);
                return;
            }
            Err(_) => return,
        }
        assert!(bytes.len() < before);
    }
});
