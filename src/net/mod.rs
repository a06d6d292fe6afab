//! F5: listeners, TLS, and the way of a connection to the worker that serves it.
//!
//! [`listen::bind`] opens a port, [`accept::run`] takes connections in one place and deals them round-robin to
//! workers, [`incoming::incoming`] is a worker's end: it shakes hands where the connection will live and yields
//! streams that `tonic::transport::Server::serve_with_incoming` serves.

pub mod accept;
mod certificate;
pub mod incoming;
pub mod io;
pub mod listen;
pub mod prefixed;
pub mod tls;
pub mod tls_reload;
