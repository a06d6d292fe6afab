//! What the chart's service account may do, and taking single rights from it.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::admin::{Admin, wait};
use super::release::place;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Right {
    group: String,
    /// Plural.
    resource: String,
    pub verb: String,
    /// The only object; empty: any.
    name: String,
    /// The role that gives it.
    role: String,
    /// Empty: everywhere.
    namespace: String,
}

impl Right {
    /// Plural, and group after a dot where there is one.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

/// The rights of a service account, from the roles that a release binds to it.
pub struct Rights {
    admin: Admin,
    account: String,
    namespace: String,
    /// As rendered.
    all: Vec<Right>,
    taken: Mutex<Vec<Right>>,
}

impl Rights {
    /// Reads them from a release's objects.
    pub fn new(admin: Admin, objects: &[Value]) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let account = objects.iter().find(|o| o["kind"] == "ServiceAccount").unwrap();
        let (account, namespace) = (
            text(&account["metadata"]["name"]),
            text(&account["metadata"]["namespace"]),
        );
        let mut bound = Vec::new();
        for binding in objects
            .iter()
            .filter(|o| o["kind"].as_str().unwrap().ends_with("RoleBinding"))
        {
            let subject = &binding["subjects"][0];
            if subject["name"] == json!(account) && subject["namespace"] == json!(namespace) {
                bound.push(binding["roleRef"]["name"].clone());
            }
        }
        let mut all = Vec::new();
        for role in objects.iter().filter(|o| bound.contains(&o["metadata"]["name"])) {
            for rule in role["rules"].as_array().into_iter().flatten() {
                for [group, resource, verb, name] in rows(rule) {
                    all.push(Right {
                        group,
                        resource,
                        verb,
                        name,
                        role: place(role, &namespace),
                        namespace: text(&role["metadata"]["namespace"]),
                    });
                }
            }
        }
        assert!(!all.is_empty(), "the release gives no right");
        let rights = Rights {
            admin,
            account,
            namespace,
            all,
            taken: Mutex::default(),
        };
        rights.settle();
        rights
    }

    /// The service account's name.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Its name as a user.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }

    /// Every right the release gives.
    pub fn all(&self) -> &[Right] {
        &self.all
    }

    /// Gives or takes what the release gives on a resource, one verb or all; returns when that is in force.
    pub fn set(&self, resource: &str, verb: Option<&str>, given: bool) {
        let of = |right: &&Right| right.resource() == resource && verb.is_none_or(|v| v == right.verb);
        let concerned: Vec<Right> = self.all.iter().filter(of).cloned().collect();
        if concerned.is_empty() {
            // Nobody gives it: it is forbidden already.
            return;
        }
        {
            let mut taken = self.taken.lock().unwrap();
            taken.retain(|r| !concerned.contains(r));
            if !given {
                taken.extend(concerned.iter().cloned());
            }
        }
        for right in &concerned {
            self.write(&right.role);
        }
        self.settle();
    }

    /// The rights of the release's own namespace, in another one.
    pub fn also_in(&self, namespace: &str) {
        let metadata = json!({"name": self.account});
        let rules: Vec<Value> = self
            .all
            .iter()
            .filter(|r| !r.namespace.is_empty())
            .map(rule)
            .collect();
        let within = format!("{RBAC}/namespaces/{namespace}");
        self.admin.create(
            &format!("{within}/roles"),
            &json!({"metadata": metadata, "rules": rules}),
        );
        let subject = json!({"kind": "ServiceAccount", "name": self.account, "namespace": self.namespace});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.account});
        self.admin.create(
            &format!("{within}/rolebindings"),
            &json!({"metadata": metadata, "subjects": [subject], "roleRef": role}),
        );
        for right in self.all.iter().filter(|r| !r.namespace.is_empty()) {
            let mut attributes = attributes(right);
            attributes["resourceAttributes"]["namespace"] = json!(namespace);
            self.in_force(&attributes, true);
        }
    }

    /// Lets another service account do `verb` on a path.
    pub fn allow(&self, namespace: &str, user: &str, verb: &str, path: &str) {
        let metadata = json!({"name": format!("{namespace}-{user}")});
        let rules = json!([{"nonResourceURLs": [path], "verbs": [verb]}]);
        self.admin.create(
            &format!("{RBAC}/clusterroles"),
            &json!({"metadata": metadata, "rules": rules}),
        );
        let subject = json!({"kind": "ServiceAccount", "name": user, "namespace": namespace});
        let role =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": metadata["name"]});
        self.admin.create(
            &format!("{RBAC}/clusterrolebindings"),
            &json!({"metadata": metadata, "subjects": [subject], "roleRef": role}),
        );
        let name = format!("system:serviceaccount:{namespace}:{user}");
        let asked = json!({"nonResourceAttributes": {"path": path, "verb": verb}});
        wait("a right to be in force", || self.admin.may(&name, &asked));
    }

    /// Writes a role with what is left of its rights.
    fn write(&self, role: &str) {
        let taken = self.taken.lock().unwrap().clone();
        let left = self.all.iter().filter(|r| r.role == role && !taken.contains(r));
        let (_, mut object) = self.admin.get(role);
        object["rules"] = left.map(rule).collect();
        self.admin.replace(role, &object);
    }

    /// Waits until the server goes by what is written.
    fn settle(&self) {
        let taken = self.taken.lock().unwrap().clone();
        for right in &self.all {
            self.in_force(&attributes(right), !taken.contains(right));
        }
    }

    fn in_force(&self, attributes: &Value, given: bool) {
        wait("a right to be in force", || {
            self.admin.may(&self.user(), attributes) == given
        });
    }
}

/// A rule as rows of group, resource, verb and name.
fn rows(rule: &Value) -> Vec<[String; 4]> {
    let all = |key: &str| -> Vec<String> {
        let values = rule[key].as_array().into_iter().flatten();
        values.map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut names = all("resourceNames");
    if names.is_empty() {
        names.push(String::new());
    }
    let mut out = Vec::new();
    for group in all("apiGroups") {
        for resource in all("resources") {
            for verb in all("verbs") {
                let row = |name: &String| [group.clone(), resource.clone(), verb.clone(), name.clone()];
                out.extend(names.iter().map(row));
            }
        }
    }
    out
}

fn rule(right: &Right) -> Value {
    let mut rule = json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]});
    if !right.name.is_empty() {
        rule["resourceNames"] = json!([right.name]);
    }
    rule
}

fn attributes(right: &Right) -> Value {
    json!({"resourceAttributes": {"group": right.group, "resource": right.resource, "verb": right.verb,
        "namespace": right.namespace, "name": right.name}})
}
