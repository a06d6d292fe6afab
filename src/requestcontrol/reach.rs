//! What a response says about the endpoint that was asked: a reply that the proxy made because it could not connect, an
//! answer by another endpoint after a retry, a server error.

use std::time::Instant;

use crate::model::endpoint::Endpoint;
use crate::model::headers::Headers;
use crate::model::health::{Evidence, HealthPolicy, Standing};
use crate::model::metadata::Metadata;

/// How Envoy begins the body of its own reply when it got no response.
const NO_RESPONSE: &[u8] = b"upstream connect error or disconnect/reset before headers";
/// As much of a reply as is looked at.
const LOOKED_AT: usize = 512;

/// Takes in the head of a response for a request that was sent to `target`. True: it may be the proxy's own reply, and the
/// beginning of its body is wanted by [`reply_body`].
pub fn response_head(
    target: &Endpoint,
    status: Option<&str>,
    response: &Headers,
    metadata: &Metadata,
    policy: HealthPolicy,
) -> bool {
    let served = metadata.served.as_deref();
    if served.is_some_and(|s| !s.is_empty() && s != &*target.authority) {
        // The proxy went on to another one: a retry after a failure to connect.
        proxy_failed(target, policy);
        return false;
    }
    let plain = |kind: &str| kind.starts_with("text/plain");
    if status == Some("503") && response.get("content-type").is_some_and(plain) {
        return true;
    }
    if policy.max_server_errors > 0 {
        let error = status.is_some_and(|s| s.starts_with('5'));
        let evidence = if error {
            Evidence::ServerError
        } else {
            Evidence::Served
        };
        observe(target, evidence, policy);
    }
    false
}

/// Takes in the beginning of a body announced by [`response_head`].
pub fn reply_body(target: &Endpoint, body: &[u8], policy: HealthPolicy) {
    if !body.starts_with(NO_RESPONSE) {
        if policy.max_server_errors > 0 {
            observe(target, Evidence::ServerError, policy);
        }
        return;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(LOOKED_AT)]);
    // A connection that broke under a request says less: only a probe can tell whether the endpoint is there.
    if [
        "remote connection failure",
        "reset reason: connection failure",
        "connection timeout",
    ]
    .iter()
    .any(|reason| text.contains(reason))
    {
        proxy_failed(target, policy);
    } else {
        target.health.want_probe();
    }
}

fn proxy_failed(target: &Endpoint, policy: HealthPolicy) {
    observe(target, Evidence::ProxyRefused, policy);
    target.health.want_probe();
}

fn observe(target: &Endpoint, evidence: Evidence, policy: HealthPolicy) {
    let Some(change) = target.health.observe(evidence, Instant::now(), policy) else {
        return;
    };
    if change.to == Standing::Down {
        tracing::warn!(
            endpoint = &*target.spec.name,
            address = &*target.authority,
            reason = evidence.name(),
            "Endpoint is down, it is left alone"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::endpoint::EndpointSpec;

    fn endpoint() -> Endpoint {
        let spec = EndpointSpec {
            namespace: "n".into(),
            name: "e".into(),
            address: ([10, 0, 0, 1], 80).into(),
            metrics_address: None,
            metrics_path: None,
            labels: Default::default(),
        };
        Endpoint::new(spec, 1, 0)
    }

    fn headers<const N: usize>(pairs: [(&'static str, &'static str); N]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in pairs {
            headers.push(name.into(), value.into());
        }
        headers
    }

    fn standing(body: &str, policy: HealthPolicy) -> (Standing, bool) {
        let target = endpoint();
        let headers = headers([(":status", "503"), ("content-type", "text/plain")]);
        let metadata = Metadata::default();
        assert!(response_head(&target, Some("503"), &headers, &metadata, policy));
        reply_body(&target, body.as_bytes(), policy);
        let context = std::task::Context::from_waker(std::task::Waker::noop());
        (
            target.health.standing(),
            target.health.poll_wanted(&context).is_ready(),
        )
    }

    #[test]
    fn a_reply_of_the_proxy_that_could_not_connect_makes_suspect_and_any_other_of_its_failures_wants_a_probe()
    {
        let policy = HealthPolicy::default();
        let start = "upstream connect error or disconnect/reset before headers. ";
        for (end, want) in [
            (
                "reset reason: remote connection failure, transport failure reason: refused",
                (Standing::Suspect, true),
            ),
            (
                "retried and the latest reset reason: remote connection failure",
                (Standing::Suspect, true),
            ),
            ("reset reason: connection failure", (Standing::Suspect, true)),
            ("reset reason: connection timeout", (Standing::Suspect, true)),
            ("reset reason: connection termination", (Standing::Healthy, true)),
            (
                "reset reason: local connection failure",
                (Standing::Healthy, true),
            ),
        ] {
            assert_eq!(standing(&format!("{start}{end}"), policy), want, "{end}");
        }
        assert_eq!(
            standing("no: remote connection failure", policy),
            (Standing::Healthy, false)
        );
        let strict = HealthPolicy {
            max_server_errors: 1,
            ..policy
        };
        assert_eq!(standing("the model is loading", strict).0, Standing::Down);
    }

    #[test]
    fn an_answer_by_another_endpoint_makes_the_one_that_was_asked_suspect() {
        for (served, want) in [
            (None, Standing::Healthy),
            (Some(""), Standing::Healthy),
            (Some("10.0.0.1:80"), Standing::Healthy),
            (Some("10.0.0.2:80"), Standing::Suspect),
        ] {
            let target = endpoint();
            let metadata = Metadata {
                served: served.map(Into::into),
                ..Metadata::default()
            };
            let headers = headers([(":status", "200")]);
            assert!(!response_head(
                &target,
                Some("200"),
                &headers,
                &metadata,
                HealthPolicy::default()
            ));
            assert_eq!(target.health.standing(), want, "{served:?}");
        }
    }

    #[test]
    fn server_errors_count_only_where_asked_for() {
        for (limit, want) in [(0, Standing::Healthy), (2, Standing::Down)] {
            let target = endpoint();
            let policy = HealthPolicy {
                max_server_errors: limit,
                ..HealthPolicy::default()
            };
            let headers = headers([(":status", "500")]);
            for status in ["500", "200", "502", "500"] {
                response_head(&target, Some(status), &headers, &Metadata::default(), policy);
            }
            assert_eq!(target.health.standing(), want, "{limit}");
        }
    }
}
