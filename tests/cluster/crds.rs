//! The CRDs at work in a real API server: what they refuse is refused there, too.

use serde_json::{Value, json};

use crate::server::{ApiServer, place};
use crate::support::refused;

/// Creates `object` strictly, without keeping it; status and what is said.
fn created(server: &ApiServer, object: &Value) -> (u16, String) {
    let place = place(object, server.namespace());
    let all = place.rsplit_once('/').unwrap().0;
    let (status, answer) = server.process.admin.try_create(all, object);
    (status, answer["message"].to_string())
}

#[test]
fn what_the_crds_refuse_is_refused_by_the_server() {
    let server = ApiServer::start();
    let rows = [refused::pools(), refused::others()].concat();
    assert!(rows.len() > 15);
    for (object, word) in rows {
        let (status, said) = created(&server, &object);
        assert!([400, 422].contains(&status), "{word}: {status}: {said}: {object}");
    }
}

#[test]
fn a_pool_whose_picker_is_no_service_needs_no_port() {
    let server = ApiServer::start();
    let picker = |reference: Value| refused::pool(move |s| s["endpointPickerRef"] = reference);
    for pool in [
        refused::pool(|_| {}),
        picker(json!({"name": "epp", "kind": "Deployment"})),
    ] {
        let (status, said) = created(&server, &pool);
        assert_eq!(status, 201, "{said}");
    }
}
