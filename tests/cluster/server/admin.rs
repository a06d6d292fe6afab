//! The administrator's requests to the API server. They block: rows say what happens in order.

use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(10);
/// Longest wait for what the server does by and by.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the requests, apart from the runtimes of the tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

/// An answer: status and JSON body (a text where it is none).
pub type Answer = (u16, Value);

/// A client that may do everything.
#[derive(Clone)]
pub struct Admin {
    client: Client,
    base: String,
    token: String,
}

impl Admin {
    /// A client of the server at `base`, whose certificate `authority` (PEM) has signed.
    pub fn new(base: String, authority: &str, token: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = Certificate::from_pem(authority.as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([root]).timeout(ANSWER);
        Admin {
            client: client.build().unwrap(),
            base,
            token: token.to_owned(),
        }
    }

    /// The same of another server, over plain HTTP.
    pub fn at(&self, base: &str) -> Self {
        Admin {
            base: base.to_owned(),
            ..self.clone()
        }
    }

    /// Sends one request and waits for its answer; `None`: there is no whole one.
    pub fn try_send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", content).body(body.to_string());
        }
        blocking(async move {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            let text = answer.text().await.ok()?;
            Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
        })
    }

    fn send(&self, method: Method, path: &str, content: &str, body: Option<&Value>) -> Answer {
        let told = format!("{method} {path}");
        let answer = self.try_send(method, path, content, body);
        answer.unwrap_or_else(|| panic!("{told}: no answer"))
    }

    /// Reads.
    pub fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", None)
    }

    /// Creates; the object as it is then.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        must(
            self.send(Method::POST, path, "application/json", Some(object)),
            path,
        )
    }

    /// What is said to a strict creation that is not kept.
    pub fn try_create(&self, path: &str, object: &Value) -> Answer {
        let path = format!("{path}?dryRun=All&fieldValidation=Strict");
        self.send(Method::POST, &path, "application/json", Some(object))
    }

    /// Replaces.
    pub fn replace(&self, path: &str, object: &Value) -> Value {
        must(
            self.send(Method::PUT, path, "application/json", Some(object)),
            path,
        )
    }

    /// Replaces, unless somebody else has written the object meanwhile: false.
    pub fn replaced(&self, path: &str, object: &Value) -> bool {
        let path = format!("{path}?fieldValidation=Strict");
        let answer = self.send(Method::PUT, &path, "application/json", Some(object));
        answer.0 != 409 && !must(answer, &path).is_null()
    }

    /// Deletes, now.
    pub fn delete(&self, path: &str) {
        let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        must(
            self.send(Method::DELETE, path, "application/json", Some(&now)),
            path,
        );
    }

    /// Applies on the server's side, strictly; `dry`: without keeping it.
    pub fn apply(&self, path: &str, object: &Value, dry: bool) -> Answer {
        let dry = if dry { "&dryRun=All" } else { "" };
        let path = format!("{path}?fieldManager=test&force=true&fieldValidation=Strict{dry}");
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(object))
    }

    /// Applies what must be taken.
    pub fn put(&self, path: &str, object: &Value) -> Value {
        must(self.apply(path, object, false), path)
    }

    /// May `user` do this? `attributes` as of a SubjectAccessReview.
    pub fn may(&self, user: &str, attributes: &Value) -> bool {
        let mut spec = json!({"user": user, "groups": ["system:serviceaccounts", "system:authenticated"]});
        spec.as_object_mut()
            .unwrap()
            .extend(attributes.as_object().unwrap().clone());
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let done = self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review);
        done["status"]["allowed"] == json!(true)
    }
}

fn must((status, body): Answer, path: &str) -> Value {
    assert!((200..300).contains(&status), "{path}: {status}: {body:#}");
    body
}

/// Runs a future on the runtime of the requests while this thread waits.
fn blocking<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    RUNTIME.spawn(async move { send.send(future.await) });
    receive.recv().unwrap()
}

/// Waits, blocking, until `condition` holds.
#[allow(
    clippy::disallowed_methods,
    reason = "rows wait for the server one step at a time, and nothing of theirs runs meanwhile"
)]
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for: {what}");
        std::thread::sleep(POLL);
    }
}
