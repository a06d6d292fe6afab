//! F5: listeners, TLS, and the way of a connection to the worker that serves it.
//!
//! [`listen::bind`] opens a port, [`accept`] takes connections in one place and deals them round-robin to workers,
//! [`places`] limits them. [`http2`] is a worker's end: it shakes hands where the connection will live and serves it.
//! [`incoming`] is the same for servers that take a stream of connections.

pub mod accept;
mod certificate;
pub mod http2;
pub mod incoming;
pub mod io;
pub mod listen;
pub mod paced;
pub mod patient;
pub mod places;
pub mod prefixed;
pub mod tls;
pub mod tls_reload;
