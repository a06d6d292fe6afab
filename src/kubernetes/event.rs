//! Kubernetes events about leadership, for `kubectl get events`. Best effort: nothing depends on them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::telemetry::logging::verbose;

/// Longest wait for the server to take an event.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says that the leader of the lease has changed: `message` is the sentence.
pub async fn leader_election(
    client: &Client,
    namespace: &str,
    lease: &str,
    uid: Option<String>,
    message: String,
) {
    let now = Time(Timestamp::now());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{lease}.{}", uuid::Uuid::new_v4().simple())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("coordination.k8s.io/v1".into()),
            kind: Some("Lease".into()),
            name: Some(lease.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid,
            ..ObjectReference::default()
        },
        reason: Some("LeaderElection".into()),
        message: Some(message),
        type_: Some("Normal".into()),
        source: Some(EventSource {
            component: Some("endpoint-picker".into()),
            ..EventSource::default()
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let posted = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &event)).await;
    match posted {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => verbose!(2, %error, "Event not recorded"),
        Err(_) => verbose!(2, "Event not recorded: the API server did not answer"),
    }
}
