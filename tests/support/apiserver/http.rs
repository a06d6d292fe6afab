//! The HTTP side: paths, verbs, errors, watches.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::store::{Happened, Store};

type Answer = Response<Body>;

pub fn routes(shared: Shared) -> Router {
    Router::new().fallback(serve).with_state(shared)
}

/// What a path asks for.
struct Target {
    /// Plural, and group after a dot.
    resource: String,
    namespace: String,
    name: Option<String>,
    status: bool,
}

fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_matches('/').split('/');
    let group = match parts.next()? {
        "api" => String::new(),
        "apis" => format!(".{}", parts.next()?),
        _ => return None,
    };
    let _version = parts.next()?;
    let mut next = parts.next()?;
    let mut namespace = String::new();
    if next == "namespaces" {
        namespace = parts.next()?.to_owned();
        next = parts.next()?;
    }
    Some(Target {
        resource: format!("{next}{group}"),
        namespace,
        name: parts.next().map(str::to_owned),
        status: parts.next() == Some("status"),
    })
}

async fn serve(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Answer {
    if shared.connected(peer) {
        return std::future::pending().await;
    }
    let Some(target) = target(uri.path()) else {
        return failure(404, "no such path");
    };
    let delay = {
        let mut inner = shared.lock();
        let key = (method.to_string(), target.resource.clone());
        *inner.requests.entry(key).or_default() += 1;
        let agent = headers.get(header::USER_AGENT).and_then(|a| a.to_str().ok());
        inner.agents.insert(agent.unwrap_or_default().to_owned());
        inner.delay
    };
    tokio::time::sleep(delay).await;
    if hangs(&shared, &target) {
        return std::future::pending().await;
    }
    if let Some(refused) = refused(&shared, &method, &target) {
        return refused;
    }
    let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    match target.resource.as_str() {
        "tokenreviews.authentication.k8s.io" => return token_review(&shared, body),
        "subjectaccessreviews.authorization.k8s.io" => return access_review(&shared, body),
        _ => {}
    }
    if query.get("watch").is_some_and(|w| w == "true" || w == "1") {
        return watch(shared, peer, target, &query);
    }
    let answer = {
        let mut inner = shared.lock();
        match (&method, &target.name) {
            (&Method::GET, None) => list(&inner.store, &target, &query),
            (&Method::GET, Some(name)) => found(inner.store.get(&target.resource, &target.namespace, name)),
            (&Method::POST, None) => create(&mut inner.store, &target, body),
            (&Method::PUT, Some(_)) => replace(&mut inner.store, &target, body),
            (&Method::PATCH, Some(_)) => patch(&mut inner.store, &target, &body),
            (&Method::DELETE, Some(name)) => {
                found(inner.store.remove(&target.resource, &target.namespace, name))
            }
            _ => failure(405, "not allowed"),
        }
    };
    if method != Method::GET {
        shared.told();
    }
    answer
}

/// Is the request one that is never answered?
fn hangs(shared: &Shared, target: &Target) -> bool {
    let mut inner = shared.lock();
    let left = inner.hanging.get_mut(&target.resource);
    left.is_some_and(|left| std::mem::replace(left, left.saturating_sub(1)) > 0)
}

fn refused(shared: &Shared, method: &Method, target: &Target) -> Option<Answer> {
    let mut inner = shared.lock();
    let key = (method.to_string(), target.resource.clone());
    if let Some(status) = inner.refusing.get(&key) {
        return Some(failure(
            *status,
            &format!("{} is forbidden: {method} is refused", target.resource),
        ));
    }
    if inner.forbidden.contains(&target.resource) {
        let text = format!("{} is forbidden: User \"epp\" cannot touch it", target.resource);
        return Some(failure(403, &text));
    }
    if let Some((status, left)) = inner.failing.get_mut(&target.resource)
        && *left > 0
    {
        *left -= 1;
        return Some(failure(*status, "told to fail"));
    }
    let review = target.resource.contains("reviews.");
    let known = review || inner.kinds.iter().any(|k| *k == target.resource);
    (!known).then(|| failure(404, "the server could not find the requested resource"))
}

/// Is the object selected by the query?
fn selected(query: &HashMap<String, String>) -> impl Fn(&Value) -> bool + Send + use<> {
    let pairs = |name: &str| -> Vec<(String, String)> {
        let text = query.get(name).map_or("", String::as_str);
        let pairs = text.split(',').filter_map(|p| p.split_once('='));
        pairs
            .map(|(k, v)| (k.trim_end_matches('=').to_owned(), v.to_owned()))
            .collect()
    };
    let (labels, fields) = (pairs("labelSelector"), pairs("fieldSelector"));
    move |object| {
        let meta = &object["metadata"];
        labels.iter().all(|(k, v)| meta["labels"][k] == json!(v))
            && fields
                .iter()
                .all(|(k, v)| k != "metadata.name" || meta["name"] == json!(v))
    }
}

fn list(store: &Store, target: &Target, query: &HashMap<String, String>) -> Answer {
    let (all, version) = store.list(&target.resource, &target.namespace, &selected(query));
    let start: usize = query.get("continue").and_then(|c| c.parse().ok()).unwrap_or(0);
    let limit = query
        .get("limit")
        .and_then(|l| l.parse().ok())
        .unwrap_or(usize::MAX);
    let items: Vec<Value> = all.iter().skip(start).take(limit).cloned().collect();
    let end = start + items.len();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if end < all.len() {
        metadata["continue"] = json!(end.to_string());
    }
    answer(
        200,
        &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}),
    )
}

