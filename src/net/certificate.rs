//! Certificates from files, or made in memory (runtime.md §3.3). Called by [`super::tls`].

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::tls::TlsError;
use crate::base::regular_file;

/// Largest certificate or key file read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Life of a certificate made here: ten years of 365 days.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Reads `tls.crt` and `tls.key` of a folder.
///
/// # Errors
/// When a file is missing, too large, not PEM, or the two do not belong together.
pub fn load(folder: &Path) -> Result<CertifiedKey, TlsError> {
    let certificate_path = folder.join("tls.crt");
    let key_path = folder.join("tls.key");
    let content = |path: &Path, what: String| TlsError::Content {
        path: path.into(),
        what,
    };
    let chain = certificates(&certificate_path)?;
    let pem = read(&key_path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| {
        content(
            &key_path,
            format!("holds no private key in PEM (PKCS#8, PKCS#1 or SEC1): {e}"),
        )
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| TlsError::Pair {
        folder: folder.into(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |what: String| TlsError::Content {
        path: path.into(),
        what,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| content(format!("not readable as PEM: {e}")))?;
    if chain.is_empty() {
        let what = "holds no certificate; it must start with -----BEGIN CERTIFICATE-----";
        return Err(content(what.into()));
    }
    Ok(chain)
}

/// Reads the authorities of a PEM file.
///
/// # Errors
/// The file is missing, too large, not PEM, or holds something that is no certificate.
pub fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| TlsError::Content {
            path: path.into(),
            what: format!("holds a certificate that cannot stand for an authority: {e}"),
        })?;
    }
    Ok(roots)
}

/// The bytes of a certificate or key file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    regular_file::read(path, MAX_PEM_BYTES).map_err(|source| match source.kind() {
        ErrorKind::FileTooLarge | ErrorKind::InvalidInput => TlsError::Content {
            path: path.into(),
            what: format!("{source}, so not a certificate or key"),
        },
        _ => TlsError::Read {
            path: path.into(),
            source,
        },
    })
}

/// Makes a certificate in memory. Nobody can have been told to trust it, so clients must skip verification;
/// `localhost` is in it for those who look at names only.
///
/// # Errors
/// When no key can be made.
pub fn self_signed() -> Result<CertifiedKey, TlsError> {
    let (certificate, key) = make_self_signed().map_err(|e| TlsError::SelfSigned(e.to_string()))?;
    CertifiedKey::from_der(vec![certificate], key, &ring::default_provider())
        .map_err(|e| TlsError::SelfSigned(e.to_string()))
}

fn make_self_signed() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Inference Ext");
    params.subject_alt_names = vec![SanType::DnsName("localhost".try_into()?)];
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + LIFETIME).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((certificate.der().clone(), key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn pem_pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["epp.test".into()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_folder_with_a_pair_is_loaded() {
        let (certificate, key) = pem_pair();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tls.crt"), &certificate).unwrap();
        fs::write(folder.path().join("tls.key"), &key).unwrap();
        assert_eq!(load(folder.path()).unwrap().cert.len(), 1);
    }

    #[test]
    fn a_bad_folder_says_which_file_and_what_is_wrong() {
        let (certificate, key) = pem_pair();
        let (_, other_key) = pem_pair();
        let large = "x".repeat(MAX_PEM_BYTES as usize + 1);
        let cases: [(Option<&str>, Option<&str>, &str, &str); 7] = [
            (None, Some(&key), "tls.crt", "--cert-path must name a folder"),
            (
                Some(&certificate),
                None,
                "tls.key",
                "--cert-path must name a folder",
            ),
            (Some("hello"), Some(&key), "tls.crt", "holds no certificate"),
            (Some(&key), Some(&key), "tls.crt", "holds no certificate"),
            (
                Some(&certificate),
                Some(&certificate),
                "tls.key",
                "holds no private key",
            ),
            (Some(&large), Some(&key), "tls.crt", "larger than"),
            (
                Some(&certificate),
                Some(&other_key),
                "",
                "cannot be used together",
            ),
        ];
        for (crt, key, file, want) in cases {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in [("tls.crt", crt), ("tls.key", key)] {
                if let Some(text) = text {
                    fs::write(folder.path().join(name), text).unwrap();
                }
            }
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}\nwant {want}");
            assert!(error.contains(file), "{error}\nwant {file}");
        }
    }

    #[test]
    fn a_device_is_no_certificate() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("tls.crt")).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("tls.crt: it is a device, not a regular file"),
            "{error}"
        );
    }

    #[test]
    fn each_self_signed_certificate_is_another() {
        let (a, b) = (self_signed().unwrap(), self_signed().unwrap());
        assert_ne!(a.cert, b.cert);
    }
}
