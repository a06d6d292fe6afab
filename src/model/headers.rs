//! Header names of the protocol, and a list of headers as it came.
//! Both families of names are accepted, the newer (`x-llm-d-*`) wins.

use bytes::Bytes;

/// Where the request goes; also the dynamic-metadata key.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Where the request went, told back by the proxy in metadata.
pub const DESTINATION_SERVED: &str = "x-gateway-destination-endpoint-served";
/// Metadata key of the subset hint.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// Metadata namespace of the destination.
pub const LB_NAMESPACE: &str = "envoy.lb";
/// Metadata namespace of the subset hint.
pub const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";
/// Fairness id, newest name first.
pub const FAIRNESS_ID: [&str; 2] = ["x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"];
/// Name of the InferenceObjective, newest name first.
pub const OBJECTIVE: [&str; 2] = ["x-llm-d-inference-objective", "x-gateway-inference-objective"];
/// Target model chosen by the client, newest name first.
pub const MODEL_REWRITE: [&str; 2] = ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"];
/// Request id.
pub const REQUEST_ID: &str = "x-request-id";
/// Fairness id of a request that brings none.
pub const DEFAULT_FAIRNESS_ID: &str = "default-flow";
/// Path headers, first non-empty wins.
pub const PATHS: [&str; 3] = [":path", "x-original-path", "x-forwarded-path"];
/// Marks a response that went through the picker.
pub const WENT_INTO_RESPONSE: &str = "x-went-into-resp-headers";
/// Why a request was dropped.
pub const DROP_REASON: &str = "x-llm-d-request-dropped-reason";
/// Conformance: endpoints to choose among.
pub const TEST_SELECTION: &str = "test-epp-endpoint-selection";
/// Conformance: the endpoint that served.
pub const CONFORMANCE_SERVED: &str = "x-conformance-test-served-endpoint";

/// Headers that clients must not bring to a model server through us; removed when present.
pub const SYSTEM_OWNED: [&str; 18] = [
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
    "x-llm-d-model-name-rewrite",
    "x-gateway-model-name-rewrite",
    "x-llm-d-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-llm-d-video-fps",
    "x-llm-d-video-duration-seconds",
    "x-llm-d-video-resolution",
    "x-gateway-destination-endpoint-subset",
    "x-gateway-destination-endpoint-served",
    "x-llm-d-request-dropped-reason",
    "x-prefiller-host-port",
    "x-data-parallel-host-port",
    "x-encoder-hosts-ports",
    "x-kv-cache-source-host-port",
];

/// One header: name as sent (proxies send lower case) and raw value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name.
    pub name: Bytes,
    /// Value.
    pub value: Bytes,
}

/// Headers in arrival order; names may repeat.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// Room for `n` headers.
    pub fn with_capacity(n: usize) -> Self {
        Headers(Vec::with_capacity(n))
    }

    /// Appends one header.
    pub fn push(&mut self, name: Bytes, value: Bytes) {
        self.0.push(Header { name, value });
    }

    /// Bytes of memory held, the buffer of names and values included.
    pub fn held(&self) -> usize {
        let text: usize = self.0.iter().map(|h| h.name.len() + h.value.len()).sum();
        text + self.0.capacity() * size_of::<Header>()
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = &Header> {
        self.0.iter()
    }

    /// The last value of `name` (ASCII case-insensitive), if it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|h| h.name.eq_ignore_ascii_case(name.as_bytes()))
            .and_then(|h| std::str::from_utf8(&h.value).ok())
    }

    /// The value of the first of `names` that is present, even when empty.
    pub fn first_of(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|n| self.get(n))
    }
}
