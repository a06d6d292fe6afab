//! The flags of `inference-sim` (simulator.md §1), and how lists are taken out of the command line (§1.1).

use std::ffi::OsString;

use crate::base::flags::{Flag, Kind, flag, ours};

const SERVING: &str = "Serving";
const LATENCY: &str = "Latency";
const CACHE: &str = "KV cache";
const LATER: &str = "Accepted, without effect yet";
const LOGGING: &str = "Logging (accepted for compatibility)";

/// Flags that take several words: `--x a b c` up to the next word that begins with `--`.
pub const LISTS: [&str; 5] = [
    "served-model-name",
    "lora-modules",
    "failure-types",
    "fake-metrics",
    "config",
];

/// Every flag. Durations are texts here: a bare number stands for milliseconds.
pub static FLAGS: &[Flag] = &[
    flag("model", Kind::Text, "", SERVING, "name of the model; required"),
    flag(
        "served-model-name",
        Kind::Text,
        "",
        SERVING,
        "names the model is served under (list)",
    ),
    flag("port", Kind::Int, "8000", SERVING, "port"),
    ours(flag(
        "bind-address",
        Kind::Text,
        "::",
        SERVING,
        "address to listen on; :: is every address",
    )),
    flag(
        "max-num-seqs",
        Kind::Int,
        "5",
        SERVING,
        "requests running at once",
    ),
    flag(
        "max-waiting-queue-length",
        Kind::Int,
        "1000",
        SERVING,
        "requests waiting at most; more are answered with 429",
    ),
    flag("max-loras", Kind::Int, "1", SERVING, "adapters loaded at once"),
    flag(
        "max-cpu-loras",
        Kind::Int,
        "0",
        SERVING,
        "adapters kept in memory; 0 is max-loras",
    ),
    flag(
        "max-model-len",
        Kind::Int,
        "1024",
        SERVING,
        "context length, tokens",
    ),
    flag(
        "lora-modules",
        Kind::Text,
        "",
        SERVING,
        "adapters, each a JSON object {name, path, base_model_name} (list)",
    ),
    flag("mode", Kind::Text, "random", SERVING, "random or echo"),
    flag(
        "seed",
        Kind::Int,
        "0",
        SERVING,
        "makes texts, lengths and latencies reproducible; now, when not given",
    ),
    flag(
        "enable-request-id-headers",
        Kind::Bool,
        "false",
        SERVING,
        "answer with x-request-id",
    ),
    ours(flag(
        "max-request-body-size-mb",
        Kind::Int,
        "64",
        SERVING,
        "largest request body, MiB (1 to 512)",
    )),
    flag(
        "config",
        Kind::Text,
        "",
        SERVING,
        "YAML file with the same names as the flags; flags win",
    ),
    flag(
        "time-to-first-token",
        Kind::Text,
        "0",
        LATENCY,
        "time to first token",
    ),
    flag(
        "time-to-first-token-std-dev",
        Kind::Text,
        "0",
        LATENCY,
        "its deviation, at most 30 %",
    ),
    flag(
        "inter-token-latency",
        Kind::Text,
        "0",
        LATENCY,
        "time between tokens",
    ),
    flag(
        "inter-token-latency-std-dev",
        Kind::Text,
        "0",
        LATENCY,
        "its deviation, at most 30 %",
    ),
    flag(
        "prefill-overhead",
        Kind::Text,
        "0",
        LATENCY,
        "fixed part of prefill, where time-to-first-token is 0",
    ),
    flag(
        "prefill-time-per-token",
        Kind::Text,
        "0",
        LATENCY,
        "prefill per token that is not cached",
    ),
    flag(
        "prefill-time-std-dev",
        Kind::Text,
        "0",
        LATENCY,
        "its deviation, at most 30 %",
    ),
    flag(
        "time-factor-under-load",
        Kind::Float,
        "1.0",
        LATENCY,
        "factor of all latencies when every slot is taken",
    ),
    flag(
        "latency-calculator",
        Kind::Text,
        "",
        LATENCY,
        "constant or per-token; by default, whichever is set",
    ),
    ours(flag(
        "latency-model",
        Kind::Text,
        "formula",
        LATENCY,
        "formula: every request by itself; batch-step: one loop of steps for all",
    )),
    flag(
        "max-num-batched-tokens",
        Kind::Int,
        "2048",
        LATENCY,
        "tokens of one step, with batch-step",
    ),
    ours(flag(
        "lora-load-time",
        Kind::Text,
        "0",
        LATENCY,
        "time to load an adapter that is not in memory",
    )),
    ours(flag(
        "ttft-metric",
        Kind::Text,
        "wall-clock",
        LATENCY,
        "what the metric of the time to first token is: wall-clock, with the queue; or sampled, as drawn",
    )),
    ours(flag(
        "kv-hash-algorithm",
        Kind::Text,
        "sha256-cbor",
        CACHE,
        "how blocks are hashed: sha256-cbor or fnv64",
    )),
    ours(flag(
        "kv-event-format",
        Kind::Text,
        "block",
        CACHE,
        "events: block (one a block), request (one a request, with tokens) or map (the same with names)",
    )),
    ours(flag(
        "kv-event-topic",
        Kind::Text,
        "ip",
        CACHE,
        "topic of events: ip (kv@IP@model) or ip-port (kv@IP:port@model)",
    )),
    flag(
        "enable-kvcache",
        Kind::Bool,
        "false",
        CACHE,
        "simulate the KV cache: repeated prefixes shorten prefill",
    ),
    flag("kv-cache-size", Kind::Int, "1024", CACHE, "blocks"),
    flag(
        "block-size",
        Kind::Int,
        "16",
        CACHE,
        "tokens per block: 8, 16, 32, 64 or 128",
    ),
    flag(
        "kv-cache-transfer-latency",
        Kind::Text,
        "0",
        LATENCY,
        "prefill and decode apart: transfer time",
    ),
    flag(
        "kv-cache-transfer-latency-std-dev",
        Kind::Text,
        "0",
        LATENCY,
        "its deviation",
    ),
    flag(
        "kv-cache-transfer-time-per-token",
        Kind::Text,
        "0",
        LATENCY,
        "transfer time per token",
    ),
    flag(
        "kv-cache-transfer-time-std-dev",
        Kind::Text,
        "0",
        LATENCY,
        "its deviation",
    ),
    flag(
        "global-cache-hit-threshold",
        Kind::Float,
        "0",
        CACHE,
        "finish requests with a lower hit rate",
    ),
    flag("min-tool-call-integer-param", Kind::Int, "0", LATER, "tool calls"),
    flag(
        "max-tool-call-integer-param",
        Kind::Int,
        "100",
        LATER,
        "tool calls",
    ),
    flag(
        "min-tool-call-number-param",
        Kind::Float,
        "0",
        LATER,
        "tool calls",
    ),
    flag(
        "max-tool-call-number-param",
        Kind::Float,
        "100",
        LATER,
        "tool calls",
    ),
    flag(
        "min-tool-call-array-param-length",
        Kind::Int,
        "1",
        LATER,
        "tool calls",
    ),
    flag(
        "max-tool-call-array-param-length",
        Kind::Int,
        "5",
        LATER,
        "tool calls",
    ),
    flag(
        "tool-call-not-required-param-probability",
        Kind::Int,
        "50",
        LATER,
        "tool calls",
    ),
    flag(
        "object-tool-call-not-required-field-probability",
        Kind::Int,
        "50",
        LATER,
        "tool calls",
    ),
    flag(
        "tokenizers-cache-dir",
        Kind::Text,
        "hf_cache",
        LATER,
        "folder of tokenizers",
    ),
    flag(
        "hash-seed",
        Kind::Text,
        "",
        CACHE,
        "seed of block hashes in events",
    ),
    flag(
        "zmq-endpoint",
        Kind::Text,
        "tcp://localhost:5557",
        CACHE,
        "where KV events go",
    ),
    flag(
        "zmq-max-connect-attempts",
        Kind::Int,
        "0",
        CACHE,
        "attempts to connect there",
    ),
    flag(
        "event-batch-size",
        Kind::Int,
        "16",
        CACHE,
        "KV events per message",
    ),
    flag(
        "data-parallel-size",
        Kind::Int,
        "1",
        LATER,
        "ranks in one process",
    ),
    flag(
        "data-parallel-rank",
        Kind::Int,
        "-1",
        LATER,
        "rank of this process",
    ),
    flag("dataset-path", Kind::Text, "", LATER, "answers from a dataset"),
    flag("dataset-url", Kind::Text, "", LATER, "where to get the dataset"),
    flag(
        "dataset-in-memory",
        Kind::Bool,
        "false",
        LATER,
        "keep the dataset in memory",
    ),
    flag(
        "failure-injection-rate",
        Kind::Int,
        "0",
        SERVING,
        "share of requests that fail, percent",
    ),
    flag(
        "failure-types",
        Kind::Text,
        "",
        SERVING,
        "kinds of failures (list)",
    ),
    flag(
        "fake-metrics",
        Kind::Text,
        "",
        SERVING,
        "metrics to show instead of the real ones, JSON (list)",
    ),
    flag(
        "enable-sleep-mode",
        Kind::Bool,
        "false",
        LATER,
        "sleep and wake_up",
    ),
    flag("ssl-certfile", Kind::Text, "", LATER, "TLS certificate"),
    flag("ssl-keyfile", Kind::Text, "", LATER, "TLS key"),
    flag(
        "self-signed-certs",
        Kind::Bool,
        "false",
        LATER,
        "TLS with a certificate of its own",
    ),
    flag("ec-transfer-config", Kind::Text, "", LOGGING, "vLLM's"),
    flag("mm-processor-kwargs", Kind::Text, "", LOGGING, "vLLM's"),
    flag("mm-encoder-only", Kind::Bool, "false", LOGGING, "vLLM's"),
    flag("enforce-eager", Kind::Bool, "false", LOGGING, "vLLM's"),
    flag("enable-prefix-caching", Kind::Bool, "false", LOGGING, "vLLM's"),
    flag("tensor-parallel-size", Kind::Int, "1", LOGGING, "vLLM's"),
    Flag {
        short: Some('v'),
        ..flag("v", Kind::Int, "2", LOGGING, "verbosity")
    },
    flag("logtostderr", Kind::Bool, "true", LOGGING, "klog's"),
    flag("alsologtostderr", Kind::Bool, "false", LOGGING, "klog's"),
    flag("stderrthreshold", Kind::Text, "2", LOGGING, "klog's"),
    flag("vmodule", Kind::Text, "", LOGGING, "klog's"),
];

