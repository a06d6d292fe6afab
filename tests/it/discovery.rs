//! The endpoints file: what it may hold, and how changes of it are followed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use endpoint_picker::datastore::Datastore;
use endpoint_picker::discovery::file::{FileDiscovery, FileDiscoverySettings};
use tokio_util::sync::CancellationToken;

const ONE: &str = "endpoints:\n- {name: a, address: 10.0.0.1, port: 8000}\n";
const TWO: &str = "endpoints:\n- {name: a, address: 10.0.0.1, port: 8000}\n- {name: b, address: \"[fd00::1]\", port: \"8001\"}\n";

fn load(path: &Path, store: &Arc<Datastore>) -> Result<FileDiscovery, String> {
    let settings = FileDiscoverySettings {
        path: path.to_owned(),
        watch_file: true,
    };
    FileDiscovery::load(settings, store.clone()).map_err(|e| e.to_string())
}

fn store() -> Arc<Datastore> {
    Arc::new(Datastore::new("p"))
}

fn authorities(store: &Datastore) -> Vec<String> {
    store
        .fleet()
        .endpoints
        .iter()
        .map(|e| e.authority.to_string())
        .collect()
}

/// Waits until the fleet is as expected.
async fn until(store: &Datastore, expected: &[&str]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while authorities(store) != expected {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?} is not {expected:?}",
            authorities(store)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn endpoints_objectives_and_rewrites_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.yaml");
    let text = "endpoints:\n- name: a\n  namespace: ns\n  address: fd00::1\n  port: '8000'\n  metricsPort: 9000\n  metricsPath: /m\n  labels: {x: z}\n\
        objectives:\n- {name: low, priority: -1}\n- name: none\n\
        modelRewrites:\n- name: r\n  rules:\n  - matches: [{model: {type: Exact, value: m}}]\n    targets: [{modelRewrite: t, weight: 5}]\n  - targets: [{modelRewrite: any}]\n";
    std::fs::write(&path, text).unwrap();
    let store = store();
    load(&path, &store).unwrap();
    let fleet = store.fleet();
    let e = &fleet.endpoints[0];
    assert_eq!(
        (&*e.authority, e.metrics_address().to_string().as_str()),
        ("[fd00::1]:8000", "[fd00::1]:9000")
    );
    assert_eq!(
        (e.spec.namespace.as_str(), e.spec.metrics_path.as_deref()),
        ("ns", Some("/m"))
    );
    assert_eq!(e.spec.labels["x"], "z");
    assert_eq!(
        (
            store.objectives().priority("low"),
            store.objectives().priority("none")
        ),
        (-1, 0)
    );
    assert_eq!(store.rewrites().find("m").unwrap().choose(|_| 0), "t");
    assert_eq!(store.rewrites().find("else").unwrap().choose(|_| 0), "any");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.yaml");
    let text = "endpoints:\n- {name: a, address: nowhere, port: 70000}\n- {address: 10.0.0.1, port: 1}\n- {name: b, address: 10.0.0.1, port: 2, adress: x}\n\
        - {name: b, address: 10.0.0.2, port: 2}\nobjectives: [{priority: 1}]\n";
    std::fs::write(&path, text).unwrap();
    let store = store();
    let error = load(&path, &store).err().unwrap();
    for expected in [
        ":2:22: endpoints[0].address: must be an IPv4 or IPv6 address, not \"nowhere\"",
        ":2:37: endpoints[0].port: must be a port, 1 to 65535",
        ":3:3: endpoints[1]: endpoint is missing a name",
        "endpoints[2].adress: unknown field \"adress\" (did you mean \"address\"?)",
        "endpoints[3]: endpoint default/b is listed twice",
        "objectives[0]: objective is missing a name",
    ] {
        assert!(error.contains(expected), "{expected}\n{error}");
    }
    assert!(!store.synced(), "nothing of a wrong file is applied");
    let missing = load(&folder.path().join("none.yaml"), &store).err().unwrap();
    assert!(missing.contains("cannot read the endpoints file"), "{missing}");
}

#[tokio::test]
async fn a_file_that_is_replaced_is_followed_and_a_broken_one_keeps_the_last_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.yaml");
    let replace = |text: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    replace(ONE);
    let store = store();
    let discovery = load(&path, &store).unwrap();
    let stop = CancellationToken::new();
    let (gone, mut removed) = tokio::sync::mpsc::unbounded_channel();
    let on_change = move |change: &endpoint_picker::datastore::Change| {
        for e in &change.removed {
            let _ = gone.send(e.spec.name.clone());
        }
    };
    let watching = tokio::spawn(discovery.watch(on_change, stop.clone()));
    until(&store, &["10.0.0.1:8000"]).await;
    replace(TWO);
    until(&store, &["10.0.0.1:8000", "[fd00::1]:8001"]).await;
    replace("endpoints: [{name: broken");
    replace("endpoints: []\nnonsense: 1\n");
    replace(ONE);
    until(&store, &["10.0.0.1:8000"]).await;
    assert_eq!(removed.recv().await.as_deref(), Some("b"));
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn the_link_swap_of_kubernetes_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        let dir = folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("e.yaml"), text).unwrap();
        let link = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(&link, folder.path().join("..data")).unwrap();
    };
    version("..v1", ONE);
    std::os::unix::fs::symlink("..data/e.yaml", folder.path().join("e.yaml")).unwrap();
    let store = store();
    let discovery = load(&folder.path().join("e.yaml"), &store).unwrap();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(discovery.watch(|_| {}, stop.clone()));
    until(&store, &["10.0.0.1:8000"]).await;
    version("..v2", TWO);
    until(&store, &["10.0.0.1:8000", "[fd00::1]:8001"]).await;
    stop.cancel();
    watching.await.unwrap();
}
