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
    /// Help text, without a full stop at its end.
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
        "[ALPHA] Requests accepted and scheduled, by model asked for and model sent");
    REQUEST_ERRORS = counter("inference_objective_request_error_total",
        &["model_name", "target_model_name", "error_code"],
        "[ALPHA] Requests that ended in an error, by model and error code");
    REQUEST_SECONDS = histogram("inference_objective_request_duration_seconds", &MODEL,
        "[ALPHA] Seconds from the request's headers to the end of the response");
    REQUEST_BYTES = histogram("inference_objective_request_sizes", &MODEL,
        "[ALPHA] Bytes of request bodies as forwarded");
    RESPONSE_BYTES = histogram("inference_objective_response_sizes", &MODEL,
        "[ALPHA] Bytes of response bodies");
    INPUT_TOKENS = histogram("inference_objective_input_tokens", &MODEL,
        "[ALPHA] Prompt tokens a request used, as the model server counted them");
    OUTPUT_TOKENS = histogram("inference_objective_output_tokens", &MODEL,
        "[ALPHA] Tokens a request was answered with, as the model server counted them");
    CACHED_TOKENS = histogram("inference_objective_prompt_cached_tokens", &MODEL,
        "[ALPHA] Prompt tokens the model server took from its prefix cache");
    RUNNING = gauge("inference_objective_running_requests", &["model_name"],
        "[ALPHA] Requests sent to a model server and not yet ended");
    SECONDS_PER_TOKEN = histogram("inference_objective_normalized_time_per_output_token_seconds", &MODEL,
        "[ALPHA] Seconds of a streamed request divided by its output tokens");

    POOL_KV = gauge("inference_pool_average_kv_cache_utilization", &["name"],
        "[ALPHA] Mean KV cache utilization over the endpoints with fresh metrics, 0 to 1");
    POOL_QUEUE = gauge("inference_pool_average_queue_size", &["name"],
        "[ALPHA] Mean number of waiting requests over the endpoints with fresh metrics");
    POOL_READY = gauge("inference_pool_ready_pods", &["name"],
        "[ALPHA] Endpoints of the pool with fresh metrics");
    POD_QUEUE = gauge("inference_pool_per_pod_queue_size", &["name", "model_server_pod"],
        "[ALPHA] Waiting requests of every endpoint, stale ones included");

    SCHEDULING_SECONDS = histogram("inference_extension_scheduler_e2e_duration_seconds", &[],
        "[ALPHA] Seconds of one scheduling decision");
    SCHEDULING_ATTEMPTS = counter("inference_extension_scheduler_attempts_total", &["status"],
        "[ALPHA] Scheduling decisions, by success and failure");
    PLUGIN_SECONDS = histogram("inference_extension_plugin_duration_seconds", &PLUGIN,
        "[ALPHA] Seconds of one run of a plugin at an extension point");
    PREFIX_SIZE = gauge("inference_extension_prefix_indexer_size", &[],
        "[ALPHA] Entries in the prefix index, all endpoints together");
    PREFIX_HIT_RATIO = histogram("inference_extension_prefix_indexer_hit_ratio", &[],
        "[ALPHA] Share of a prompt's blocks found in the prefix index");
    PREFIX_HIT_BYTES = histogram("inference_extension_prefix_indexer_hit_bytes", &[],
        "[ALPHA] Bytes of a prompt found in the prefix index");
    INFO = gauge("inference_extension_info", &["commit", "build_ref"],
        "[ALPHA] Always 1, labelled with the build that runs");
    REWRITES = counter("inference_extension_model_rewrite_decisions_total", &REWRITE,
        "[ALPHA] Model names replaced by a rewrite rule");
    CONFIG_INFO = gauge("inference_extension_config_info", &["hash"],
        "[ALPHA] Always 1, labelled with the hash of the configuration in force");
    CONFIG_RELOAD_GOOD = gauge("inference_extension_config_last_reload_successful", &[],
        "[ALPHA] 1 when the configuration file was accepted as it is, 0 while its last change is refused");
    CONFIG_RELOAD_TIME = gauge("inference_extension_config_last_reload_success_timestamp_seconds", &[],
        "[ALPHA] When a configuration was last accepted, in seconds since the Unix epoch");
    CERTIFICATE_RELOADS = counter("inference_extension_certificate_reloads_total", &["result"],
        "[ALPHA] Changes of the certificate files while running, by success and failure");
    TRACE_SPANS = counter("inference_extension_trace_spans_total", &["result"],
        "[ALPHA] Ended spans: exported to the collector, dropped because the queue was full, or failed to be sent");

    CONNECTIONS = gauge("inference_extension_connections", &["port"],
        "[ALPHA] Open connections of the ext_proc, health and metrics ports");
    CONNECTION_FAILURES = counter("inference_extension_connection_failures_total", &["port", "reason"],
        "[ALPHA] Connections that failed: handshake, silent, protocol, io, evicted for a newer one, or refused");

    PROCESS_CPU = counter("process_cpu_seconds_total", &[],
        "Seconds of CPU the process used, user and system");
    PROCESS_RESIDENT = gauge("process_resident_memory_bytes", &[],
        "Resident memory of the process in bytes");
    PROCESS_VIRTUAL = gauge("process_virtual_memory_bytes", &[],
        "Virtual memory of the process in bytes");
    PROCESS_VIRTUAL_MAX = gauge("process_virtual_memory_max_bytes", &[],
        "Limit of virtual memory in bytes, -1 without a limit");
    PROCESS_OPEN_FDS = gauge("process_open_fds", &[],
        "Open file descriptors");
    PROCESS_MAX_FDS = gauge("process_max_fds", &[],
        "Limit of open file descriptors");
    PROCESS_START = gauge("process_start_time_seconds", &[],
        "Start of the process in seconds since the Unix epoch");
    PROCESS_RECEIVED = counter("process_network_receive_bytes_total", &[],
        "Bytes received over the network, of all processes of the network namespace");
    PROCESS_SENT = counter("process_network_transmit_bytes_total", &[],
        "Bytes sent over the network, of all processes of the network namespace");
}
