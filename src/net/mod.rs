//! F5: listeners and TLS.
