//! The endpoints file of `file-discovery`: endpoints, objectives and model rewrites (plugins.md §5.6;
//! decision 10).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::document::{At, Mistakes, Node, Value};

/// An entry of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    /// `namespace`, else `default`.
    pub namespace: String,
    /// `name`.
    pub name: String,
    /// `address` and `port`.
    pub address: SocketAddr,
    /// `metricsPort`.
    pub metrics_port: Option<u16>,
    /// `metricsPath`.
    pub metrics_path: Option<String>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
}

/// A target of a rewrite rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetEntry {
    /// `modelRewrite`.
    pub model: String,
    /// `weight`.
    pub weight: Option<u32>,
}

/// A rule of a rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    /// Exact model names; empty: every model.
    pub matches: Vec<String>,
    /// Targets.
    pub targets: Vec<TargetEntry>,
}

/// The document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointsFile {
    /// Endpoints in order.
    pub endpoints: Vec<EndpointEntry>,
    /// Priority by objective.
    pub objectives: Vec<(String, i32)>,
    /// Rewrites, oldest first.
    pub rewrites: Vec<(String, Vec<RuleEntry>)>,
}

/// Reads the document; what is wrong goes to `m`.
pub fn read(root: &Node, m: &mut Mistakes) -> EndpointsFile {
    let root = At::root(root);
    let document = root.object(&["endpoints", "objectives", "modelRewrites"], m);
    if document.get("endpoints").is_none() {
        m.add(
            document.at,
            "",
            "endpoints is missing: list them, or write endpoints: [] for an empty pool",
        );
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut endpoints = Vec::new();
    for at in document.list("endpoints", m) {
        let Some(entry) = endpoint(&at, m) else { continue };
        if !names.insert((entry.namespace.clone(), entry.name.clone())) {
            at.wrong(
                m,
                format!("endpoint {}/{} is listed twice", entry.namespace, entry.name),
            );
        } else if !addresses.insert(entry.address) {
            at.wrong(m, format!("address {} is listed twice", entry.address));
        }
        endpoints.push(entry);
    }
    let objectives = document.list("objectives", m);
    let rewrites = document.list("modelRewrites", m);
    EndpointsFile {
        endpoints,
        objectives: objectives.iter().filter_map(|at| objective(at, m)).collect(),
        rewrites: rewrites.iter().filter_map(|at| rewrite(at, m)).collect(),
    }
}

fn endpoint(at: &At<'_>, m: &mut Mistakes) -> Option<EndpointEntry> {
    let known = [
        "name",
        "namespace",
        "address",
        "port",
        "labels",
        "metricsPort",
        "metricsPath",
    ];
    let object = at.object(&known, m);
    let name = object.required_text("name", "endpoint is missing a name", m);
    let address = object
        .required_text("address", "endpoint is missing an address", m)
        .and_then(|text| {
            let bare = text
                .strip_prefix('[')
                .and_then(|t| t.strip_suffix(']'))
                .unwrap_or(text);
            let parsed = bare.parse::<IpAddr>().ok();
            if let (None, Some(at)) = (parsed, object.get("address")) {
                at.wrong(m, format!("must be an IPv4 or IPv6 address, not \"{text}\""));
            }
            parsed
        });
    let port = match object.get("port") {
        Some(at) => port(at, m),
        None => {
            m.add(object.at, object.path.clone(), "endpoint is missing a port");
            None
        }
    };
    let labels = object.get("labels").map(|at| labels(at, m)).unwrap_or_default();
    let metrics_path = object.get("metricsPath").and_then(|at| {
        let path = at.text(m)?;
        if !path.starts_with('/') {
            at.wrong(m, format!("must begin with /, not \"{path}\""));
        }
        Some(path.to_owned())
    });
    Some(EndpointEntry {
        namespace: object
            .text("namespace", m)
            .filter(|n| !n.is_empty())
            .unwrap_or("default")
            .to_owned(),
        metrics_port: object.get("metricsPort").and_then(|at| self::port(at, m)),
        metrics_path,
        labels,
        name: name?.to_owned(),
        address: SocketAddr::new(address?, port?),
    })
}

/// A port as a number or as text.
fn port(at: &At<'_>, m: &mut Mistakes) -> Option<u16> {
    let number = match &at.node.value {
        Value::Int(i) => u16::try_from(*i).ok(),
        Value::Text(t) => t.parse().ok(),
        _ => None,
    };
    let good = number.filter(|p| *p > 0);
    if good.is_none() {
        at.wrong(m, "must be a port, 1 to 65535");
    }
    good
}

fn labels(at: &At<'_>, m: &mut Mistakes) -> BTreeMap<String, String> {
    let Value::Map(map) = &at.node.value else {
        at.wrong(m, "must be an object of labels");
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for (key, place, node) in map {
        let value = At {
            node,
            path: format!("{}.{key}", at.path),
        };
        if let Some(text) = value.text(m)
            && labels.insert(key.clone(), text.to_owned()).is_some()
        {
            m.add(*place, value.path, format!("label \"{key}\" is given twice"));
        }
    }
    labels
}

fn objective(at: &At<'_>, m: &mut Mistakes) -> Option<(String, i32)> {
    let object = at.object(&["name", "priority"], m);
    let name = object.required_text("name", "objective is missing a name", m)?;
    let priority = object.get("priority").and_then(|p| {
        let value = i32::try_from(p.int(m)?).ok();
        if value.is_none() {
            p.wrong(m, "must fit into 32 bits");
        }
        value
    });
    Some((name.to_owned(), priority.unwrap_or(0)))
}

fn rewrite(at: &At<'_>, m: &mut Mistakes) -> Option<(String, Vec<RuleEntry>)> {
    let object = at.object(&["name", "rules"], m);
    let name = object.required_text("name", "model rewrite is missing a name", m)?;
    Some((
        name.to_owned(),
        object
            .list("rules", m)
            .iter()
            .filter_map(|r| rule(r, m))
            .collect(),
    ))
}

fn rule(at: &At<'_>, m: &mut Mistakes) -> Option<RuleEntry> {
    let object = at.object(&["matches", "targets"], m);
    let given = object.list("matches", m);
    let mut matches = Vec::new();
    for entry in &given {
        // A match without a model never applies.
        let Some(model) = entry.object(&["model"], m).get("model").cloned() else {
            continue;
        };
        let model = model.object(&["type", "value"], m);
        if let Some(kind) = model.get("type")
            && kind.text(m).is_some_and(|t| t != "Exact")
        {
            kind.wrong(m, "must be Exact");
        }
        matches.extend(
            model
                .required_text("value", "match is missing a value", m)
                .map(str::to_owned),
        );
    }
    let targets = object
        .list("targets", m)
        .iter()
        .filter_map(|t| target(t, m))
        .collect();
    if !given.is_empty() && matches.is_empty() {
        return None;
    }
    Some(RuleEntry { matches, targets })
}

fn target(at: &At<'_>, m: &mut Mistakes) -> Option<TargetEntry> {
    let object = at.object(&["modelRewrite", "weight"], m);
    let weight = object.get("weight").and_then(|w| {
        let weight = u32::try_from(w.int(m)?)
            .ok()
            .filter(|n| (1..=1_000_000).contains(n));
        if weight.is_none() {
            w.wrong(m, "must be 1 to 1000000");
        }
        weight
    });
    let model = object.required_text("modelRewrite", "target is missing a modelRewrite", m)?;
    Some(TargetEntry {
        model: model.to_owned(),
        weight,
    })
}
