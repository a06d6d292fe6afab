//! TLS of `inference-sim`: a certificate and key from two files, or made at start (simulator.md §15). Called by `run`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::base::regular_file;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest certificate or key file read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Life of a certificate made here: ten years of 365 days.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// `--ssl-certfile` and `--ssl-keyfile`.
    Files(PathBuf, PathBuf),
    /// `--self-signed-certs`.
    SelfSigned,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("--{flag} {}: {what}", .path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// None could be made.
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// Certificate and key do not belong together, or cannot be used.
    #[error("the certificate and key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// TLS 1.2 or newer; HTTP/2 and HTTP/1.1.
///
/// # Errors
/// There is no certificate to serve with.
pub fn server_config(certificate: &Certificate) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = match certificate {
        Certificate::Files(certificate, key) => from_files(certificate, key)?,
        Certificate::SelfSigned => self_signed()?,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn from_files(certificate: &Path, key: &Path) -> Result<Pair, TlsError> {
    let pem = read("ssl-certfile", certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| file("ssl-certfile", certificate, format!("not readable as PEM: {e}")))?;
    if chain.is_empty() {
        let what = "holds no certificate; it must start with -----BEGIN CERTIFICATE-----";
        return Err(file("ssl-certfile", certificate, what.to_owned()));
    }
    let pem = read("ssl-keyfile", key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| {
        file(
            "ssl-keyfile",
            key,
            format!("holds no private key in PEM (PKCS#8, PKCS#1 or SEC1): {e}"),
        )
    })?;
    Ok((chain, key))
}

fn file(flag: &'static str, path: &Path, what: String) -> TlsError {
    TlsError::File {
        flag,
        path: path.to_owned(),
        what,
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    regular_file::read(path, MAX_PEM_BYTES).map_err(|e| file(flag, path, format!("cannot be read: {e}")))
}

/// A certificate for this host under its loopback names. Nobody can have been told to trust it.
fn self_signed() -> Result<Pair, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Inference Simulator");
    params.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + LIFETIME).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((
        vec![certificate.der().clone()],
        PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_when_none_is_given() {
        let config = server_config(&Certificate::SelfSigned).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "no pem").unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        std::fs::write(path("other"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let load = |crt: &str, key: &str| server_config(&Certificate::Files(path(crt), path(key)));
        load("crt", "key").unwrap();
        for (crt, key, text) in [
            ("none", "key", "--ssl-certfile "),
            ("text", "key", "holds no certificate"),
            ("crt", "none", "--ssl-keyfile "),
            ("crt", "text", "holds no private key"),
            ("crt", "other", "cannot be used together"),
        ] {
            let error = load(crt, key).unwrap_err().to_string();
            assert!(error.contains(text), "{crt} {key}: {error}");
        }
    }
}
