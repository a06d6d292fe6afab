//! The bounds that all streams share, behind a real Envoy: what clients see of them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::routing::completion;
use crate::support::envoy::{Envoy, Kind};
use crate::support::epp::{Epp, Options};
use crate::support::ports;
use crate::support::upstream::Upstream;

const MB: usize = 1_000_000;

struct Behind {
    _upstream: Upstream,
    epp: Epp,
    envoy: Envoy,
}

async fn start(kind: Kind, flag: &str) -> Behind {
    let upstream = Upstream::start(1, ports::free(), 0).await;
    let pool = [upstream.address];
    let options = Options::hermetic(&pool).flag("--secure-serving=true").flag(flag);
    let epp = Epp::start(&options, 1).await;
    let envoy = Envoy::start(kind, epp.grpc, &pool).await;
    Behind {
        _upstream: upstream,
        epp,
        envoy,
    }
}

/// Begins a request of `announced` bytes and sends `bytes` of them.
async fn upload(to: SocketAddr, announced: usize, bytes: usize) -> TcpStream {
    let mut socket = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {announced}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![b' '; bytes]).await.unwrap();
    socket
}

/// The head of the answer.
async fn answer(mut socket: TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(Duration::from_secs(20), socket.read_u8()).await;
        head.push(byte.expect("an answer within 20 s").unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_408() {
    for kind in Kind::ALL {
        let behind = start(kind, "--request-body-timeout=300ms").await;
        let head = answer(upload(behind.envoy.traffic, 100, 10).await).await;
        assert!(head.starts_with("HTTP/1.1 408"), "{kind:?}: {head}");
        assert!(
            head.contains("x-llm-d-request-dropped-reason: rejected-body-timeout"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn the_oldest_unfinished_upload_gives_way_and_short_requests_are_served() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for kind in Kind::ALL {
        let mut behind = start(kind, "--max-buffered-bytes=8388608").await;
        let traffic = behind.envoy.traffic;
        let mut last: Option<TcpStream> = None;
        for _ in 0..4 {
            let next = upload(traffic, 10 * MB, 5 * MB).await;
            if let Some(oldest) = last.replace(next) {
                let head = answer(oldest).await;
                assert!(head.starts_with("HTTP/1.1 503"), "{kind:?}: {head}");
                assert!(
                    head.contains("x-llm-d-request-dropped-reason: rejected-buffers-full"),
                    "{head}"
                );
            }
            let url = format!("http://{traffic}/v1/completions");
            let response = client.post(url).body(completion("p")).send().await.unwrap();
            assert_eq!(response.status(), 200, "{kind:?}");
        }
        drop(last);
        behind
            .epp
            .eventually("inference_extension_buffered_bytes 0")
            .await;
    }
}
