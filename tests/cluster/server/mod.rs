//! A real kube-apiserver with the methods of the fake one that the rows share, and what only a real one has.
//!
//! Rows share one process. Each has a namespace of its own, in which the chart is installed, a gate in front of the
//! server that is its network, and a token of the chart's service account, whose rights are all that its `epp` has.

mod admin;
mod process;
mod release;
mod rights;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

pub use admin::wait;
pub use process::Process;
pub use release::{documents, helm, path, place};
use rights::Rights;

use crate::support::apiserver::{
    Kind, OBJECTIVES, PODS, POOLS, POOLS_EXPERIMENTAL, REWRITES, Reached, Release,
};
use crate::support::gate::Gate;

/// Resources we define.
pub const RESOURCES: [&str; 4] = [
    POOLS.resource,
    POOLS_EXPERIMENTAL.resource,
    OBJECTIVES.resource,
    REWRITES.resource,
];

/// The process that rows share.
static SHARED: LazyLock<Arc<Process>> = LazyLock::new(|| Arc::new(Process::start(&[])));
/// The process of rows that change what all can see, one at a time.
static ALONE: LazyLock<(Arc<Process>, Mutex<()>)> =
    LazyLock::new(|| (Arc::new(Process::start(&[])), Mutex::new(())));

/// Numbers the namespaces.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Our CRD of a resource.
fn crd(resource: &str) -> Value {
    let (plural, group) = resource.split_once('.').unwrap();
    let text = std::fs::read_to_string(path(&format!("deploy/crds/{group}_{plural}.yaml"))).unwrap();
    documents(&text).remove(0)
}

