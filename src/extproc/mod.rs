//! F7: the ext_proc server: Envoy's messages into director calls and back.
//!
//! [`stream`](self) is the state machine of one exchange: synchronous, message in, answers out, no transport.
//! `session` is its HTTP/2 body: it reads messages as they come and sends answers as they are ready, in one
//! task and with no channel between. `service` routes gRPC paths; `server` runs it on the worker threads.

mod answer;
mod server;
mod service;
mod session;
mod stream;

pub use server::serve;
pub use service::{ExtProcService, SERVICE};
pub use stream::{Limits, Stream};
