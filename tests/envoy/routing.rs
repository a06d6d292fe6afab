//! Requests of every shape reach the right model server whole, and their responses the client.

use std::net::SocketAddr;
use std::process::Command;

use futures::StreamExt;

use crate::support::envoy::{Envoy, Kind, binary};
use crate::support::epp::{Epp, Options};
use crate::support::ports;
use crate::support::upstream::Upstream;

/// Everything that runs in one test.
pub struct Setup {
    pub upstreams: Vec<Upstream>,
    pub epp: Epp,
    pub envoy: Envoy,
    pub client: reqwest::Client,
}

/// `epp` as every end-to-end test runs it: TLS as by default, `ready` of the endpoints with fresh metrics, and each
/// response saying which endpoint the proxy reports to have served.
pub async fn start_epp(endpoints: &[SocketAddr], ready: usize) -> Epp {
    let mut options = Options::hermetic(endpoints).flag("--secure-serving=true");
    options
        .plugins
        .push_str("- type: destination-endpoint-served-verifier\n");
    Epp::start(&options, ready).await
}

impl Setup {
    /// Two model servers, the second one idle and the first one busy; `epp`; Envoy.
    pub async fn start(kind: Kind) -> Self {
        let port = ports::free();
        let upstreams = vec![
            Upstream::start(1, port, 50).await,
            Upstream::start(2, port, 0).await,
        ];
        let addresses: Vec<SocketAddr> = upstreams.iter().map(|u| u.address).collect();
        let setup = Self::over(kind, &addresses, 2).await;
        Setup { upstreams, ..setup }
    }

    /// `epp` and Envoy over `pool`, of which `ready` have metrics.
    pub async fn over(kind: Kind, pool: &[SocketAddr], ready: usize) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let epp = start_epp(pool, ready).await;
        let envoy = Envoy::start(kind, epp.grpc, pool).await;
        Setup {
            upstreams: Vec::new(),
            epp,
            envoy,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.envoy.traffic)
    }

    /// A POST of a completion request, not yet sent.
    pub fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.client.post(self.url("/v1/completions")).body(body)
    }
}

pub fn completion(prompt: &str) -> String {
    serde_json::json!({"model": "m", "prompt": prompt}).to_string()
}

#[test]
fn the_shipped_configurations_are_valid() {
    for kind in Kind::ALL {
        let output = Command::new(binary())
            .args(["--mode", "validate", "-c"])
            .arg(kind.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{kind:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn small_and_large_bodies_arrive_whole_at_the_better_endpoint() {
    for kind in Kind::ALL {
        let mut setup = Setup::start(kind).await;
        for size in [5, 2_000, 200_000, 3_000_000] {
            let body = completion(&"x".repeat(size));
            let response = setup
                .client
                .post(setup.url("/v1/completions"))
                .body(body.clone())
                .send()
                .await
                .unwrap();
            assert_eq!(response.status(), 200, "{kind:?} {size}");
            assert_eq!(response.headers()["x-went-into-resp-headers"], "true");
            let text = response.text().await.unwrap();
            assert!(
                text.contains(&format!("\"received\":{}", body.len())),
                "{kind:?} {size}: {text}"
            );
            assert!(
                setup.upstreams[1].seen(|s| s.bodies.last().unwrap() == body.as_bytes()),
                "{kind:?} {size}"
            );
        }
        assert_eq!(
            (setup.upstreams[0].count(), setup.upstreams[1].count()),
            (0, 4),
            "{kind:?}"
        );
        let labels = "{model_name=\"m\",target_model_name=\"m\"}";
        setup
            .epp
            .eventually(&format!("inference_objective_request_total{labels} 4"))
            .await;
        setup
            .epp
            .eventually(&format!("inference_objective_input_tokens_sum{labels} 12"))
            .await;
    }
}

#[tokio::test]
async fn a_stream_of_events_arrives_event_by_event() {
    for kind in Kind::ALL {
        let setup = Setup::start(kind).await;
        let body = serde_json::json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        let response = setup
            .client
            .post(setup.url("/v1/chat/completions"))
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let mut text = String::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        assert_eq!(text.matches("data: ").count(), 101, "{kind:?}");
        assert!(text.ends_with("data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn a_get_goes_to_a_model_server_and_a_bad_request_comes_back() {
    for kind in Kind::ALL {
        let setup = Setup::start(kind).await;
        let response = setup.client.get(setup.url("/v1/models")).send().await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                response.text().await.unwrap().contains("list")
            ),
            (200, true)
        );
        let response = setup
            .client
            .post(setup.url("/v1/completions"))
            .body("nonsense")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 400, "{kind:?}");
        let text = response.text().await.unwrap();
        assert_eq!(
            text,
            "inference gateway: BadRequest - Error unmarshaling request body"
        );
    }
}

#[tokio::test]
async fn a_changed_model_name_reaches_the_model_server() {
    for kind in Kind::ALL {
        let setup = Setup::start(kind).await;
        let request = setup
            .client
            .post(setup.url("/v1/completions"))
            .body(completion("p"));
        let response = request
            .header("x-gateway-model-name-rewrite", "another-model")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let seen = setup.upstreams[1].seen(|s| String::from_utf8(s.bodies[0].to_vec()).unwrap());
        assert_eq!(seen, completion("p").replace("\"m\"", "\"another-model\""));
        setup.upstreams[1].seen(|s| assert!(!s.headers[0].contains_key("x-gateway-model-name-rewrite")));
    }
}

#[tokio::test]
async fn epp_is_told_who_served_where_envoy_knows_it() {
    for kind in Kind::ALL {
        let setup = Setup::start(kind).await;
        let response = setup.post(completion("p")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{kind:?}");
        let told = response.headers()["x-conformance-test-served-endpoint"]
            .to_str()
            .unwrap();
        match kind {
            Kind::OverrideHost => assert_eq!(told, setup.upstreams[1].address.to_string()),
            // An ORIGINAL_DST cluster reports nothing: the destination was in the header or nowhere.
            Kind::OriginalDst => assert!(told.starts_with("fail: missing"), "{told}"),
        }
    }
}

#[tokio::test]
async fn a_dead_model_server_is_replaced_by_one_that_answers() {
    // `epp` knows only the dead one and picks it. With override_host, Envoy then tries another one that it knows.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let port = ports::free();
    let alive = Upstream::start(1, port, 0).await;
    let dead = SocketAddr::from(([127, 0, 0, 2], port));
    let epp = start_epp(&[dead], 0).await;
    let envoy = Envoy::start(Kind::OverrideHost, epp.grpc, &[dead, alive.address]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v1/completions", envoy.traffic);
    let response = client.post(url).body(completion("p")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["x-conformance-test-served-endpoint"],
        alive.address.to_string()
    );
    assert_eq!(alive.count(), 1);
}
