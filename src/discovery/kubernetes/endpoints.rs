//! The endpoints of a pod: one per target port it serves, called `<pod>-rank-<index of the port>`.

use std::net::SocketAddr;

use crate::api::kubernetes::pod::{ACTIVE_PORTS, Pod};
use crate::api::kubernetes::pool::Pool;
use crate::model::endpoint::EndpointSpec;

use super::Scope;
use super::complaints::Complaints;

/// The pool's selector as the API takes it.
pub fn selector(pool: &Pool) -> String {
    let pairs: Vec<String> = pool.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

/// Has the pod all labels of the pool?
pub fn selected(pod: &Pod, pool: &Pool) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let has = |key: &str, value: &str| labels.is_some_and(|l| l.get(key).is_some_and(|v| v == value));
    pool.selector.iter().all(|(k, v)| has(k, v))
}

/// The pod's endpoints; none while it is not ready.
pub fn of(pod: &Pod, pool: &Pool, scope: &Scope, complaints: &mut Complaints) -> Vec<EndpointSpec> {
    if !pod.ready() || !selected(pod, pool) {
        complaints.about("pod", pod.name(), &[]);
        return Vec::new();
    }
    let ip = match pod.address() {
        Ok(ip) => ip,
        Err(mistake) => {
            complaints.about("pod", pod.name(), &[mistake + ": it takes no requests"]);
            return Vec::new();
        }
    };
    let (active, unknown) = pod.active_ports(&pool.ports);
    let strange = (!unknown.is_empty()).then(|| {
        let ports = &pool.ports;
        format!("annotation {ACTIVE_PORTS} lists {unknown:?}, which are none of the pool's ports {ports:?}: left out")
    });
    complaints.about("pod", pod.name(), strange.as_slice());
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let own_page = pool.ports.len() == 1 && scope.metrics_port != 0;
    let spec = |(rank, port): (usize, u16)| EndpointSpec {
        namespace: scope.namespace.clone(),
        name: format!("{}-rank-{rank}", pod.name()),
        address: SocketAddr::new(ip, port),
        metrics_address: (own_page && scope.metrics_port != port)
            .then(|| SocketAddr::new(ip, scope.metrics_port)),
        metrics_path: None,
        labels: labels.clone(),
    };
    active.into_iter().map(spec).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Source;
    use super::*;

    fn pod(ip: &str, labels: serde_json::Value, annotations: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": labels, "annotations": annotations},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    fn endpoints(pod: &Pod, ports: &[u16], metrics_port: u16) -> Vec<(String, String, String)> {
        let pool = Pool {
            selector: vec![("app".into(), "x".into())],
            ports: ports.to_vec(),
        };
        let scope = Scope {
            namespace: "n".into(),
            source: Source::Selector(pool.clone()),
            metrics_port,
        };
        let specs = of(pod, &pool, &scope, &mut Complaints::default());
        let row = |s: EndpointSpec| {
            let page = s.metrics_address.unwrap_or(s.address).to_string();
            (format!("{}/{}", s.namespace, s.name), s.address.to_string(), page)
        };
        specs.into_iter().map(row).collect()
    }

    #[test]
    fn a_pod_has_one_endpoint_per_port_it_serves() {
        let app = json!({"app": "x", "more": "y"});
        let row =
            |rank: u8, at: &str, page: &str| (format!("n/p-rank-{rank}"), at.to_owned(), page.to_owned());
        let v4 = pod("10.0.0.1", app.clone(), json!(null));
        let two = [8000, 8001];
        let both = vec![
            row(0, "10.0.0.1:8000", "10.0.0.1:8000"),
            row(1, "10.0.0.1:8001", "10.0.0.1:8001"),
        ];
        assert_eq!(endpoints(&v4, &two, 0), both);
        // A page on a port of its own is for pools of one port.
        assert_eq!(endpoints(&v4, &two, 9400), both);
        assert_eq!(
            endpoints(&v4, &[8000], 9400),
            [row(0, "10.0.0.1:8000", "10.0.0.1:9400")]
        );
        let v6 = pod("fd00::1", app.clone(), json!(null));
        assert_eq!(
            endpoints(&v6, &[8000], 9400),
            [row(0, "[fd00::1]:8000", "[fd00::1]:9400")]
        );
        let second = pod("10.0.0.1", app, json!({ACTIVE_PORTS: "8001"}));
        assert_eq!(
            endpoints(&second, &two, 0),
            [row(1, "10.0.0.1:8001", "10.0.0.1:8001")]
        );
    }

    #[test]
    fn a_pod_without_the_labels_or_an_address_has_none() {
        for (ip, labels) in [
            ("10.0.0.1", json!({"app": "y"})),
            ("10.0.0.1", json!(null)),
            ("", json!({"app": "x"})),
        ] {
            assert_eq!(endpoints(&pod(ip, labels, json!(null)), &[8000], 0), []);
        }
    }
}
