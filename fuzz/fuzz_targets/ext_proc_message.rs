//! An ext_proc message from a hostile proxy: reading it never panics.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = endpoint_picker::wire::ext_proc::decode(&Bytes::copy_from_slice(data));
});
