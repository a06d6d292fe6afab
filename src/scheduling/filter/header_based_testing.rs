//! `header-based-testing-filter`: a test names the endpoints in a header. For conformance
//! tests only: whoever can send the header chooses the endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Deserialize;

use crate::model::endpoint::Endpoint;
use crate::model::headers::TEST_SELECTION;
use crate::plugin::{Cycle, Filter, PluginType, Roles};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "header-based-testing-filter",
    help: "For conformance tests: keeps the endpoints that the header test-epp-endpoint-selection names, in its order.",
    params: &[],
    make: |_, params| {
        let Parameters {} = params.decode(&[])?;
        Ok(Roles {
            filter: Some(Arc::new(HeaderBasedTesting)),
            ..Roles::default()
        })
    },
};

#[derive(Default, Deserialize)]
struct Parameters {}

/// Keeps what the header names: comma-separated `IP`, `IP:port` or `[IPv6]:port`, one endpoint per IP. An entry
/// with a port names the endpoint at that port and no other. No header: nothing is kept.
pub struct HeaderBasedTesting;

impl Filter for HeaderBasedTesting {
    fn filter(&self, cycle: &Cycle<'_>, candidates: &mut Vec<u32>) {
        let header = cycle.request.headers.get(TEST_SELECTION).unwrap_or("");
        let endpoint = |c: &u32| &*cycle.endpoints[*c as usize];
        let mut kept: Vec<u32> = Vec::new();
        for (ip, port) in header.split(',').filter_map(parse) {
            if kept.iter().any(|c| endpoint(c).ip() == ip) {
                continue;
            }
            let named = |e: &Endpoint| e.ip() == ip && port.is_none_or(|p| e.port() == p);
            kept.extend(candidates.iter().find(|c| named(endpoint(c))));
        }
        *candidates = kept;
    }
}

fn parse(entry: &str) -> Option<(IpAddr, Option<u16>)> {
    let entry = entry.trim();
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return Some((address.ip(), Some(address.port())));
    }
    let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']'));
    bare.unwrap_or(entry).parse().ok().map(|ip| (ip, None))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::scheduling::fixture::Fixture;

    #[test]
    fn the_header_chooses_and_orders() {
        for (header, expected) in [
            (None, &[][..]),
            (Some(""), &[]),
            (Some("10.0.0.3"), &[2]),
            (Some("10.0.0.3, 10.0.0.1"), &[2, 0]),
            (Some("10.0.0.2:8000,10.0.0.2"), &[1]),
            (Some("10.0.0.2:9999"), &[]),
            (Some("10.0.0.2:9999,10.0.0.2"), &[1]),
            (Some("[10.0.0.2],10.9.9.9,nonsense,,10.0.0.1"), &[1, 0]),
            (Some("[fd00::1]:8000"), &[]),
        ] {
            let mut fixture = Fixture::idle(3);
            if let Some(value) = header {
                let headers = &mut fixture.request.headers;
                headers.push(Bytes::from_static(TEST_SELECTION.as_bytes()), value.into());
            }
            let mut candidates = vec![0, 1, 2];
            HeaderBasedTesting.filter(&fixture.cycle(), &mut candidates);
            assert_eq!(candidates, expected, "{header:?}");
        }
    }

    #[test]
    fn entries_are_addresses_with_or_without_port() {
        let v6: IpAddr = "fd00::1".parse().unwrap();
        for (entry, expected) in [
            ("fd00::1", Some((v6, None))),
            ("[fd00::1]", Some((v6, None))),
            (" [fd00::1]:80 ", Some((v6, Some(80)))),
            ("host:80", None),
            ("", None),
        ] {
            assert_eq!(parse(entry), expected, "{entry}");
        }
    }
}
