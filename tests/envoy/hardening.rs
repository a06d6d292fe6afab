//! A client cannot choose the destination: not while `epp` is up, not while it is down, not when it dies in the
//! middle.

use std::net::SocketAddr;
use std::time::Duration;

use crate::routing::Setup;
use crate::support::envoy::{Envoy, Kind, Transport};
use crate::support::ports;
use crate::support::upstream::Upstream;

const BODY: &str = r#"{"model":"m","prompt":"p"}"#;

/// Every way a client could name a destination.
pub fn attacks(victim: &str) -> Vec<(&'static str, String)> {
    vec![
        ("x-gateway-destination-endpoint", victim.to_owned()),
        ("X-Gateway-Destination-Endpoint", victim.to_owned()),
        ("x-gateway-destination-endpoint-subset", victim.to_owned()),
        ("x-gateway-destination-endpoint-served", victim.to_owned()),
        ("x-gateway-destination-endpoint", format!("{victim},{victim}")),
        ("x-prefiller-host-port", victim.to_owned()),
        ("x-data-parallel-host-port", victim.to_owned()),
        ("x-encoder-hosts-ports", victim.to_owned()),
        ("x-kv-cache-source-host-port", victim.to_owned()),
        // Envoy's own name for the destination of an ORIGINAL_DST cluster.
        ("x-envoy-original-dst-host", victim.to_owned()),
        ("connection", "x-gateway-destination-endpoint".to_owned()),
    ]
}

#[tokio::test]
async fn a_client_cannot_choose_the_destination() {
    for kind in Kind::ALL {
        let mut setup = Setup::start(kind).await;
        let victim = Upstream::start(9, ports::free(), 0).await;
        let address = victim.address.to_string();
        for (name, value) in attacks(&address) {
            let get = setup
                .client
                .get(setup.url("/v1/models"))
                .header(name, &value)
                .send()
                .await
                .unwrap();
            assert_eq!(get.status(), 200, "{kind:?} {name}");
            let post = setup
                .client
                .post(setup.url("/v1/completions"))
                .header(name, &value)
                .body(BODY);
            assert_eq!(post.send().await.unwrap().status(), 200, "{kind:?} {name}");
        }
        assert_eq!(
            victim.count(),
            0,
            "{kind:?}: the victim was reached while epp was up"
        );
        for upstream in &setup.upstreams {
            upstream.seen(|s| assert!(s.headers.iter().all(|h| !h.contains_key("x-prefiller-host-port"))));
        }

        setup.epp.signal("KILL");
        setup.epp.ended().await;
        for (name, value) in attacks(&address) {
            let get = setup
                .client
                .get(setup.url("/v1/models"))
                .header(name, &value)
                .send()
                .await
                .unwrap();
            assert_eq!(get.status(), 503, "{kind:?} {name}: closed while epp is down");
            let post = setup
                .client
                .post(setup.url("/v1/completions"))
                .header(name, &value)
                .body(BODY);
            assert_eq!(post.send().await.unwrap().status(), 503, "{kind:?} {name}");
        }
        assert_eq!(
            victim.count(),
            0,
            "{kind:?}: the victim was reached while epp was down"
        );
    }
}

/// Returns once Envoy has opened a stream to `epp`.
async fn epp_is_asked(setup: &Setup) {
    let url = format!(
        "http://{}/stats?filter=ext_proc.streams_started",
        setup.envoy.admin
    );
    loop {
        let stats = setup.client.get(&url).send().await.unwrap();
        if stats.text().await.unwrap().contains("streams_started: 1") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn epp_dying_in_the_middle_of_a_request_sends_it_nowhere_else() {
    for kind in Kind::ALL {
        let mut setup = Setup::start(kind).await;
        let victim = Upstream::start(9, ports::free(), 0).await;
        // The head and half of the body, so that epp waits for the rest when it dies.
        let mut socket = tokio::net::TcpStream::connect(setup.envoy.traffic).await.unwrap();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nx-gateway-destination-endpoint: {}\r\n\r\n{}",
            BODY.len(),
            victim.address,
            &BODY[..10]
        );
        tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes())
            .await
            .unwrap();
        let asked = epp_is_asked(&setup);
        tokio::time::timeout(Duration::from_secs(20), asked)
            .await
            .expect("Envoy asks epp");
        setup.epp.signal("KILL");
        setup.epp.ended().await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, &BODY.as_bytes()[10..]).await;
        let mut answer = vec![0; 64];
        let n = tokio::io::AsyncReadExt::read(&mut socket, &mut answer)
            .await
            .unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 503"), "{kind:?}: {answer}");
        assert_eq!(victim.count(), 0);
        assert_eq!(setup.upstreams.iter().map(Upstream::count).sum::<usize>(), 0);
    }
}

/// Failing open is a choice some operators make. It must not become a way to choose the destination.
#[tokio::test]
async fn not_even_failing_open_lets_a_client_choose() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for kind in Kind::ALL {
        let known = Upstream::start(1, ports::free(), 0).await;
        let victim = Upstream::start(9, ports::free(), 0).await;
        let nobody = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let open = |text: String| {
            assert!(text.contains("failure_mode_allow: false"));
            text.replace("failure_mode_allow: false", "failure_mode_allow: true")
        };
        let envoy = Envoy::launch_edited(kind, Transport::Tls, nobody, &[known.address], open).await;
        let envoy = envoy.unwrap_or_else(|e| panic!("{e}"));
        let expected = match kind {
            Kind::OriginalDst => 503,
            Kind::OverrideHost => 200,
        };
        for (name, value) in attacks(&victim.address.to_string()) {
            let get = client
                .get(format!("http://{}/v1/models", envoy.traffic))
                .header(name, value);
            assert_eq!(get.send().await.unwrap().status(), expected, "{kind:?} {name}");
        }
        assert_eq!(victim.count(), 0, "{kind:?}");
    }
}