fn create(store: &mut Store, target: &Target, mut object: Value) -> Answer {
    object["metadata"]["namespace"] = json!(target.namespace);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if store.get(&target.resource, &target.namespace, &name).is_some() {
        return failure(409, "it exists");
    }
    answer(201, &store.put(&target.resource, object))
}

fn replace(store: &mut Store, target: &Target, mut object: Value) -> Answer {
    let name = target.name.clone().unwrap();
    let Some(old) = store.get(&target.resource, &target.namespace, &name) else {
        return failure(404, "not found");
    };
    let version = &object["metadata"]["resourceVersion"];
    if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
        return failure(409, "the object has been modified");
    }
    if target.status {
        let status = object["status"].take();
        object = old;
        object["status"] = status;
    }
    object["metadata"]["namespace"] = json!(target.namespace);
    answer(200, &store.put(&target.resource, object))
}

fn patch(store: &mut Store, target: &Target, patch: &Value) -> Answer {
    let name = target.name.clone().unwrap();
    let Some(mut object) = store.get(&target.resource, &target.namespace, &name) else {
        return failure(404, "not found");
    };
    merge(&mut object, patch);
    answer(200, &store.put(&target.resource, object))
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

fn token_review(shared: &Shared, mut review: Value) -> Answer {
    let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
    review["status"] = match shared.lock().tokens.get(&token) {
        Some(user) => {
            json!({"authenticated": true, "user": {"username": user, "groups": ["system:authenticated"]}})
        }
        None => json!({"authenticated": false, "error": "unknown token"}),
    };
    answer(201, &review)
}

fn access_review(shared: &Shared, mut review: Value) -> Answer {
    let spec = &review["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let attributes = &spec["nonResourceAttributes"];
    let row = (
        text(&spec["user"]),
        text(&attributes["verb"]),
        text(&attributes["path"]),
    );
    let allowed = shared.lock().allowed.contains(&row);
    review["status"] = json!({"allowed": allowed});
    answer(201, &review)
}

/// How a change looks to a watch that selects.
fn event(happened: &Happened, selected: &dyn Fn(&Value) -> bool) -> Option<Value> {
    let before = happened.before.as_ref().filter(|o| selected(o));
    let after = happened.after.as_ref().filter(|o| selected(o));
    let (what, object) = match (before, after) {
        (None, None) => return None,
        (None, Some(new)) => ("ADDED", new.clone()),
        (Some(_), Some(new)) => ("MODIFIED", new.clone()),
        (Some(old), None) => {
            let mut last = happened.after.as_ref().unwrap_or(old).clone();
            last["metadata"]["resourceVersion"] = json!(happened.version.to_string());
            ("DELETED", last)
        }
    };
    Some(json!({"type": what, "object": object}))
}

fn watch(shared: Shared, peer: SocketAddr, target: Target, query: &HashMap<String, String>) -> Answer {
    let from: u64 = query
        .get("resourceVersion")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let seconds: u64 = query
        .get("timeoutSeconds")
        .and_then(|v| v.parse().ok())
        .unwrap_or(290);
    let bookmarks = query.get("allowWatchBookmarks").is_some_and(|b| b == "true");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let selected = selected(query);
    let (mut version, mut cut) = (shared.version.subscribe(), shared.cuts.subscribe());
    cut.mark_unchanged();
    let stream = produced(move |send| async move {
        let mut seen = from;
        loop {
            version.mark_unchanged();
            if shared.silent(peer) {
                return send.closed().await;
            }
            let news = {
                let inner = shared.lock();
                let since = inner.store.since(&target.resource, &target.namespace, seen);
                since.map(|events| {
                    let all: Vec<Value> = events.filter_map(|h| event(h, &selected)).collect();
                    (all, inner.store.version())
                })
            };
            let Some((events, now)) = news else {
                let gone = json!({"type": "ERROR", "object": status(410, "too old resource version")});
                let _ = send.send(gone).await;
                return;
            };
            let quiet = events.is_empty() && now > seen;
            for event in events {
                if send.send(event).await.is_err() {
                    return;
                }
            }
            seen = now;
            if bookmarks && quiet {
                let version = json!({"resourceVersion": seen.to_string()});
                let object = json!({"kind": "", "apiVersion": "", "metadata": version});
                if send
                    .send(json!({"type": "BOOKMARK", "object": object}))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            tokio::select! {
                _ = version.changed() => {}
                _ = cut.changed() => return,
                () = tokio::time::sleep_until(deadline), if !shared.silent(peer) => return,
                () = send.closed() => return,
            }
        }
    });
    let lines = stream.map(|event| Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))));
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(lines))
        .unwrap()
}

/// A stream of what a task sends.
fn produced<F>(produce: impl FnOnce(mpsc::Sender<Value>) -> F) -> ReceiverStream<Value>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(produce(send));
    ReceiverStream::new(receive)
}

fn found(object: Option<Value>) -> Answer {
    object.map_or_else(|| failure(404, "not found"), |o| answer(200, &o))
}

fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
           "reason": reason, "code": code})
}

fn failure(code: u16, message: &str) -> Answer {
    answer(code, &status(code, message))
}

fn answer(code: u16, body: &Value) -> Answer {
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}
