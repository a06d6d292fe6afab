//! The plain ext_proc server of the benches behind both configurations: the configurations serve any picker, and the
//! floor that `epp` is measured against carries the same traffic.

use std::net::SocketAddr;

use crate::hardening::attacks;
use crate::routing::completion;
use crate::support::envoy::{Envoy, Kind, Transport};
use crate::support::ports;
use crate::support::upstream::Upstream;

#[path = "../../benches/plain/mod.rs"]
mod server;

/// One model server, the plain server that names it for every request, Envoy.
async fn start(kind: Kind) -> (Upstream, Envoy, reqwest::Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let upstream = Upstream::start(1, ports::free(), 0).await;
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let destination = upstream.address.to_string();
    // Serves until the test binary ends.
    std::thread::spawn(move || server::serve(address, &destination));
    let envoy = Envoy::launch(kind, Transport::Plaintext, address, &[upstream.address]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    (upstream, envoy.unwrap_or_else(|e| panic!("{e}")), client)
}

/// `epp` removes these too; behind a picker that removes nothing, Envoy must.
#[tokio::test]
async fn envoy_itself_removes_what_no_client_may_say() {
    for kind in Kind::ALL {
        let (upstream, envoy, client) = start(kind).await;
        let mut request = client.get(format!("http://{}/v1/models", envoy.traffic));
        let attacks = attacks("127.0.0.9:9");
        for (name, value) in &attacks {
            request = request.header(*name, value);
        }
        assert_eq!(request.send().await.unwrap().status(), 200, "{kind:?}");
        let seen = upstream.seen(|s| s.headers[0].clone());
        for (name, value) in attacks.iter().filter(|(name, _)| *name != "connection") {
            let leaked = seen.get_all(*name).iter().any(|v| v == value.as_str());
            assert!(!leaked, "{kind:?}: {name} of the client reached the model server");
        }
    }
}

#[tokio::test]
async fn every_shape_of_traffic_passes_through_the_plain_server() {
    for kind in Kind::ALL {
        let (upstream, envoy, client) = start(kind).await;
        let url = |path: &str| format!("http://{}{path}", envoy.traffic);
        let get = client.get(url("/v1/models")).send().await.unwrap();
        assert_eq!(get.status(), 200, "{kind:?}");
        for size in [10, 200_000] {
            let body = completion(&"x".repeat(size));
            let post = client.post(url("/v1/completions")).body(body.clone());
            assert_eq!(post.send().await.unwrap().status(), 200, "{kind:?} {size}");
            upstream.seen(|s| assert_eq!(s.bodies.last().unwrap().len(), body.len(), "{kind:?}"));
        }
        let events = client.post(url("/v1/chat/completions")).body(completion("p"));
        let text = events.send().await.unwrap().text().await.unwrap();
        assert_eq!(text.matches("data: ").count(), 101, "{kind:?}");
        assert_eq!(upstream.count(), 4);
    }
}
