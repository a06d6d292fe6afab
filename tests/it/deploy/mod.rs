//! What is shipped for clusters (`deploy/`, `Dockerfile`) is right: rendered by the real Helm, read by the types of the
//! Kubernetes API, checked against our own schemas, and its arguments taken by the real binary.

mod chart;
mod crds;
mod monitoring;
mod schema;

use std::path::{Path, PathBuf};

use serde_json::Value;

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(of: &str) -> String {
    std::fs::read_to_string(path(of)).unwrap_or_else(|e| panic!("{of}: {e}"))
}

/// The documents of a YAML text; empty ones are left out.
fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    all.into_iter().filter(|d| !d.is_null()).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no text at {pointer} of {value}"))
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    items.iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// Does everything in `whole` survive in `read`? What does not is a field the API does not know. Paths of the lost.
fn lost(whole: &Value, read: &Value, at: &str) -> Vec<String> {
    match (whole, read) {
        (Value::Object(w), Value::Object(r)) => w
            .iter()
            .filter(|(_, v)| !v.is_null())
            .flat_map(|(k, v)| match r.get(k) {
                Some(found) => lost(v, found, &format!("{at}.{k}")),
                None => vec![format!("{at}.{k}")],
            })
            .collect(),
        (Value::Array(w), Value::Array(r)) if w.len() == r.len() => w
            .iter()
            .zip(r)
            .enumerate()
            .flat_map(|(i, (w, r))| lost(w, r, &format!("{at}[{i}]")))
            .collect(),
        (Value::Number(w), Value::Number(r)) if w.as_f64() == r.as_f64() => Vec::new(),
        _ if whole == read => Vec::new(),
        _ => vec![at.to_owned()],
    }
}

/// Reads an object as the type `K` of the Kubernetes API, which must know all of its fields.
fn is<K: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) {
    let typed: K = serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object:#}"));
    let lost = lost(object, &serde_json::to_value(typed).unwrap(), "");
    assert!(
        lost.is_empty(),
        "fields the API does not know: {lost:?} in {object:#}"
    );
}
