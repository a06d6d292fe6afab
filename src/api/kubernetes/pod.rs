//! A pod: its labels, whether it is ready, its address, and which of the pool's ports it serves.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// Annotation: which of the pool's target ports this pod serves (a comma-separated list). Absent: all of them.
pub const ACTIVE_PORTS: &str = "inference.networking.k8s.io/active-ports";

/// A pod, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Pod {
    /// Name, labels, annotation, deletion.
    #[serde(deserialize_with = "super::metadata")]
    pub metadata: ObjectMeta,
    /// Absent while the pod is being created.
    pub status: Option<Status>,
}

super::resource!(Pod, "", "v1", "Pod", "pods");

/// A pod's status, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Absent until the network is set up.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Conditions by type.
    pub conditions: Option<Vec<Condition>>,
}

/// A condition.
#[derive(Clone, Debug, Deserialize)]
pub struct Condition {
    /// `Ready` is the one that counts.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

impl Pod {
    /// The pod's name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Not being deleted, and its condition `Ready` is `True`.
    pub fn ready(&self) -> bool {
        let conditions = self.status.iter().filter_map(|s| s.conditions.as_ref()).flatten();
        let mut ready = conditions.filter(|c| c.kind == "Ready" && c.status == "True");
        self.metadata.deletion_timestamp.is_none() && ready.next().is_some()
    }

    /// Where it is reached.
    ///
    /// # Errors
    /// It has no address, or one that is none; the text says so.
    pub fn address(&self) -> Result<IpAddr, String> {
        let ip = self
            .status
            .as_ref()
            .and_then(|s| s.pod_ip.as_deref())
            .unwrap_or("");
        if ip.is_empty() {
            return Err("it is ready but has no status.podIP".into());
        }
        ip.parse()
            .map_err(|_| format!("status.podIP {ip:?} is not an IP address"))
    }

    /// Which of `ports` (rank and port number) the pod serves: all of them, or those its annotation lists. Entries of
    /// the annotation that are none of the ports are returned too.
    pub fn active_ports<'a>(&'a self, ports: &[u16]) -> (Vec<(usize, u16)>, Vec<&'a str>) {
        let ranked = ports.iter().copied().enumerate();
        let Some(listed) = self
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(ACTIVE_PORTS))
        else {
            return (ranked.collect(), Vec::new());
        };
        let entries = listed.split(',').map(str::trim).filter(|e| !e.is_empty());
        let number = |entry: &str| entry.parse().ok().filter(|port| ports.contains(port));
        let active: Vec<u16> = entries.clone().filter_map(number).collect();
        let unknown = entries.filter(|entry| number(entry).is_none()).collect();
        (
            ranked.filter(|(_, port)| active.contains(port)).collect(),
            unknown,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn ready_is_the_condition_and_no_deletion() {
        let ready = |status: &str| serde_json::json!({"conditions": [{"type": "Ready", "status": status}]});
        let meta = |deleted: Option<&str>| serde_json::json!({"name": "p", "deletionTimestamp": deleted});
        let deleted = Some("2026-01-02T03:04:05Z");
        for (metadata, status, expected) in [
            (meta(None), ready("True"), true),
            (meta(None), ready("False"), false),
            (meta(None), ready("Unknown"), false),
            (meta(deleted), ready("True"), false),
            (meta(None), serde_json::json!({"phase": "Running"}), false),
            (meta(None), serde_json::json!({"conditions": null}), false),
            (meta(None), serde_json::Value::Null, false),
        ] {
            let text = format!("{metadata} {status}");
            let pod = pod(serde_json::json!({"metadata": metadata, "status": status}));
            assert_eq!(pod.ready(), expected, "{text}");
        }
    }

    #[test]
    fn an_annotation_chooses_among_the_ports_and_keeps_their_ranks() {
        let rows: [(Option<&str>, &[(usize, u16)], &[&str]); 6] = [
            (None, &[(0, 8000), (1, 8001)], &[]),
            (Some("8001"), &[(1, 8001)], &[]),
            (Some(" 8001 , 8000 "), &[(0, 8000), (1, 8001)], &[]),
            (Some(""), &[], &[]),
            (Some("8000,9,x"), &[(0, 8000)], &["9", "x"]),
            (Some("70000"), &[], &["70000"]),
        ];
        for (annotation, active, unknown) in rows {
            let annotations = annotation.map(|a| serde_json::json!({ACTIVE_PORTS: a, "other": "x"}));
            let pod = pod(serde_json::json!({"metadata": {"name": "p", "annotations": annotations}}));
            let got = pod.active_ports(&[8000, 8001]);
            assert_eq!(
                (got.0.as_slice(), got.1.as_slice()),
                (active, unknown),
                "{annotation:?}"
            );
        }
    }

    #[test]
    fn an_address_that_is_missing_or_wrong_is_said() {
        let at = |ip: &str| pod(serde_json::json!({"metadata": {}, "status": {"podIP": ip}})).address();
        assert_eq!(at("10.0.0.1").unwrap(), IpAddr::from([10, 0, 0, 1]));
        assert!(at("fd00::1").unwrap().is_ipv6());
        assert!(at("").unwrap_err().contains("no status.podIP"));
        assert!(at("10.0.0").unwrap_err().contains("not an IP address"));
    }
}
