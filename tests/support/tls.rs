//! TLS as a client sees it: certificates made for a test, and a client that trusts any server, as Envoy does by default.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

const DEADLINE: Duration = Duration::from_secs(10);

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

/// A certificate and its key.
pub struct Pair {
    /// PEM of the certificate.
    pub certificate: String,
    /// PEM of the key.
    pub key: String,
    /// The certificate as it goes over the wire.
    pub der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Pair {
    /// Writes `tls.crt` and `tls.key` into `folder`.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("tls.crt"), &self.certificate).unwrap();
        std::fs::write(folder.join("tls.key"), &self.key).unwrap();
    }
}

/// An authority of a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM of its certificate.
    pub certificate: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec!["authority.test".into()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority.test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// A certificate for `name`.
    pub fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }
}

/// What a client offers.
pub struct Offer<'a> {
    /// Protocols.
    pub alpn: &'a [&'a str],
    /// Versions.
    pub versions: &'a [&'static SupportedProtocolVersion],
    /// Its own certificate.
    pub identity: Option<&'a Pair>,
    /// Cipher suites by the library's names; empty: all.
    pub suites: &'a [rustls::CipherSuite],
}

impl Default for Offer<'_> {
    fn default() -> Self {
        Offer {
            alpn: &["h2"],
            versions: rustls::ALL_VERSIONS,
            identity: None,
            suites: &[],
        }
    }
}

/// The settings of a client that offers this.
pub fn client_config(offer: &Offer<'_>) -> Arc<ClientConfig> {
    let mut provider = ring::default_provider();
    if !offer.suites.is_empty() {
        provider
            .cipher_suites
            .retain(|s| offer.suites.contains(&s.suite()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(offer.versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(ring::default_provider())));
    let mut config = match offer.identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::Pkcs8(pair.key_der.clone().into());
            builder
                .with_client_auth_cert(vec![pair.der.clone().into()], key)
                .unwrap()
        }
    };
    config.alpn_protocols = offer.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects and shakes hands.
pub async fn handshake(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let shaken = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(config).connect(name, tcp).await
    };
    tokio::time::timeout(DEADLINE, shaken)
        .await
        .expect("a handshake in time")
}

/// The certificate a server shows.
pub async fn shown(address: SocketAddr) -> Vec<u8> {
    let io = handshake(address, client_config(&Offer::default()))
        .await
        .unwrap();
    io.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Lets tonic's client speak over our TLS.
#[derive(Clone)]
struct Connector(SocketAddr, Arc<ClientConfig>);

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Connector(address, config) = self.clone();
        Box::pin(async move { handshake(address, config).await.map(TokioIo::new) })
    }
}

/// A gRPC connection over TLS.
///
/// # Errors
/// The handshake or the first bytes after it failed.
pub async fn channel(address: SocketAddr, offer: &Offer<'_>) -> Result<Channel, tonic::transport::Error> {
    let connector = Connector(address, client_config(offer));
    let endpoint = Endpoint::from_static("http://localhost");
    let connected = endpoint.connect_with_connector(connector);
    tokio::time::timeout(DEADLINE, connected)
        .await
        .expect("a connection in time")
}
