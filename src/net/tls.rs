//! TLS of the ext_proc port: which versions and ciphers are offered, with which certificate, and whether clients must
//! show one. Called by `app` while it starts; [`super::tls_reload`] follows the files.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::certificate;

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of `--cert-path` cannot be read.
    #[error("cannot read {}: {source}; --cert-path must name a folder that holds tls.crt and tls.key, --client-ca-file a file", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of `--cert-path` holds something else.
    #[error("{}: {what}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        what: String,
    },
    /// Certificate and key are each readable but do not belong together, or cannot sign.
    #[error("the certificate and key in {} cannot be used together: {source}", .folder.display())]
    Pair {
        /// The folder.
        folder: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The self-signed certificate could not be made.
    #[error(
        "cannot make a self-signed certificate: {0}; name a folder with tls.crt and tls.key in --cert-path"
    )]
    SelfSigned(String),
    /// The authorities of client certificates cannot be used.
    #[error("{}: client certificates cannot be verified with it: {source}", .path.display())]
    Clients {
        /// The file.
        path: PathBuf,
        /// What the TLS library said.
        source: rustls::server::VerifierBuilderError,
    },
    /// The TLS library refused the settings.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// Versions and ciphers that are offered.
#[derive(Clone, Debug)]
pub struct Policy {
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Vec<SupportedCipherSuite>,
}

impl Default for Policy {
    /// TLS 1.2 or newer, every cipher of the library: all of them have forward secrecy and authenticated
    /// encryption.
    fn default() -> Self {
        Policy {
            versions: vec![&version::TLS12, &version::TLS13],
            suites: ring::ALL_CIPHER_SUITES.to_vec(),
        }
    }
}

/// What a cipher suite is called (IANA).
fn name(suite: SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name,
    }
}

impl Policy {
    /// Reads `--tls-min-version` (`1.2`, `1.3`, `VersionTLS12`, `VersionTLS13`) and `--tls-cipher-suites` (IANA names,
    /// comma-separated; empty: all).
    ///
    /// # Errors
    /// What is unknown, or that nothing is left to offer.
    pub fn parse(min_version: &str, suites: &str) -> Result<Self, String> {
        let mut policy = Policy::default();
        match min_version {
            "1.2" | "VersionTLS12" => {}
            "1.3" | "VersionTLS13" => policy.versions = vec![&version::TLS13],
            other => {
                return Err(format!(
                    "unexpected {other:?} value for \"tls-min-version\" flag: use 1.2 or 1.3"
                ));
            }
        }
        let known = policy.suites.clone();
        let wanted: Vec<&str> = suites
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .collect();
        if !wanted.is_empty() {
            policy.suites.clear();
        }
        for suite in wanted {
            let Some(found) = known.iter().find(|k| name(**k) == suite) else {
                let names: Vec<String> = known.iter().map(|k| name(*k)).collect();
                return Err(format!(
                    "unknown cipher suite {suite:?} in \"tls-cipher-suites\" flag; known are {}",
                    names.join(", ")
                ));
            };
            policy.suites.push(*found);
        }
        let Policy { versions, suites } = &mut policy;
        suites.retain(|s| versions.contains(&s.version()));
        // A version without a suite would be offered in vain.
        versions.retain(|v| suites.iter().any(|s| s.version() == *v));
        if suites.is_empty() {
            let text = "flag \"tls-cipher-suites\" leaves no cipher suite for TLS 1.3: name one of TLS 1.3, or allow \
                        --tls-min-version=1.2";
            return Err(text.into());
        }
        Ok(policy)
    }
}

/// Where the parts of the set-up come from.
#[derive(Clone, Debug, Default)]
pub struct TlsSource {
    /// Folder with `tls.crt` and `tls.key`; none: self-signed.
    pub folder: Option<PathBuf>,
    /// Authorities of client certificates, PEM; none: clients need not show one.
    pub client_ca: Option<PathBuf>,
    /// Versions and ciphers.
    pub policy: Policy,
}

impl TlsSource {
    /// Reads the files and sets up TLS.
    ///
    /// # Errors
    /// A file is missing or wrong, or the TLS library refuses the settings.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let key = match &self.folder {
            Some(folder) => certificate::load(folder)?,
            None => certificate::self_signed()?,
        };
        self.serve_with(key)
    }

    fn serve_with(&self, key: CertifiedKey) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: self.policy.suites.clone(),
            ..ring::default_provider()
        });
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.policy.versions)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(certificate::authorities(path)?);
                let clients = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(clients.map_err(|source| TlsError::Clients {
                    path: path.clone(),
                    source,
                })?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// The files, in the order they are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let pair = self
            .folder
            .iter()
            .flat_map(|f| [f.join("tls.crt"), f.join("tls.key")]);
        pair.chain(self.client_ca.clone()).collect()
    }
}

/// The set-up new handshakes get; replacing it leaves open connections alone. With it go the tickets of earlier
/// sessions: whoever comes back is checked against the new files.
#[derive(Debug)]
pub struct ServerTls(ArcSwap<ServerConfig>);

impl ServerTls {
    /// Starts with this one.
    pub fn new(first: Arc<ServerConfig>) -> Self {
        ServerTls(ArcSwap::new(first))
    }

    /// The set-up for a handshake that begins now.
    pub fn load(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }

    /// From now on, this one.
    pub fn replace(&self, next: Arc<ServerConfig>) {
        self.0.store(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_suites_are_read_and_narrow_each_other() {
        let offered = |min: &str, suites: &str| {
            let policy = Policy::parse(min, suites)?;
            let names: Vec<String> = policy.suites.iter().map(|s| name(*s)).collect();
            Ok::<_, String>((policy.versions.len(), names))
        };
        assert_eq!(offered("1.2", "").unwrap().0, 2);
        assert_eq!(offered("VersionTLS12", "").unwrap().1.len(), 9);
        let (versions, names) = offered("1.3", "").unwrap();
        assert_eq!((versions, names.len()), (1, 3));
        let one = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(offered("1.2", one).unwrap(), (1, vec![one.into()]));
        let both = offered("1.2", &format!(" {one}, TLS_AES_128_GCM_SHA256 ,")).unwrap();
        assert_eq!((both.0, both.1.len()), (2, 2));
        for (min, suites, why) in [
            ("1.1", "", "use 1.2 or 1.3"),
            (
                "1.2",
                "TLS_RSA_WITH_RC4_128_SHA",
                "known are TLS_AES_256_GCM_SHA384",
            ),
            ("1.3", one, "leaves no cipher suite"),
        ] {
            let error = offered(min, suites).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
