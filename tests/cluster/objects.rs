//! Objects with what only a real API server gives them: their ages.

use serde_json::{Value, json};

use crate::kubernetes::rules::{sent_as, sent_as_becomes};
use crate::kubernetes::{endpoints_are, with_pool};
use crate::server::{ApiServer, wait};
use crate::support::apiserver::{PODS, REWRITES, pod};

/// A rewrite of models to others, each exactly.
fn rewrite(name: &str, rules: &[(&str, &str)]) -> Value {
    let rule = |(from, to): &(&str, &str)| json!({"matches": [{"model": {"type": "Exact", "value": from}}], "targets": [{"modelRewrite": to}]});
    let rules: Vec<Value> = rules.iter().map(rule).collect();
    json!({"metadata": {"name": name}, "spec": {"poolRef": {"name": "pool"}, "rules": rules}})
}

fn born(server: &ApiServer, name: &str) -> String {
    let object = server.get(REWRITES, name).unwrap();
    object["metadata"]["creationTimestamp"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn of_two_rewrites_the_older_wins_whatever_its_name() {
    let (server, epp) = with_pool(&[8000]);
    server.apply(PODS, pod("p", "127.0.0.1"));
    endpoints_are(&epp, &["p-rank-0"]).await;
    server.apply(REWRITES, rewrite("z-old", &[("m", "old")]));
    sent_as_becomes(&epp, "m", "old").await;
    // Ages are whole seconds.
    let first = born(&server, "z-old");
    wait("a younger rewrite", || {
        server.apply(REWRITES, rewrite("a-young", &[("m", "young"), ("n", "seen")]));
        let younger = born(&server, "a-young") > first;
        if !younger {
            server.delete(REWRITES, "a-young");
        }
        younger
    });
    sent_as_becomes(&epp, "n", "seen").await;
    assert_eq!(sent_as(&epp, "m").await, "old");
    server.delete(REWRITES, "z-old");
    sent_as_becomes(&epp, "m", "young").await;
}
