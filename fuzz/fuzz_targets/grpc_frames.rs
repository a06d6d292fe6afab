//! gRPC frames cut anywhere: no panic, and no more bytes come out than went in.

#![no_main]

use bytes::Bytes;
use endpoint_picker::wire::grpc::Deframer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let mut deframer = Deframer::new(1 << 16);
    let (mut given, mut taken) = (0, 0);
    for piece in pieces {
        given += piece.len();
        deframer.push(Bytes::from(piece));
        while let Ok(Some(message)) = deframer.next_message() {
            taken += message.len() + 5;
        }
    }
    assert!(taken <= given);
});
