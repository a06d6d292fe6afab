//! A client cannot choose the destination: not while `epp` is up, not while it is down, not when it dies in the
//! middle.

use crate::routing::Setup;
use crate::support::envoy::Kind;
use crate::support::ports;
use crate::support::upstream::Upstream;

const BODY: &str = r#"{"model":"m","prompt":"p"}"#;

/// Every way a client could name a destination.
fn attacks(victim: &str) -> Vec<(&'static str, String)> {
    vec![
        ("x-gateway-destination-endpoint", victim.to_owned()),
        ("X-Gateway-Destination-Endpoint", victim.to_owned()),
        ("x-gateway-destination-endpoint-subset", victim.to_owned()),
        ("x-gateway-destination-endpoint-served", victim.to_owned()),
        ("x-prefiller-host-port", victim.to_owned()),
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
        let started = format!(
            "http://{}/stats?filter=ext_proc.streams_started",
            setup.envoy.admin
        );
        loop {
            let stats = setup
                .client
                .get(&started)
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            if stats.contains("streams_started: 1") {
                break;
            }
            tokio::task::yield_now().await;
        }
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
