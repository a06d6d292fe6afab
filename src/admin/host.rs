//! Who a request on loopback was meant for. A browser that resolves a stranger's name to 127.0.0.1 sends that name as the
//! host; pages that are open to this machine are not open to the stranger's scripts. Called by `metrics_page`.

use std::net::IpAddr;

use http::header::HOST;
use http::request::Parts;

/// Is the request meant for this machine? Every host it names, in its target and in its header, is `localhost`, a name
/// below it, or a loopback address. One that names none comes from no browser.
pub fn is_loopback(request: &Parts) -> bool {
    let target = request.uri.authority().map(|a| a.as_str());
    let headers = request.headers.get_all(HOST).iter();
    let mut named = headers.map(|h| h.to_str().ok()).chain(target.map(Some));
    named.all(|host| host.is_some_and(loopback))
}

/// A host with or without a port.
fn loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    match bare.unwrap_or(name).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn only_this_machines_names_and_addresses_are_meant_for_it() {
        let rows = [
            ("localhost", true),
            ("LocalHost:9090", true),
            ("localhost.:9090", true),
            ("epp.localhost", true),
            ("127.0.0.1", true),
            ("127.8.9.10:9090", true),
            ("[::1]:9090", true),
            ("[::ffff:127.0.0.1]", true),
            ("rebind.example:9090", false),
            ("localhost.example", false),
            ("notlocalhost", false),
            ("127.0.0.1.example", false),
            ("10.0.0.1:9090", false),
            ("[::2]", false),
            ("0.0.0.0", false),
            ("", false),
            ("a b", false),
        ];
        for (host, expected) in rows {
            let request = Request::get("/metrics").header(HOST, host).body(()).unwrap();
            assert_eq!(is_loopback(&request.into_parts().0), expected, "{host:?}");
        }
    }

    #[test]
    fn every_host_that_is_named_counts() {
        let parts = |target: &str, hosts: &[&str]| {
            let mut request = Request::get(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            request.body(()).unwrap().into_parts().0
        };
        assert!(is_loopback(&parts("/metrics", &[])));
        assert!(!is_loopback(&parts(
            "http://rebind.example/metrics",
            &["localhost"]
        )));
        assert!(!is_loopback(&parts("/metrics", &["localhost", "rebind.example"])));
        assert!(is_loopback(&parts(
            "http://localhost/metrics",
            &["127.0.0.1:9090"]
        )));
    }
}