/// An API server as one test sees it.
pub struct ApiServer {
    /// The server behind the gate.
    pub process: Arc<Process>,
    /// The way to it.
    pub gate: Gate,
    /// What the service account may do.
    pub rights: Rights,
    namespace: String,
    folder: tempfile::TempDir,
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Reached for ApiServer {
    fn write_kubeconfig(&self, path: &Path) {
        std::fs::write(path, self.kubeconfig().to_string()).unwrap();
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl ApiServer {
    /// A namespace of the shared process with the release for a pool of the stable group.
    pub fn start() -> Self {
        ApiServer::start_with(Release::Gateway)
    }

    /// The same with another release.
    pub fn start_with(release: Release) -> Self {
        ApiServer::on(SHARED.clone(), release, None)
    }

    /// A namespace of a process that no other test uses meanwhile.
    pub fn alone(release: Release) -> Self {
        let (process, lock) = &*ALONE;
        // A row that failed has spoilt nothing: the CRDs are put in order.
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        process.install_all();
        ApiServer::on(process.clone(), release, Some(guard))
    }

    /// A namespace of this process.
    pub fn on(process: Arc<Process>, release: Release, alone: Option<MutexGuard<'static, ()>>) -> Self {
        let namespace = format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed));
        create_namespace(&process, &namespace);
        let objects = release::objects(release, &namespace);
        for object in &objects {
            process.admin.put(&place(object, &namespace), object);
        }
        let gate = Gate::start(process.address);
        let folder = tempfile::tempdir().unwrap();
        let rights = Rights::new(process.admin.clone(), &objects);
        std::fs::write(folder.path().join("ca.crt"), &process.authority).unwrap();
        let server = ApiServer {
            process,
            gate,
            rights,
            namespace,
            folder,
            _alone: alone,
        };
        server.show(&server.issue(server.rights.account()));
        server
    }

    /// Where the objects of the test are.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Another namespace where the service account has its rights.
    pub fn another_namespace(&self, name: &str) -> String {
        let name = format!("{}-{name}", self.namespace);
        create_namespace(&self.process, &name);
        self.rights.also_in(&name);
        name
    }

    /// Lets connections through again after [`ApiServer::stop`].
    pub fn restart(&mut self) {
        self.gate.open();
    }

    /// Goes away: connections are cut, new ones refused.
    pub fn stop(&mut self) {
        self.gate.close();
    }

    /// Creates or replaces an object; of a pod, its status, too.
    pub fn apply(&self, kind: Kind, mut object: Value) {
        object["kind"] = json!(kind.kind);
        object["apiVersion"] = json!(kind.api_version);
        let place = place(&object, &self.namespace);
        let admin = &self.process.admin;
        if kind.resource != PODS.resource {
            self.replace(&place, object);
            return;
        }
        let leaves = object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("deletionTimestamp");
        if leaves.is_some() {
            // What keeps a pod that is deleted.
            object["metadata"]["finalizers"] = json!(["example.test/kept"]);
        }
        let mut status = object.clone();
        object.as_object_mut().unwrap().remove("status");
        object["spec"] = json!({"containers": [{"name": "model", "image": "model"}]});
        admin.put(&place, &object);
        if let Some(ip) = status["status"]["podIP"].as_str() {
            status["status"]["podIPs"] = json!([{"ip": ip}]);
        }
        let name = &object["metadata"]["name"];
        status["metadata"] = json!({"name": name});
        admin.put(&format!("{place}/status"), &status);
        if leaves.is_some() {
            admin.delete(&place);
        }
    }

    /// Creates an object or puts it in the place of the one that is there, whoever writes that, too.
    fn replace(&self, place: &str, mut object: Value) {
        let admin = &self.process.admin;
        wait("an object to be replaced", || {
            let (status, old) = admin.get(place);
            if status == 404 {
                admin.put(place, &object);
                return true;
            }
            object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            admin.replaced(place, &object)
        });
    }

    /// Applies many, some at a time.
    pub fn apply_all(&self, kind: Kind, objects: impl IntoIterator<Item = Value>) {
        let objects = Mutex::new(objects.into_iter().collect::<Vec<_>>());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let Some(object) = objects.lock().unwrap().pop() else {
                            return;
                        };
                        self.apply(kind, object);
                    }
                });
            }
        });
    }

    /// Deletes an object.
    pub fn delete(&self, kind: Kind, name: &str) {
        self.process.admin.delete(&self.place(kind, name));
    }

    /// An object as it is.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        let (status, object) = self.process.admin.get(&self.place(kind, name));
        (status == 200).then_some(object)
    }

    /// The CRD of `kind` is not installed, or is now.
    pub fn install(&self, kind: Kind, installed: bool) {
        assert!(self._alone.is_some(), "others would see it: ApiServer::alone");
        self.process.install(kind.resource, installed);
    }

    /// Takes every right to a resource from the service account, or gives it back.
    pub fn forbid(&self, resource: &str, forbidden: bool) {
        self.rights.set(resource, None, !forbidden);
    }

    /// Open connections carry nothing from now on and stay open; new ones work.
    pub fn silence(&self) {
        self.gate.silence();
    }

    /// The next `times` connections carry nothing.
    pub fn mute(&self, times: u64) {
        self.gate.silence_next(times);
    }

    /// `User-Agent` of all requests of the service account so far.
    pub fn agents(&self) -> HashSet<String> {
        let agent = |e: &Value| e["userAgent"].as_str().unwrap_or_default().to_owned();
        self.audited().iter().map(agent).collect()
    }

    /// Answers come so much later.
    pub fn delay(&self, delay: Duration) {
        self.gate.delay(delay);
    }

    /// Ends every open watch, by cutting its connection.
    pub fn cut_watches(&self) {
        self.gate.cut();
    }

    /// Forgets what happened before now in the store.
    pub fn compact(&self) {
        self.process.compact();
    }

    /// A token of a service account, for metrics.
    pub fn token(&self, user: &str) -> String {
        let accounts = format!("/api/v1/namespaces/{}/serviceaccounts", self.namespace);
        let account = json!({"metadata": {"name": user}});
        self.process.admin.create(&accounts, &account);
        self.issue(user)
    }

    /// Lets a service account do `verb` on a path.
    pub fn allow(&self, user: &str, verb: &str, path: &str) {
        self.rights.allow(&self.namespace, user, verb, path);
    }

    /// Requests of the service account so far with this method about this resource.
    pub fn requests(&self, method: &str, resource: &str) -> usize {
        let of = |event: &Value| {
            let object = &event["objectRef"];
            let plural = object["resource"].as_str().unwrap_or_default();
            let group = object["apiGroup"]
                .as_str()
                .map_or(String::new(), |g| format!(".{g}"));
            event["stage"] == "RequestReceived"
                && resource == format!("{plural}{group}")
                && verbs(method).contains(&event["verb"].as_str().unwrap())
        };
        let all = self.audited();
        all.iter().filter(|e| of(e)).count()
    }

    /// Audit events of the service account, oldest first.
    pub fn audited(&self) -> Vec<Value> {
        self.process.audited(&format!("\"{}\"", self.rights.user()))
    }

    /// A new token of a service account of the namespace.
    pub fn issue(&self, account: &str) -> String {
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
            self.namespace
        );
        let request = json!({"spec": {"expirationSeconds": 3600}});
        let issued = self.process.admin.create(&path, &request);
        issued["status"]["token"].as_str().unwrap().to_owned()
    }

    /// `epp` finds this token from now on, where the kubelet would have put it.
    pub fn show(&self, token: &str) {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("token"));
        std::fs::write(&new, token).unwrap();
        std::fs::rename(&new, &file).unwrap();
    }

    /// `epp` takes certificates of this authority (PEM) for the server's.
    pub fn trust(&self, authority: &str) {
        std::fs::write(self.folder.path().join("ca.crt"), authority).unwrap();
    }

    fn kubeconfig(&self) -> Value {
        let file = |name: &str| self.folder.path().join(name);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.gate.address), "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "test", "user": {"tokenFile": file("token")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }

    fn place(&self, kind: Kind, name: &str) -> String {
        let object = json!({"kind": kind.kind, "apiVersion": kind.api_version, "metadata": {"name": name}});
        place(&object, &self.namespace)
    }
}

/// What the authorizer calls a method.
fn verbs(method: &str) -> &'static [&'static str] {
    match method {
        "GET" => &["get", "list", "watch"],
        "POST" => &["create"],
        other => panic!("which verbs are {other}?"),
    }
}

fn create_namespace(process: &Process, name: &str) {
    let namespace = json!({"metadata": {"name": name}});
    process.admin.create("/api/v1/namespaces", &namespace);
}
