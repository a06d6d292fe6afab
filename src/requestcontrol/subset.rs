//! The subset hint: endpoints the proxy allows for this request (request.md §4.1; decision 17).

use std::net::{IpAddr, SocketAddr};

use crate::model::endpoint::Endpoint;
use crate::model::endpoint_list::EndpointList;

/// A parsed hint. Entries that name no address are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subset {
    sockets: Vec<SocketAddr>,
    hosts: Vec<IpAddr>,
}

impl Subset {
    /// Reads entries `ip:port` (that endpoint) and `ip` (every port of that address), IPv6 bracketed or not.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut subset = Subset::default();
        for entry in entries {
            let entry = entry.trim();
            let bare = entry
                .strip_prefix('[')
                .and_then(|e| e.strip_suffix(']'))
                .unwrap_or(entry);
            if let Ok(socket) = entry.parse() {
                subset.sockets.push(socket);
            } else if let Ok(host) = bare.parse() {
                subset.hosts.push(host);
            }
        }
        subset.sockets.sort_unstable();
        subset.hosts.sort_unstable();
        subset
    }

    /// Does the hint allow `endpoint`?
    pub fn allows(&self, endpoint: &Endpoint) -> bool {
        self.sockets.binary_search(&endpoint.spec.address).is_ok()
            || self.hosts.binary_search(&endpoint.ip()).is_ok()
    }

    /// The endpoints the hint allows, in their order.
    pub fn select(&self, endpoints: &EndpointList) -> EndpointList {
        endpoints.filtered(|e| self.allows(e))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::endpoint::EndpointSpec;

    fn endpoints(addresses: &[&str]) -> EndpointList {
        let spec = |a: &&str| EndpointSpec {
            namespace: "default".into(),
            name: (*a).into(),
            address: a.parse().unwrap(),
            metrics_address: None,
            metrics_path: None,
            labels: std::collections::BTreeMap::new(),
        };
        addresses
            .iter()
            .map(|a| Arc::new(Endpoint::new(spec(a), 1, 0)))
            .collect()
    }

    #[test]
    fn entries_match_ip_and_port_or_ip_alone() {
        let fleet = endpoints(&[
            "10.0.0.1:8000",
            "10.0.0.1:8001",
            "10.0.0.2:8000",
            "[fd00::1]:8000",
        ]);
        let rows: [(&[&str], &[&str]); 7] = [
            (&["10.0.0.1:8001"], &["10.0.0.1:8001"]),
            (&["10.0.0.1"], &["10.0.0.1:8000", "10.0.0.1:8001"]),
            (&["[fd00::1]:8000"], &["[fd00::1]:8000"]),
            (&["fd00::1"], &["[fd00::1]:8000"]),
            (
                &["[fd00::1]", " 10.0.0.2:8000 "],
                &["10.0.0.2:8000", "[fd00::1]:8000"],
            ),
            (&["10.0.0.99:8000", "nonsense", ""], &[]),
            (&[], &[]),
        ];
        for (entries, expected) in rows {
            let out = Subset::parse(entries.iter().copied()).select(&fleet);
            let got: Vec<&str> = out.iter().map(|e| &*e.authority).collect();
            assert_eq!(got, expected, "{entries:?}");
        }
    }
}
