//! What goes wrong around an exchange behind a real Envoy: the client leaves, the model server is gone, `epp` dies
//! while the response streams, `epp` drains.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::routing::{Setup, completion};
use crate::support::envoy::Kind;
use crate::support::ports;

const RUNNING: &str = "inference_objective_running_requests{model_name=\"m\"}";
/// Head of a streamed response and its first event.
const FIRST_EVENT: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";

/// A model server that takes every POST, writes `first` and then says nothing more.
async fn stalled(first: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(hold(socket, first));
        }
    });
    address
}

async fn hold(mut socket: TcpStream, first: &[u8]) {
    let mut head = [0; 4];
    if socket.read_exact(&mut head).await.is_ok() && &head == b"POST" {
        socket.write_all(first).await.unwrap();
    }
    let mut rest = [0; 4096];
    while socket.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    for kind in Kind::ALL {
        let silent = stalled(b"").await;
        let mut setup = Setup::over(kind, &[silent], 0).await;
        let request = tokio::spawn(setup.post(completion("p")).send());
        setup.epp.eventually(&format!("{RUNNING} 1")).await;
        request.abort();
        setup.epp.eventually(&format!("{RUNNING} 0")).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_stream_is_noticed() {
    for kind in Kind::ALL {
        let stalled = stalled(FIRST_EVENT).await;
        let mut setup = Setup::over(kind, &[stalled], 0).await;
        let response = setup.post(completion("p")).send().await.unwrap();
        let mut chunks = response.bytes_stream();
        assert_eq!(chunks.next().await.unwrap().unwrap(), "data: 1\n\n", "{kind:?}");
        setup.epp.eventually(&format!("{RUNNING} 1")).await;
        drop(chunks);
        setup.epp.eventually(&format!("{RUNNING} 0")).await;
    }
}

#[tokio::test]
async fn a_model_server_that_is_gone_is_an_error_and_nothing_stays_behind() {
    for kind in Kind::ALL {
        let gone = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let mut setup = Setup::over(kind, &[gone], 0).await;
        let response = setup.post(completion("p")).send().await.unwrap();
        assert_eq!(response.status(), 503, "{kind:?}");
        setup.epp.eventually(&format!("{RUNNING} 0")).await;
    }
}

#[tokio::test]
async fn epp_dying_while_a_response_streams_cuts_it_and_the_client_sees_that() {
    for kind in Kind::ALL {
        let stalled = stalled(FIRST_EVENT).await;
        let mut setup = Setup::over(kind, &[stalled], 0).await;
        let response = setup.post(completion("p")).send().await.unwrap();
        let mut chunks = response.bytes_stream();
        assert_eq!(chunks.next().await.unwrap().unwrap(), "data: 1\n\n", "{kind:?}");
        setup.epp.signal("KILL");
        setup.epp.ended().await;
        let end = tokio::time::timeout(Duration::from_secs(20), chunks.next()).await;
        let end = end.expect("the client is not left waiting");
        assert!(
            matches!(end, Some(Err(_))),
            "{kind:?}: a cut body must not look complete: {end:?}"
        );
        let next = setup.post(completion("p")).send().await.unwrap();
        assert_eq!(next.status(), 503, "{kind:?}: closed while epp is down");
    }
}
