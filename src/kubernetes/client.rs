//! Finds the cluster (runtime.md §2.2): `$KUBECONFIG`, else the pod's service account, else `~/.kube/config`.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Longest wait for a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// The client cannot be built.
    #[error("Kubernetes client: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// A client of the cluster. Nothing is sent yet.
///
/// # Errors
/// There is no cluster to be found, or what describes it is wrong.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = find().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Every caller has its own idea of when to ask again.
    config.default_retry = false;
    let built = Client::try_from(config);
    built.map_err(|e| ConnectError::Client(Box::new(e)))
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
