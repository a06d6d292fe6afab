//! Filters: narrow the candidates. The conformance plugins live here too.

pub mod destination_endpoint_served;
pub mod header_based_testing;
