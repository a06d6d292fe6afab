//! TLS and the hand-over of connections to workers, over real sockets, with a gRPC client that skips
//! verification as Envoy does by default.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use endpoint_picker::admin::health::HealthService;
use endpoint_picker::net::accept;
use endpoint_picker::net::incoming::{HANDSHAKE_TIMEOUT, incoming};
use endpoint_picker::net::listen::{self, Reach};
use endpoint_picker::net::tls::{ServerTls, TlsSource};
use rustls::ProtocolVersion;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::tls::{Offer, channel, client_config, handshake};

const DEADLINE: Duration = Duration::from_secs(10);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// Workers on threads and runtimes of their own, each serving the health service of the ext_proc port.
fn serve(workers: usize, tls: Option<Arc<ServerTls>>, limit: Duration) -> (SocketAddr, DropGuard) {
    let listener = listen::bind(Reach::Loopback, 0, "grpc-port").unwrap();
    let address = listener.local_addr().unwrap();
    let mut senders = Vec::new();
    for _ in 0..workers {
        let (sender, sockets) = mpsc::channel(accept::WORKER_BACKLOG);
        senders.push(sender);
        let tls = tls.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let service = HealthService::for_ext_proc_port();
            runtime.block_on(
                tonic::transport::Server::builder()
                    .serve_with_incoming(service, incoming(sockets, tls, limit)),
            )
        });
    }
    let stop = CancellationToken::new();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(accept::run(listener, senders, stop.clone()));
    (address, stop.drop_guard())
}

fn self_signed() -> Arc<ServerTls> {
    Arc::new(ServerTls::new(TlsSource::default().load().unwrap()))
}

async fn check(channel: Channel) {
    let request = HealthCheckRequest { service: "".into() };
    let answer = soon(HealthClient::new(channel).check(request)).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
}

#[tokio::test]
async fn grpc_works_over_the_self_signed_certificate_on_every_worker() {
    let tls = self_signed();
    let (address, _stop) = serve(3, Some(tls), HANDSHAKE_TIMEOUT);
    for _ in 0..6 {
        check(channel(address, &Offer::default()).await.unwrap()).await;
    }
}

#[tokio::test]
async fn grpc_works_without_tls() {
    let (address, _stop) = serve(2, None, HANDSHAKE_TIMEOUT);
    for _ in 0..4 {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        check(soon(endpoint.connect()).await.unwrap()).await;
    }
}

#[tokio::test]
async fn the_port_offers_h2_and_tls_1_2_or_newer() {
    let tls = self_signed();
    let (address, _stop) = serve(1, Some(tls), HANDSHAKE_TIMEOUT);
    for (versions, want) in [
        (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
        (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
    ] {
        let io = handshake(
            address,
            client_config(&Offer {
                versions,
                ..Offer::default()
            }),
        )
        .await
        .unwrap();
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(io.get_ref().1.protocol_version(), Some(want));
    }
    let http1 = client_config(&Offer {
        alpn: &["http/1.1"],
        ..Offer::default()
    });
    handshake(address, http1).await.expect_err("only h2 is spoken");
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_closed_and_holds_up_nobody() {
    let tls = self_signed();
    let (address, _stop) = serve(1, Some(tls), Duration::from_millis(200));
    let mut silent = soon(TcpStream::connect(address)).await.unwrap();
    let mut garbage = soon(TcpStream::connect(address)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    check(channel(address, &Offer::default()).await.unwrap()).await;
    for closed in [&mut silent, &mut garbage] {
        let mut rest = Vec::new();
        let _ = soon(closed.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn the_self_signed_certificate_says_what_the_reference_says() {
    let (address, _stop) = serve(1, Some(self_signed()), HANDSHAKE_TIMEOUT);
    let io = handshake(address, client_config(&Offer::default()))
        .await
        .unwrap();
    let der = &io.get_ref().1.peer_certificates().unwrap()[0];
    let has = |bytes: &[u8]| der.windows(bytes.len()).any(|w| w == bytes);
    assert!(has(b"Inference Ext"), "organization");
    assert!(has(b"localhost"), "subject alternative name");
    // Object identifiers in DER: extended key usage serverAuth; no common name.
    assert!(
        has(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]),
        "serverAuth"
    );
    assert!(!has(&[0x55, 0x04, 0x03]), "no common name");
    // Basic constraints (2.5.29.19) with an empty sequence: not an authority.
    let constraints = der.windows(3).position(|w| w == [0x55, 0x1d, 0x13]);
    let value = &der[constraints.expect("basic constraints")..][..12];
    assert!(
        value.windows(4).any(|w| w == [0x04, 0x02, 0x30, 0x00]),
        "{value:x?}"
    );
}
