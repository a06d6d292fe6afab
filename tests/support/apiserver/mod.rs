//! A Kubernetes API server for tests: list (in pages), watch with bookmarks, create, replace, merge patch, delete, the
//! status subresource, token and access reviews, over HTTP. It can be told to forget old versions, cut watches, refuse,
//! delay and go away.

mod http;
mod store;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::ports;
use store::Store;
pub use store::{Kind, LEASES, OBJECTIVES, PODS, POOLS, POOLS_EXPERIMENTAL, REWRITES};

/// An API server as `epp` reaches it.
pub trait Reached {
    /// Writes a kubeconfig that leads there.
    fn write_kubeconfig(&self, path: &Path);
    /// Where the objects of the test are.
    fn namespace(&self) -> &str;
}

/// What is installed, and so which rights `epp` has: a real API server grants nothing else, a fake one everything.
#[derive(Clone, Copy, Debug)]
pub enum Release {
    /// Two replicas that elect, with a pool of the stable group.
    Gateway,
    /// The same with a pool of the experimental group.
    Experimental,
    /// Two replicas that elect, with a selector.
    Standalone,
}

impl Reached for ApiServer {
    fn write_kubeconfig(&self, path: &Path) {
        let server = format!("http://{}", self.address);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {"token": "epp-token"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        });
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn namespace(&self) -> &str {
        "default"
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A running API server.
pub struct ApiServer {
    /// Where it listens; the same after a restart.
    pub address: SocketAddr,
    shared: Shared,
    /// A runtime of its own: dropping it cuts every connection, as a server that goes away does.
    serving: Option<Runtime>,
}

/// What handlers share.
#[derive(Clone)]
struct Shared {
    inner: Arc<Mutex<Inner>>,
    /// Grows with every object written.
    version: watch::Sender<u64>,
    /// Grows with every cut: watches opened before end.
    cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    store: Store,
    /// Plurals with group that exist; others are 404.
    kinds: HashSet<&'static str>,
    forbidden: HashSet<String>,
    delay: Duration,
    /// Answers left to fail, by plural with group: status, how many.
    failing: HashMap<String, (u16, usize)>,
    tokens: HashMap<String, String>,
    allowed: HashSet<(String, String, String)>,
    /// Requests left that are never answered, by plural with group.
    hanging: HashMap<String, usize>,
    /// Status of every answer, by method and plural with group.
    refusing: HashMap<(String, String), u16>,
    /// Who has connected so far, and whose connections carry nothing any more.
    peers: HashSet<SocketAddr>,
    silent: HashSet<SocketAddr>,
    /// `User-Agent` of every request so far.
    agents: HashSet<String>,
    /// Requests so far, by method and plural with group.
    requests: HashMap<(String, String), usize>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Notes a connection; true: it has gone silent.
    fn connected(&self, peer: SocketAddr) -> bool {
        let mut inner = self.lock();
        inner.peers.insert(peer);
        inner.silent.contains(&peer)
    }

    fn silent(&self, peer: SocketAddr) -> bool {
        self.lock().silent.contains(&peer)
    }

    fn told(&self) {
        let version = self.lock().store.version();
        self.version.send_replace(version);
    }
}

impl ApiServer {
    /// Starts one that knows every kind.
    pub fn start() -> Self {
        let shared = Shared {
            inner: Arc::default(),
            version: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
        };
        shared.lock().kinds.extend(store::ALL.iter().map(|k| k.resource));
        let mut server = ApiServer {
            address: ([127, 0, 0, 1], ports::free()).into(),
            shared,
            serving: None,
        };
        server.restart();
        server
    }

    /// Starts one for this release.
    pub fn start_with(_: Release) -> Self {
        ApiServer::start()
    }

    /// Starts one of which no other test sees anything, so that CRDs may come and go.
    pub fn alone(_: Release) -> Self {
        ApiServer::start()
    }

    /// Where the objects of the test are.
    pub fn namespace(&self) -> &str {
        "default"
    }

    /// Another namespace where `epp` has its rights.
    pub fn another_namespace(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Listens again after [`ApiServer::stop`], with the same objects.
    pub fn restart(&mut self) {
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let routes = http::routes(self.shared.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let service = routes.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, service).await.unwrap();
        });
        self.serving = Some(runtime);
    }

    /// Goes away: connections are cut, new ones refused.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.serving.take() {
            runtime.shutdown_background();
        }
    }

    /// Creates or replaces an object (its `metadata.name` says which) and tells watchers.
    pub fn apply(&self, kind: Kind, object: Value) {
        self.shared.lock().store.put(kind.resource, object);
        self.shared.told();
    }

    /// Applies many at once.
    pub fn apply_all(&self, kind: Kind, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            self.shared.lock().store.put(kind.resource, object);
        }
        self.shared.told();
    }

    /// Deletes an object.
    pub fn delete(&self, kind: Kind, name: &str) {
        let gone = self.shared.lock().store.remove(kind.resource, "default", name);
        assert!(gone.is_some(), "there is no {} {name}", kind.resource);
        self.shared.told();
    }

    /// An object as it is.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        self.shared.lock().store.get(kind.resource, "default", name)
    }

    /// Names of the objects of a kind.
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let (objects, _) = self.shared.lock().store.list(kind.resource, "default", &|_| true);
        let name = |o: Value| o["metadata"]["name"].as_str().unwrap().to_owned();
        objects.into_iter().map(name).collect()
    }

    /// The CRD of `kind` is not installed, or is now.
    pub fn install(&self, kind: Kind, installed: bool) {
        let mut inner = self.shared.lock();
        if installed {
            inner.kinds.insert(kind.resource);
        } else {
            inner.kinds.remove(kind.resource);
        }
    }

    /// Refuses everything about a resource (`pods`, `tokenreviews.authentication.k8s.io`) with 403, or no longer.
    pub fn forbid(&self, resource: &str, forbidden: bool) {
        let mut inner = self.shared.lock();
        if forbidden {
            inner.forbidden.insert(resource.to_owned());
        } else {
            inner.forbidden.remove(resource);
        }
    }

    /// Answers the next `times` requests about a resource with `status`.
    pub fn fail(&self, resource: &str, status: u16, times: usize) {
        self.shared
            .lock()
            .failing
            .insert(resource.to_owned(), (status, times));
    }

    /// Answers every request with this method about a resource with `status`.
    pub fn refuse(&self, method: &str, resource: &str, status: u16) {
        let key = (method.to_owned(), resource.to_owned());
        self.shared.lock().refusing.insert(key, status);
    }

    /// Never answers the next `times` requests about a resource.
    pub fn hang(&self, resource: &str, times: usize) {
        self.shared.lock().hanging.insert(resource.to_owned(), times);
    }

    /// Open connections carry nothing from now on and stay open; new ones work.
    pub fn silence(&self) {
        let mut inner = self.shared.lock();
        inner.silent = inner.peers.clone();
    }

    /// `User-Agent` of all requests so far.
    pub fn agents(&self) -> HashSet<String> {
        self.shared.lock().agents.clone()
    }

    /// Waits this long before every answer.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Ends every open watch.
    pub fn cut_watches(&self) {
        self.shared.cuts.send_modify(|n| *n += 1);
    }

    /// Forgets what happened before now: watches that want it get `410 Gone`.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// A token of a user.
    pub fn token(&self, user: &str) -> String {
        let token = format!("token-of-{user}");
        self.shared.lock().tokens.insert(token.clone(), user.into());
        token
    }

    /// Lets a user do `verb` on a path.
    pub fn allow(&self, user: &str, verb: &str, path: &str) {
        let row = (user.to_owned(), verb.to_owned(), path.to_owned());
        self.shared.lock().allowed.insert(row);
    }

    /// Requests so far with this method about this resource.
    pub fn requests(&self, method: &str, resource: &str) -> usize {
        let key = (method.to_owned(), resource.to_owned());
        self.shared.lock().requests.get(&key).copied().unwrap_or(0)
    }
}

/// A ready pod with the label `app: model`.
pub fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "model"}},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The same pod, not ready.
pub fn unready_pod(name: &str, ip: &str) -> Value {
    let mut pod = pod(name, ip);
    pod["status"]["conditions"][0]["status"] = json!("False");
    pod
}

/// A pool called `pool` of pods with the label `app: model`.
pub fn pool(ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports.iter().map(|p| json!({"number": p})).collect();
    json!({
        "metadata": {"name": "pool"},
        "spec": {"selector": {"matchLabels": {"app": "model"}}, "targetPorts": ports,
                 "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}},
    })
}