/// Values of one list flag, in order; `None`: not given.
pub type List = Option<Vec<String>>;

/// Takes the list flags out of `args`: `--x=v` is one value, `--x v1 v2` all words up to the next `--`.
pub fn take_lists(args: Vec<OsString>) -> (Vec<OsString>, [List; LISTS.len()]) {
    let mut rest = Vec::with_capacity(args.len());
    let mut lists: [List; LISTS.len()] = Default::default();
    let mut taking: Option<usize> = None;
    for arg in args {
        let word = arg.to_str().unwrap_or("");
        if let Some(name) = word.strip_prefix("--") {
            let (name, value) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
            taking = LISTS.iter().position(|l| *l == name);
            if let Some(i) = taking {
                let values = value.filter(|v| !v.is_empty()).map(str::to_owned);
                lists[i] = Some(values.into_iter().collect());
                if value.is_some() {
                    taking = None;
                }
                continue;
            }
        } else if let Some(list) = taking.and_then(|i| lists[i].as_mut()) {
            if !word.is_empty() {
                list.push(word.to_owned());
            }
            continue;
        }
        rest.push(arg);
    }
    (rest, lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end_at_the_next_flag() {
        let args =
            "--model m --served-model-name a b --port 1 --lora-modules={\"name\":\"x\"} stray --config c";
        let (rest, lists) = take_lists(args.split(' ').map(OsString::from).collect());
        assert_eq!(rest, ["--model", "m", "--port", "1", "stray"]);
        assert_eq!(lists[0].as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(lists[1].as_deref(), Some(&["{\"name\":\"x\"}".to_owned()][..]));
        assert_eq!(
            (lists[2].clone(), lists[4].as_ref().map(Vec::len)),
            (None, Some(1))
        );
    }
}
