//! Finds the cluster: `$KUBECONFIG`, else the pod's service account, else `~/.kube/config`.

use std::path::PathBuf;
use std::sync::Arc;

use kube::client::{ClientBuilder, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::contact::Contact;
use super::transport::Transport;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None of the three places says where a cluster is.
    #[error(
        "no Kubernetes cluster: $KUBECONFIG is not set, this is no pod with a service account, and there is no {0}"
    )]
    NoCluster(String),
    /// A kubeconfig is wrong.
    #[error("cannot use the kubeconfig {0}: {1}")]
    Kubeconfig(String, #[source] Box<KubeconfigError>),
    /// The service account's files are wrong or missing.
    #[error("this is a pod, but its service account cannot be used: {0}")]
    ServiceAccount(#[source] Box<InClusterError>),
    /// The authority that certifies the API server is given, and holds no certificate.
    #[error(
        "the certificate authority of the API server holds no certificate: {0} must hold PEM blocks that begin with \
         -----BEGIN CERTIFICATE-----"
    )]
    NoAuthority(&'static str),
    /// The client certificate is of a version that TLS does not take.
    #[error(
        "the client certificate of the kubeconfig (client-certificate, client-certificate-data) is an X.509 certificate \
         of a version other than 3, which TLS libraries refuse: have it issued anew as version 3"
    )]
    CertificateVersion,
    /// The client cannot be built.
    #[error("Kubernetes client: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// A client of the cluster, and when its server last answered. Nothing is sent yet.
///
/// # Errors
/// There is no cluster to be found, or what describes it is wrong.
pub async fn connect() -> Result<(Client, Arc<Contact>), ConnectError> {
    let config = find().await?;
    check_authority(&config)?;
    let contact = Arc::new(Contact::default());
    let client = client(config, contact.clone()).map_err(|e| {
        if is_certificate_version(&e) {
            ConnectError::CertificateVersion
        } else {
            ConnectError::Client(Box::new(e))
        }
    })?;
    Ok((client, contact))
}

/// A client that says who it is, and whose calls all have a deadline. Nothing is asked a second time by itself: every
/// caller has its own idea of when.
fn client(config: Config, contact: Arc<Contact>) -> Result<Client, kube::Error> {
    if let Some(proxy) = &config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported {
            proxy_url: Box::new(proxy.clone()),
        });
    }
    let (base, headers, authorization) = (
        config.base_uri_layer(),
        config.extra_headers_layer()?,
        config.auth_layer()?,
    );
    let transport = Transport::new(&config, contact)?;
    let builder = ClientBuilder::new(transport, config.default_namespace).with_layer(&headers);
    Ok(match authorization {
        Some(authorization) => builder.with_layer(&authorization).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}

/// An authority without certificates trusts nobody: every connection would fail, for ever.
fn check_authority(config: &Config) -> Result<(), ConnectError> {
    let empty = config.root_cert.as_ref().is_some_and(Vec::is_empty);
    let place = match config.root_cert_file {
        Some(_) => "ca.crt of the service account",
        None => "certificate-authority of the kubeconfig (or certificate-authority-data)",
    };
    if empty {
        return Err(ConnectError::NoAuthority(place));
    }
    Ok(())
}

/// Does TLS refuse a certificate for its version? The library reports it as an invalid private key.
fn is_certificate_version(error: &kube::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if inner.to_string().contains("UnsupportedCertVersion") {
            return true;
        }
        cause = inner.source();
    }
    false
}

async fn find() -> Result<Config, ConnectError> {
    let named = std::env::var("KUBECONFIG").unwrap_or_default();
    if !named.is_empty() {
        let wrong = |e| ConnectError::Kubeconfig(format!("{named} ($KUBECONFIG)"), Box::new(e));
        let read = Kubeconfig::from_env().map_err(wrong)?.unwrap_or_default();
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        return config.map_err(wrong);
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        let config = Config::incluster_env();
        return config.map_err(|e| ConnectError::ServiceAccount(Box::new(e)));
    }
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("~"));
    let path = home.join(".kube/config");
    if !path.exists() {
        return Err(ConnectError::NoCluster(path.display().to_string()));
    }
    let wrong = |e| ConnectError::Kubeconfig(path.display().to_string(), Box::new(e));
    let read = Kubeconfig::read_from(&path).map_err(wrong)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    config.map_err(wrong)
}
