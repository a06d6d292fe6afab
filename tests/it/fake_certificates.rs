//! Certificates of the kubeconfig that cannot work: the end comes at once, and the text says which one it is.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// A certificate of version 1 (`openssl x509 -req` without extensions makes such), and its key.
const VERSION_1: (&str, &str) = (
    "\
-----BEGIN CERTIFICATE-----\n\
MIIBGDCBvwIUV3c9R9DneRfK1Z1muUOATPYLBucwCgYIKoZIzj0EAwIwDjEMMAoG\n\
A1UEAwwDZXBwMCAXDTI2MTEyNTAxMDUxOVoYDzIxMjYxMTAxMDEwNTE5WjAOMQww\n\
CgYDVQQDDANlcHAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARO3DBFn/ZIFiO4\n\
mcUZOes1px/Fy3/ilRKyhI5lA1co4OYiE5s6LYUPvUUVt8GoVvv+tWauh2LcKOp1\n\
dUK7lnI6MAoGCCqGSM49BAMCA0gAMEUCIQD/0SZ4JBCQ8dyEHQ7raOYUfSyyp0oR\n\
6ljzicWq81OlPgIgDFWHY8+pabVdW1tNA3C7tvtmLBb/ADxeXZ/oMyRWNrw=\n\
-----END CERTIFICATE-----\n\
",
    "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgOz/3KZ5EQJ1vT80I\n\
jis3CqNwe3MihPWWQBFhFeHVmUehRANCAARO3DBFn/ZIFiO4mcUZOes1px/Fy3/i\n\
lRKyhI5lA1co4OYiE5s6LYUPvUUVt8GoVvv+tWauh2LcKOp1dUK7lnI6\n\
-----END PRIVATE KEY-----\n\
",
);

/// stderr of an `epp` that must end with exit code 1.
fn refused(folder: &Path, cluster: Value, user: Value) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_epp"))
        .arg("--pool-name=pool")
        .env("KUBECONFIG", &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

#[test]
fn an_authority_without_a_certificate_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.crt");
    for content in ["", "no certificate\n"] {
        std::fs::write(&authority, content).unwrap();
        let cluster = json!({"server": "https://127.0.0.1:1", "certificate-authority": authority});
        let text = refused(folder.path(), cluster, json!({"token": "t"}));
        assert!(
            text.contains("the certificate authority of the API server holds no certificate"),
            "{text}"
        );
    }
}

#[test]
fn a_client_certificate_of_version_1_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&certificate, VERSION_1.0).unwrap();
    std::fs::write(&key, VERSION_1.1).unwrap();
    let cluster = json!({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true});
    let user = json!({"client-certificate": certificate, "client-key": key});
    let text = refused(folder.path(), cluster, user);
    assert!(
        text.contains("X.509 certificate of a version other than 3"),
        "{text}"
    );
    assert!(!text.contains("invalid private key"), "{text}");
}
