//! Ports for servers that cannot say which port they got: below the ephemeral range, so that no client socket
//! takes one between our choice and the server's bind.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);
const FIRST: u32 = 11_000;
const COUNT: u32 = 20_000;

/// A port no one listens on, given out once in this process.
pub fn free() -> u16 {
    for _ in 0..COUNT {
        let start = std::process::id().wrapping_mul(61);
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT - 1);
}
