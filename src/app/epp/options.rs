//! The flags of `epp` as typed: names, types and defaults of runtime.md §1.1 ("main" column), and ours.

use crate::base::flags::{Flag, Kind, flag, ours};

/// Name of the program where argv has none.
pub const PROGRAM: &str = "epp";

const POOL: &str = "Pool";
const SERVERS: &str = "Servers";
const SCRAPING: &str = "Metrics of the model servers";
const HEALTH: &str = "Health of the model servers";
const CONFIGURATION: &str = "Configuration";
const OBSERVING: &str = "Logs, metrics, traces";
const LIMITS: &str = "Limits";

const fn metric(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    let deprecated = Some("use engineConfigs in EndpointPickerConfig instead");
    Flag {
        deprecated,
        ..flag(name, Kind::Text, default, SCRAPING, help)
    }
}

/// The five metric flags: refused unless `--compat-version v0.5.0` (decision 2).
pub const METRIC_FLAGS: [&str; 5] = [
    "total-queued-requests-metric",
    "total-running-requests-metric",
    "kv-cache-usage-percentage-metric",
    "lora-info-metric",
    "cache-info-metric",
];

/// Every flag.
pub static FLAGS: &[Flag] = &[
    flag(
        "pool-name",
        Kind::Text,
        "",
        POOL,
        "name of the InferencePool; with endpoints from a file, the pool's name in metrics",
    ),
    flag(
        "pool-namespace",
        Kind::Text,
        "",
        POOL,
        "namespace of the pool; else $NAMESPACE, else default",
    ),
    flag(
        "pool-group",
        Kind::Text,
        "inference.networking.k8s.io",
        POOL,
        "API group of the InferencePool",
    ),
    flag(
        "endpoint-selector",
        Kind::Text,
        "",
        POOL,
        "labels of the model servers' pods, k=v,k2=v2, instead of a pool",
    ),
    flag(
        "endpoint-target-ports",
        Kind::IntList,
        "",
        POOL,
        "1 to 8 ports of the model servers, with --endpoint-selector",
    ),
    flag(
        "disable-endpoint-subset-filter",
        Kind::Bool,
        "false",
        POOL,
        "ignore the proxy's subset hint",
    ),
    flag(
        "ha-enable-leader-election",
        Kind::Bool,
        "false",
        POOL,
        "serve on one replica, keep the others ready to take over",
    ),
    flag(
        "grpc-port",
        Kind::Int,
        "9002",
        SERVERS,
        "port of the ext_proc server",
    ),
    flag(
        "grpc-health-port",
        Kind::Int,
        "9003",
        SERVERS,
        "port of the gRPC health server",
    ),
    flag(
        "metrics-port",
        Kind::Int,
        "9090",
        SERVERS,
        "port of the metrics page",
    ),
    flag(
        "metrics-endpoint-auth",
        Kind::Bool,
        "true",
        SERVERS,
        "ask the cluster who may read metrics; without a cluster the page is served on loopback only",
    ),
    flag(
        "health-checking",
        Kind::Bool,
        "false",
        SERVERS,
        "serve gRPC health on the ext_proc port too",
    ),
    flag(
        "secure-serving",
        Kind::Bool,
        "true",
        SERVERS,
        "TLS on the ext_proc port, with a self-signed certificate unless --cert-path is set",
    ),
    flag(
        "cert-path",
        Kind::Text,
        "",
        SERVERS,
        "folder with tls.crt and tls.key for the ext_proc port",
    ),
    flag(
        "enable-cert-reload",
        Kind::Bool,
        "false",
        SERVERS,
        "follow changes of the certificate folder",
    ),
    ours(flag(
        "client-ca-file",
        Kind::Text,
        "",
        SERVERS,
        "file with the authorities of client certificates; set, clients of the ext_proc port must show one",
    )),
    ours(flag(
        "tls-min-version",
        Kind::Text,
        "1.2",
        SERVERS,
        "oldest TLS version of the ext_proc port, 1.2 or 1.3",
    )),
    ours(flag(
        "tls-cipher-suites",
        Kind::Text,
        "",
        SERVERS,
        "cipher suites of the ext_proc port by their IANA names, comma-separated; empty is every one of the library",
    )),
    ours(flag(
        "bind-address",
        Kind::Text,
        "::",
        SERVERS,
        "address all servers listen on; :: is every address, IPv4 and IPv6",
    )),
    ours(flag(
        "grpc-bind-address",
        Kind::Text,
        "",
        SERVERS,
        "address the ext_proc port listens on; empty is that of --bind-address",
    )),
    ours(flag(
        "threads",
        Kind::Int,
        "0",
        SERVERS,
        "ext_proc worker threads; 0 is one per core",
    )),
    ours(flag(
        "drain-timeout",
        Kind::Duration,
        "30s",
        SERVERS,
        "longest time between the first signal and the end: new requests are served for the first half of it, open streams \
         may finish for all of it",
    )),
    ours(flag(
        "drain-quiet-period",
        Kind::Duration,
        "5s",
        SERVERS,
        "time without an open stream after which a drain is over early",
    )),
    flag(
        "config-file",
        Kind::Text,
        "",
        CONFIGURATION,
        "file with the EndpointPickerConfig",
    ),
    flag(
        "config-text",
        Kind::Text,
        "",
        CONFIGURATION,
        "the EndpointPickerConfig itself, instead of a file",
    ),
    ours(flag(
        "enable-config-reload",
        Kind::Bool,
        "true",
        CONFIGURATION,
        "follow changes of --config-file: check them and apply them without dropping a stream",
    )),
    ours(flag(
        "compat-version",
        Kind::Text,
        "main",
        CONFIGURATION,
        "main, or v0.5.0 to accept a command line of that version",
    )),
    flag(
        "refresh-metrics-interval",
        Kind::Duration,
        "50ms",
        SCRAPING,
        "time between scrapes of an endpoint",
    ),
    flag(
        "refresh-prometheus-metrics-interval",
        Kind::Duration,
        "5s",
        SCRAPING,
        "time between refreshes of the pool's gauges",
    ),
    flag(
        "metrics-staleness-threshold",
        Kind::Duration,
        "2s",
        SCRAPING,
        "age from which a sample no longer counts in the pool's gauges",
    ),
    flag(
        "model-server-metrics-scheme",
        Kind::Text,
        "http",
        SCRAPING,
        "http or https",
    ),
    flag(
        "model-server-metrics-path",
        Kind::Text,
        "/metrics",
        SCRAPING,
        "path of the metrics page",
    ),
    Flag {
        deprecated: Some("This flag is deprecated and will be removed in a future release."),
        ..flag(
            "model-server-metrics-port",
            Kind::Int,
            "0",
            SCRAPING,
            "port of the metrics page, where the pool has one target port",
        )
    },
    flag(
        "model-server-metrics-https-insecure-skip-verify",
        Kind::Bool,
        "true",
        SCRAPING,
        "do not verify the model servers' certificates",
    ),
    metric(
        "total-queued-requests-metric",
        "vllm:num_requests_waiting",
        "gauge of waiting requests",
    ),
    metric(
        "total-running-requests-metric",
        "vllm:num_requests_running",
        "gauge of running requests",
    ),
    metric(
        "kv-cache-usage-percentage-metric",
        "vllm:kv_cache_usage_perc",
        "gauge of KV-cache use, 0 to 1",
    ),
    metric(
        "lora-info-metric",
        "vllm:lora_requests_info",
        "LoRA adapters, in labels",
    ),
    metric(
        "cache-info-metric",
        "vllm:cache_config_info",
        "KV-cache configuration, in labels",
    ),
    ours(flag(
        "endpoint-health",
        Kind::Text,
        "on",
        HEALTH,
        "on: endpoints that cannot be reached are left alone while enough others can; off: all are used, as by the reference",
    )),
    ours(flag(
        "endpoint-health-panic-threshold",
        Kind::Int,
        "50",
        HEALTH,
        "percent; while fewer endpoints than that are healthy, health is ignored and all are used; 0: only when none is healthy",
    )),
    ours(flag(
        "endpoint-health-max-server-errors",
        Kind::Int,
        "0",
        HEALTH,
        "responses with a status of 500 or above in a row after which an endpoint is down for 10 seconds; 0: they do not count",
    )),
    ours(flag(
        "fallback-endpoints",
        Kind::Int,
        "0",
        HEALTH,
        "endpoints named after the picked one, by descending score, in the metadata that Envoy's override_host reads; for retries",
    )),
    ours(flag(
        "max-request-body-size",
        Kind::Int,
        "33554432",
        LIMITS,
        "bytes; a larger request body is answered with 413",
    )),
    ours(flag(
        "max-buffered-bytes",
        Kind::Int,
        "0",
        LIMITS,
        "bytes held for all requests and answers under way; beyond it the oldest unfinished ones are answered with 503; 0 is a fifth of the memory limit, 40 MiB to 1 GiB",
    )),
    ours(flag(
        "request-body-timeout",
        Kind::Duration,
        "60s",
        LIMITS,
        "how long a request body may take to come; a later one is answered with 408; 0 is no limit",
    )),
    ours(flag(
        "stream-idle-timeout",
        Kind::Duration,
        "1h",
        LIMITS,
        "how long a stream may be silent in both directions before it is ended; 0 is no limit",
    )),
    ours(flag(
        "grpc-max-recv-msg-size",
        Kind::Int,
        "4194304",
        LIMITS,
        "bytes; a larger ext_proc message ends its stream",
    )),
    ours(flag(
        "max-connections",
        Kind::Int,
        "1024",
        LIMITS,
        "connections to the ext_proc port, at most half of the process's file descriptors; at the limit an idle one is closed for a new one",
    )),
    ours(flag(
        "connection-idle-timeout",
        Kind::Duration,
        "15m",
        LIMITS,
        "a connection to the ext_proc port that had no open stream for so long is closed",
    )),
    Flag {
        short: Some('v'),
        ..flag(
            "v",
            Kind::Int,
            "0",
            OBSERVING,
            "log verbosity: 2 default detail, 3 verbose, 4 debug, 5 trace",
        )
    },
    flag(
        "zap-devel",
        Kind::Bool,
        "true",
        OBSERVING,
        "development logging: console lines, no sampling",
    ),
    flag("zap-encoder", Kind::Text, "", OBSERVING, "json or console"),
    flag(
        "zap-log-level",
        Kind::Text,
        "",
        OBSERVING,
        "debug, info, warn, error, panic, or a verbosity above 0; wins over -v",
    ),
    flag(
        "zap-stacktrace-level",
        Kind::Text,
        "",
        OBSERVING,
        "info, error or panic",
    ),
    flag(
        "zap-time-encoding",
        Kind::Text,
        "",
        OBSERVING,
        "epoch, millis, nano, nanos, iso8601, rfc3339 (default) or rfc3339nano",
    ),
    flag(
        "tracing",
        Kind::Bool,
        "true",
        OBSERVING,
        "OpenTelemetry tracing, where the OTEL variables ask for an exporter",
    ),
    ours(flag(
        "debug-decisions",
        Kind::Int,
        "200",
        OBSERVING,
        "decisions kept for the debug pages, 0 to 10000; 0 keeps none",
    )),
    flag(
        "enable-pprof",
        Kind::Bool,
        "true",
        OBSERVING,
        "profiling pages beside the metrics page",
    ),
];
