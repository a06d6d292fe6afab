//! What the shipped Envoy lets through to a model server, and how long it waits for whom.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::routing::{Setup, completion};
use crate::support::envoy::Kind;
use crate::support::upstream::Upstream;

/// Far beyond what an answer should need, and less than a request may wait for its body.
const SOON: Duration = Duration::from_secs(30);

/// What comes back for bytes sent as they are, until the other side closes or a head is whole.
async fn raw(setup: &Setup, request: &str) -> String {
    let mut socket = TcpStream::connect(setup.envoy.traffic).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut some = [0; 1024];
            match socket.read(&mut some).await.unwrap() {
                0 => break,
                n => answer.extend_from_slice(&some[..n]),
            }
        }
    };
    tokio::time::timeout(SOON, read)
        .await
        .expect("an answer or an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_websocket_upgrade_is_refused_at_once() {
    for kind in Kind::ALL {
        let setup = Setup::start(kind).await;
        let answer = raw(
            &setup,
            "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{kind:?}: {answer}");
        assert_eq!(setup.upstreams.iter().map(Upstream::count).sum::<usize>(), 0);
    }
}

#[tokio::test]
async fn only_the_model_api_of_a_model_server_reaches_clients() {
    for kind in Kind::ALL {
        let setup = Setup::start(kind).await;
        for path in [
            "/metrics",
            "/",
            "/health",
            "/v1metrics",
            "/v2/models",
            "/v1/../metrics",
            "//metrics",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/v1/load_lora_adapter/",
            "/v1//load_lora_adapter",
            "/v1/LOAD_lora_adapter",
            "/v1/%6coad_lora_adapter",
            "/v1/./load_lora_adapter",
            "/v1/load_lora_adapter?x=1",
        ] {
            let answer = raw(&setup, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{kind:?} {path}: {answer}");
            let post = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}");
            let answer = raw(&setup, &post).await;
            assert!(
                answer.starts_with("HTTP/1.1 404"),
                "{kind:?} POST {path}: {answer}"
            );
        }
        assert_eq!(
            setup.upstreams.iter().map(Upstream::count).sum::<usize>(),
            0,
            "{kind:?}"
        );
        let served = setup.post(completion("p")).send().await.unwrap();
        assert_eq!(served.status(), 200, "{kind:?}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let setup = Setup::start(Kind::OriginalDst).await;
    let answer = raw(&setup, "GET /v1/models HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}
