//! `destination-endpoint-served-verifier`: tells a conformance test which endpoint served (plugins.md §3.5).

use std::sync::Arc;

use serde::Deserialize;

use crate::model::headers::CONFORMANCE_SERVED;
use crate::model::metadata::Metadata;
use crate::plugin::{Mutation, PluginType, ResponseHeaders, ResponseView, Roles};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "destination-endpoint-served-verifier",
    help: "For conformance tests: reports in a response header the endpoint that the proxy says has served.",
    params: &[],
    make: |_, params| {
        let Parameters {} = params.decode(&[])?;
        Ok(Roles {
            response_headers: Some(Arc::new(DestinationEndpointServed)),
            ..Roles::default()
        })
    },
};

#[derive(Default, Deserialize)]
struct Parameters {}

/// Sets `x-conformance-test-served-endpoint`.
pub struct DestinationEndpointServed;

impl ResponseHeaders for DestinationEndpointServed {
    fn response_headers(&self, response: &ResponseView<'_>, mutation: &mut Mutation) {
        let value = served(response.metadata);
        mutation.set.push((CONFORMANCE_SERVED.into(), value.into()));
    }
}

fn served(metadata: &Metadata) -> &str {
    if !metadata.lb_present {
        return "fail: missing envoy lb metadata";
    }
    let served = metadata.served.as_deref();
    served.unwrap_or("fail: missing destination endpoint served metadata")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::exchange::Picked;

    #[test]
    fn the_header_says_who_served_or_what_is_missing() {
        for (lb_present, served, expected) in [
            (false, None, "fail: missing envoy lb metadata"),
            (true, None, "fail: missing destination endpoint served metadata"),
            (true, Some("10.0.0.1:8000"), "10.0.0.1:8000"),
        ] {
            let metadata = Metadata {
                lb_present,
                served: served.map(str::to_owned),
                ..Metadata::default()
            };
            let mut mutation = Mutation::default();
            let view = ResponseView {
                picked: &Picked::default(),
                metadata: &metadata,
            };
            DestinationEndpointServed.response_headers(&view, &mut mutation);
            let header = (
                "x-conformance-test-served-endpoint".to_owned(),
                expected.to_owned(),
            );
            assert_eq!(mutation.set, [header]);
        }
    }
}
