//! Every metric the picker shows: name on the page, type, labels and help text. `docs/user-guide/metrics.md`
//! is held equal to this list by a test.

use prometheus_client::metrics::MetricType;

/// One metric family.
#[derive(Debug)]
pub struct Spec {
    /// Name as a Prometheus page shows it; counters end in `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// Help text; the reference's where it has the metric.
    pub help: &'static str,
}

/// Labels of everything counted by model.
pub const MODEL: [&str; 2] = ["model_name", "target_model_name"];
/// Labels of the plugin timer.
pub const PLUGIN: [&str; 3] = ["extension_point", "plugin_type", "plugin_name"];
/// Labels of the rewrite counter.
pub const REWRITE: [&str; 3] = ["model_rewrite_name", "model_name", "target_model"];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    let kind = MetricType::Counter;
    Spec {
        name,
        kind,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    let kind = MetricType::Gauge;
    Spec {
        name,
        kind,
        labels,
        help,
    }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    let kind = MetricType::Histogram;
    Spec {
        name,
        kind,
        labels,
        help,
    }
}

macro_rules! catalogue {
    ($($id:ident = $kind:ident($name:literal, $labels:expr, $help:literal);)*) => {
        $(#[doc = concat!("`", $name, "`")] pub const $id: Spec = $kind($name, $labels, $help);)*
        /// The whole list.
        pub const ALL: &[&Spec] = &[$(&$id),*];
    };
}

catalogue! {
    REQUESTS = counter("inference_objective_request_total", &MODEL,
        "[ALPHA] Counter of inference objective requests broken out for each model and target model.");
    REQUEST_ERRORS = counter("inference_objective_request_error_total",
        &["model_name", "target_model_name", "error_code"],
        "[ALPHA] Counter of inference objective requests errors broken out for each model and target model.");
    REQUEST_SECONDS = histogram("inference_objective_request_duration_seconds", &MODEL,
        "[ALPHA] Inference objective response latency distribution in seconds for each model and target model.");
    REQUEST_BYTES = histogram("inference_objective_request_sizes", &MODEL,
        "[ALPHA] Inference objective requests size distribution in bytes for each model and target model.");
    RESPONSE_BYTES = histogram("inference_objective_response_sizes", &MODEL,
        "[ALPHA] Inference objective responses size distribution in bytes for each model and target model.");
    INPUT_TOKENS = histogram("inference_objective_input_tokens", &MODEL,
        "[ALPHA] Inference objective input token count distribution for requests in each model.");
    OUTPUT_TOKENS = histogram("inference_objective_output_tokens", &MODEL,
        "[ALPHA] Inference objective output token count distribution for requests in each model.");
    CACHED_TOKENS = histogram("inference_objective_prompt_cached_tokens", &MODEL,
        "[ALPHA] Inference objective prompt cached token count distribution for requests in each model.");
    RUNNING = gauge("inference_objective_running_requests", &["model_name"],
        "[ALPHA] Inference objective number of running requests in each model.");
    SECONDS_PER_TOKEN = histogram("inference_objective_normalized_time_per_output_token_seconds", &MODEL,
        "[ALPHA] Inference objective latency divided by number of output tokens in seconds for each model and target model.");

    POOL_KV = gauge("inference_pool_average_kv_cache_utilization", &["name"],
        "[ALPHA] The average kv cache utilization for an inference server pool.");
    POOL_QUEUE = gauge("inference_pool_average_queue_size", &["name"],
        "[ALPHA] The average number of requests pending in the model server queue.");
    POOL_READY = gauge("inference_pool_ready_pods", &["name"],
        "[ALPHA] The number of ready pods in the inference server pool.");
    POD_QUEUE = gauge("inference_pool_per_pod_queue_size", &["name", "model_server_pod"],
        "[ALPHA] The total number of requests pending in the model server queue for each underlying pod.");
    ENDPOINT_HEALTH = gauge("inference_extension_endpoint_health", &["name", "standing"],
        "[ALPHA] Endpoints of the pool by standing: healthy, suspect or down.");
    HEALTH_CHANGES = counter("inference_extension_endpoint_health_changes_total", &["name"],
        "[ALPHA] Changes of standing, all endpoints of the pool together.");

    SCHEDULING_SECONDS = histogram("inference_extension_scheduler_e2e_duration_seconds", &[],
        "[ALPHA] End-to-end scheduling latency distribution in seconds.");
    SCHEDULING_ATTEMPTS = counter("inference_extension_scheduler_attempts_total", &["status"],
        "[ALPHA] Total number of scheduling attempts.");
    PLUGIN_SECONDS = histogram("inference_extension_plugin_duration_seconds", &PLUGIN,
        "[ALPHA] Plugin processing latency distribution in seconds for each extension point, plugin type and plugin name.");
    PREFIX_SIZE = gauge("inference_extension_prefix_indexer_size", &[],
        "[ALPHA] Size of the prefix indexer.");
    PREFIX_DROPPED = counter("inference_extension_prefix_indexer_dropped_updates_total", &[],
        "[ALPHA] Updates of the prefix index that were dropped because too many waited.");
    PREFIX_HIT_RATIO = histogram("inference_extension_prefix_indexer_hit_ratio", &[],
        "[ALPHA] Ratio of prefix length matched to total prefix length in the cache lookup.");
    PREFIX_HIT_BYTES = histogram("inference_extension_prefix_indexer_hit_bytes", &[],
        "[ALPHA] Length of the prefix match in number of bytes in the cache lookup.");
    INFO = gauge("inference_extension_info", &["commit", "build_ref"],
        "[ALPHA] General information of the current build of Inference Extension.");
    REWRITES = counter("inference_extension_model_rewrite_decisions_total", &REWRITE,
        "[ALPHA] Total number of inference model rewrite decisions.");
    CONFIG_INFO = gauge("inference_extension_config_info", &["hash"],
        "[ALPHA] Always 1, labelled with the hash of the configuration in force.");
    CONFIG_RELOAD_GOOD = gauge("inference_extension_config_last_reload_successful", &[],
        "[ALPHA] 1 when the configuration file was accepted as it is, 0 while its last change is refused.");
    CONFIG_RELOAD_TIME = gauge("inference_extension_config_last_reload_success_timestamp_seconds", &[],
        "[ALPHA] When a configuration was last accepted, in seconds since the Unix epoch.");
    API_SERVER_AGE = gauge("inference_extension_api_server_last_answer_age_seconds", &[],
        "[ALPHA] Seconds since the API server last answered or told of a change; it is asked every 5 seconds when it is quiet.");
    CERTIFICATE_RELOADS = counter("inference_extension_certificate_reloads_total", &["result"],
        "[ALPHA] Changes of the certificate files while running, by success and failure.");
    TRACE_SPANS = counter("inference_extension_trace_spans_total", &["result"],
        "[ALPHA] Ended spans: exported to the collector, dropped because the queue was full, or failed to be sent.");

    CONNECTIONS = gauge("inference_extension_connections", &["port"],
        "[ALPHA] Open connections of the ext_proc, health and metrics ports.");
    CONNECTION_FAILURES = counter("inference_extension_connection_failures_total", &["port", "reason"],
        "[ALPHA] Connections that failed: handshake, silent, protocol, io, evicted for a newer one, or refused.");
    BUFFERED_BYTES = gauge("inference_extension_buffered_bytes", &[],
        "[ALPHA] Bytes held for requests and answers under way, reserved in blocks of 16 KiB.");
    BUFFERED_LIMIT = gauge("inference_extension_buffered_bytes_limit", &[],
        "[ALPHA] Most bytes held for requests and answers under way before the oldest unfinished stream is ended.");
    STREAMS_ENDED = counter("inference_extension_streams_ended_early_total", &["reason"],
        "[ALPHA] Streams ended because buffers were full, the request body was late or nothing came or went.");

    PROCESS_CPU = counter("process_cpu_seconds_total", &[],
        "Total user and system CPU time spent in seconds.");
    PROCESS_RESIDENT = gauge("process_resident_memory_bytes", &[],
        "Resident memory size in bytes.");
    PROCESS_VIRTUAL = gauge("process_virtual_memory_bytes", &[],
        "Virtual memory size in bytes.");
    PROCESS_VIRTUAL_MAX = gauge("process_virtual_memory_max_bytes", &[],
        "Maximum amount of virtual memory available in bytes.");
    PROCESS_OPEN_FDS = gauge("process_open_fds", &[],
        "Number of open file descriptors.");
    PROCESS_MAX_FDS = gauge("process_max_fds", &[],
        "Maximum number of open file descriptors.");
    PROCESS_START = gauge("process_start_time_seconds", &[],
        "Start time of the process since unix epoch in seconds.");
    PROCESS_RECEIVED = counter("process_network_receive_bytes_total", &[],
        "Number of bytes received by the process over the network.");
    PROCESS_SENT = counter("process_network_transmit_bytes_total", &[],
        "Number of bytes sent by the process over the network.");
}
