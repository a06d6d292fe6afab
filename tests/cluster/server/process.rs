//! A kube-apiserver with its etcd as a process of this machine, reached over TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rcgen::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};

use super::admin::{Admin, wait};
use crate::support::ports;
use crate::support::tls::Authority;

/// What the administrator shows.
const ADMIN: &str = "the-administrators-token";

/// Requests of service accounts, as they come and when they are answered.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [ResponseStarted]\nrules:\n\
    - {level: Metadata, userGroups: [\"system:serviceaccounts\"]}\n- {level: None}\n";

/// A running API server.
pub struct Process {
    /// Where it serves; the same after a restart.
    pub address: SocketAddr,
    /// PEM of the authority of its certificate.
    pub authority: String,
    pub admin: Admin,
    dir: PathBuf,
    etcd: u16,
    flags: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Process {
    /// Starts one with an empty store, with more `flags`, and waits until it is ready and knows our kinds.
    pub fn start(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kube-apiserver-")
            .tempdir()
            .unwrap()
            .keep();
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let authority = Authority::new();
        authority.issue("127.0.0.1").write(&dir);
        let signing = KeyPair::generate().unwrap();
        std::fs::write(dir.join("accounts.key"), signing.serialize_pem()).unwrap();
        std::fs::write(dir.join("accounts.pub"), signing.public_key_pem()).unwrap();
        let users = format!("{ADMIN},admin,admin,system:masters\n");
        std::fs::write(dir.join("users.csv"), users).unwrap();
        std::fs::write(dir.join("audit.yaml"), AUDIT).unwrap();
        let admin = Admin::new(format!("https://{address}"), &authority.certificate, ADMIN);
        let process = Process {
            address,
            authority: authority.certificate,
            admin,
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            dir,
            etcd: ports::free(),
            child: Mutex::new(None),
        };
        process.restart();
        process.install_all();
        process
    }

    /// Starts it (again), over what its etcd has, and waits until it is ready.
    pub fn restart(&self) {
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let child = Command::new(binary())
            .arg(format!("--dir={}", self.dir.display()))
            .arg(format!("--etcd-port={}", self.etcd))
            .arg("--")
            .args(self.arguments())
            .args(&self.flags)
            // Its end tells the process that the tests are over, however they end.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        *self.child() = Some(child.unwrap());
        wait("the API server to be ready", || {
            if let Some(status) = self.child().as_mut().unwrap().try_wait().unwrap() {
                panic!("kube-apiserver ended with {status}\n{}", self.log());
            }
            let answer = self.admin.try_send(Method::GET, "/readyz", "", None);
            answer.is_some_and(|(status, _)| status == 200)
        });
    }

    /// Kills it, etcd included.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            // Before its standard input ends: what it has stored stays.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The CRD of a resource is installed, or is not; returns when that can be seen.
    pub fn install(&self, resource: &str, installed: bool) {
        const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let crd = super::crd(resource);
        let version = &crd["spec"]["versions"][0]["name"];
        let (plural, group) = resource.split_once('.').unwrap();
        let served = format!("/apis/{group}/{}/{plural}", version.as_str().unwrap());
        let path = format!("{CRDS}/{resource}");
        if installed {
            self.admin.put(&path, &crd);
        } else if self.admin.get(&path).0 == 200 {
            self.admin.delete(&path);
        }
        wait(&format!("{resource} to be served: {installed}"), || {
            self.admin.get(&served).0 == if installed { 200 } else { 404 }
        });
    }

    /// Every CRD is installed.
    pub fn install_all(&self) {
        for resource in super::RESOURCES {
            self.install(resource, true);
        }
    }

    /// What service accounts have asked, oldest first: events of the audit log with `text`.
    pub fn audited(&self, text: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines().filter(|l| l.contains(text));
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Forgets all versions of before now in the store; the server's own cache still has recent ones until it restarts.
    pub fn compact(&self) {
        let (_, list) = self.admin.get("/api/v1/namespaces?limit=1");
        let revision = list["metadata"]["resourceVersion"].clone();
        let etcd = self.admin.at(&format!("http://127.0.0.1:{}", self.etcd));
        etcd.create(
            "/v3/kv/compaction",
            &json!({"revision": revision, "physical": true}),
        );
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn arguments(&self) -> Vec<String> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let port = self.address.port().to_string();
        [
            ("bind-address", "127.0.0.1".to_owned()),
            ("advertise-address", "127.0.0.1".to_owned()),
            ("secure-port", port),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("tls-cert-file", file("tls.crt")),
            ("tls-private-key-file", file("tls.key")),
            ("cert-dir", file("certificates")),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("service-account-issuer", "https://cluster.test".to_owned()),
            ("service-account-key-file", file("accounts.pub")),
            ("service-account-signing-key-file", file("accounts.key")),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", file("users.csv")),
            ("audit-policy-file", file("audit.yaml")),
            ("audit-log-path", file("audit.log")),
            // Nobody makes the accounts that pods run as here.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ]
        .map(|(name, value)| format!("--{name}={value}"))
        .into()
    }
}

/// The API server that `make test-cluster` builds.
fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/apiserver");
    assert!(
        path.is_file(),
        "there is no {}: make test-cluster builds it and runs these tests",
        path.display()
    );
    path
}
