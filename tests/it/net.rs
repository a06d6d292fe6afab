//! TLS and the hand-over of connections to workers, over real sockets, with a gRPC client that skips
//! verification as Envoy does by default.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use endpoint_picker::admin::health::HealthService;
use endpoint_picker::net::accept;
use endpoint_picker::net::incoming::{HANDSHAKE_TIMEOUT, incoming};
use endpoint_picker::net::listen::{self, Reach};
use endpoint_picker::net::tls::{self, CurrentCertificate};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, ServerConfig, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const DEADLINE: Duration = Duration::from_secs(10);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// Trusts any certificate; signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer,
        _: &[CertificateDer],
        _: &ServerName,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn client_config(alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(ring::default_provider())))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn handshake(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = soon(TcpStream::connect(address)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(config).connect(name, tcp)).await
}

/// Workers on threads and runtimes of their own, each serving the health service of the ext_proc port.
fn serve(workers: usize, tls: Option<Arc<ServerConfig>>, limit: Duration) -> (SocketAddr, DropGuard) {
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

fn self_signed() -> (Arc<ServerConfig>, Arc<CurrentCertificate>) {
    let certificate = CurrentCertificate::new(tls::self_signed().unwrap());
    (tls::server_config(certificate.clone()).unwrap(), certificate)
}

/// Lets tonic's client speak over our TLS.
#[derive(Clone)]
struct Connector(SocketAddr);

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: http::Uri) -> Self::Future {
        let address = self.0;
        Box::pin(async move {
            let config = client_config(&["h2"], rustls::ALL_VERSIONS);
            handshake(address, config).await.map(TokioIo::new)
        })
    }
}

async fn check(channel: Channel) {
    let request = HealthCheckRequest { service: "".into() };
    let answer = soon(HealthClient::new(channel).check(request)).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
}

#[tokio::test]
async fn grpc_works_over_the_self_signed_certificate_on_every_worker() {
    let (tls, _) = self_signed();
    let (address, _stop) = serve(3, Some(tls), HANDSHAKE_TIMEOUT);
    for _ in 0..6 {
        let endpoint = Endpoint::from_static("http://localhost");
        check(
            soon(endpoint.connect_with_connector(Connector(address)))
                .await
                .unwrap(),
        )
        .await;
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
    let (tls, _) = self_signed();
    let (address, _stop) = serve(1, Some(tls), HANDSHAKE_TIMEOUT);
    for (versions, want) in [
        (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
        (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
    ] {
        let io = handshake(address, client_config(&["h2"], versions))
            .await
            .unwrap();
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(io.get_ref().1.protocol_version(), Some(want));
    }
    let http1 = client_config(&["http/1.1"], rustls::ALL_VERSIONS);
    handshake(address, http1).await.expect_err("only h2 is spoken");
}

#[tokio::test]
async fn a_replaced_certificate_is_the_one_of_the_next_handshake() {
    let (tls, certificate) = self_signed();
    let (address, _stop) = serve(1, Some(tls), HANDSHAKE_TIMEOUT);
    let config = client_config(&["h2"], rustls::ALL_VERSIONS);
    let shown = async || {
        let io = handshake(address, config.clone()).await.unwrap();
        io.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    assert_eq!(first, shown().await);
    let next = tls::self_signed().unwrap();
    let want = next.cert[0].to_vec();
    certificate.replace(next);
    assert_eq!(shown().await, want);
    assert_ne!(first, want);
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_closed_and_holds_up_nobody() {
    let (tls, _) = self_signed();
    let (address, _stop) = serve(1, Some(tls), Duration::from_millis(200));
    let mut silent = soon(TcpStream::connect(address)).await.unwrap();
    let mut garbage = soon(TcpStream::connect(address)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let endpoint = Endpoint::from_static("http://localhost");
    check(
        soon(endpoint.connect_with_connector(Connector(address)))
            .await
            .unwrap(),
    )
    .await;
    for closed in [&mut silent, &mut garbage] {
        let mut rest = Vec::new();
        let _ = soon(closed.read_to_end(&mut rest)).await;
    }
}

#[test]
fn the_self_signed_certificate_says_what_the_reference_says() {
    let certificate = tls::self_signed().unwrap();
    let der = &certificate.cert[0];
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
