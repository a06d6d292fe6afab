//! The flags of `inference-sim` (simulator.md §1), and how lists are taken out of the command line (§1.1).

use std::ffi::OsString;

use crate::base::flags::{Flag, Kind, flag, ours};

const SERVING: &str = "Serving";
const LATENCY: &str = "Latency";
const CACHE: &str = "KV cache";
const TEXT: &str = "Texts";
const TOOLS: &str = "Tool calls";
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
    flag("mode", Kind::Text, "random", TEXT, "random or echo"),
    flag(
        "seed",
        Kind::Int,
        "0",
        TEXT,
        "makes texts, lengths, latencies and ids reproducible; now, when not given",
    ),
    flag(
        "enable-request-id-headers",
        Kind::Bool,
        "false",
        SERVING,
        "answer with x-request-id, and take the client's",
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
        "finish requests at once when a smaller share of the prompt is cached (0 to 1)",
    ),
    flag(
        "min-tool-call-integer-param",
        Kind::Int,
        "0",
        TOOLS,
        "least whole number in arguments",
    ),
    flag(
        "max-tool-call-integer-param",
        Kind::Int,
        "100",
        TOOLS,
        "greatest whole number in arguments",
    ),
    flag(
        "min-tool-call-number-param",
        Kind::Float,
        "0",
        TOOLS,
        "least number in arguments",
    ),
    flag(
        "max-tool-call-number-param",
        Kind::Float,
        "100",
        TOOLS,
        "greatest number in arguments",
    ),
    flag(
        "min-tool-call-array-param-length",
        Kind::Int,
        "1",
        TOOLS,
        "least length of an array in arguments",
    ),
    flag(
        "max-tool-call-array-param-length",
        Kind::Int,
        "5",
        TOOLS,
        "greatest length of an array in arguments",
    ),
    flag(
        "tool-call-not-required-param-probability",
        Kind::Int,
        "50",
        TOOLS,
        "chance of an optional parameter, percent",
    ),
    flag(
        "object-tool-call-not-required-field-probability",
        Kind::Int,
        "50",
        TOOLS,
        "chance of an optional field of a nested object, percent",
    ),
    flag(
        "tokenizers-cache-dir",
        Kind::Text,
        "hf_cache",
        TEXT,
        "folder of tokenizers: MODEL/tokenizer.json, or a Hugging Face cache",
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
        "accepted; connecting is tried for ever",
    ),
    flag(
        "kv-events-replay-endpoint",
        Kind::Text,
        "",
        CACHE,
        "where sent KV events can be asked for again: tcp://*:port or tcp://address:port; rank r listens r ports further",
    ),
    flag(
        "kv-events-replay-queue-size",
        Kind::Int,
        "1024",
        CACHE,
        "messages kept for that",
    ),
    ours(flag(
        "kv-events-replay-frames",
        Kind::Text,
        "topic",
        CACHE,
        "their frames: topic (topic, number, batch) or vllm (number, batch)",
    )),
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
        SERVING,
        "servers in this process, on ports one after the other (1 to 8)",
    ),
    flag(
        "data-parallel-rank",
        Kind::Int,
        "-1",
        SERVING,
        "rank of this process, for its log; -1 is none",
    ),
    flag("dataset-path", Kind::Text, "", TEXT, "SQLite file to answer from"),
    flag(
        "dataset-url",
        Kind::Text,
        "",
        TEXT,
        "where to get that file, if it is not there",
    ),
    flag(
        "dataset-in-memory",
        Kind::Bool,
        "false",
        TEXT,
        "copy the dataset into memory first",
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
        SERVING,
        "let /sleep act, if VLLM_SERVER_DEV_MODE is 1",
    ),
    flag(
        "ssl-certfile",
        Kind::Text,
        "",
        SERVING,
        "certificate chain, PEM; with ssl-keyfile",
    ),
    flag("ssl-keyfile", Kind::Text, "", SERVING, "private key, PEM"),
    flag(
        "self-signed-certs",
        Kind::Bool,
        "false",
        SERVING,
        "TLS with a certificate made at start",
    ),
    flag(
        "dataset-table-name",
        Kind::Text,
        "llmd",
        TEXT,
        "table of the dataset",
    ),
    flag(
        "force-dummy-tokenizer",
        Kind::Bool,
        "false",
        TEXT,
        "use the simple tokenizer even where the model's own is found",
    ),
    ours(flag(
        "echo-chat",
        Kind::Text,
        "all",
        TEXT,
        "what echo repeats of a chat: all messages, or the last",
    )),
    flag(
        "default-embedding-dimensions",
        Kind::Int,
        "384",
        TEXT,
        "length of embeddings, where a request says nothing",
    ),
    flag(
        "tool-call-extra-call-probability",
        Kind::Int,
        "-1",
        TOOLS,
        "chance of each call beyond the least, percent; -1: any number up to that of the tools",
    ),
    flag(
        "skip-tool-validation",
        Kind::Bool,
        "false",
        TOOLS,
        "take tools whatever their schema says",
    ),
    ours(flag(
        "compat-version",
        Kind::Text,
        "base",
        SERVING,
        "shapes and rules of the reference's version: base, or v0.5.0",
    )),
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
    flag("add_dir_header", Kind::Bool, "false", LOGGING, "klog's"),
    flag("log_backtrace_at", Kind::Text, "", LOGGING, "klog's"),
    flag("log_dir", Kind::Text, "", LOGGING, "klog's"),
    flag("log_file", Kind::Text, "", LOGGING, "klog's"),
    flag("log_file_max_size", Kind::Int, "1800", LOGGING, "klog's"),
    flag("one_output", Kind::Bool, "false", LOGGING, "klog's"),
    flag("skip_headers", Kind::Bool, "false", LOGGING, "klog's"),
    flag("skip_log_headers", Kind::Bool, "false", LOGGING, "klog's"),
    flag("logtostderr", Kind::Bool, "true", LOGGING, "klog's"),
    flag("alsologtostderr", Kind::Bool, "false", LOGGING, "klog's"),
    flag("stderrthreshold", Kind::Text, "2", LOGGING, "klog's"),
    flag("vmodule", Kind::Text, "", LOGGING, "klog's"),
];

/// Boolean flags with a twin that turns them off: `--no-x` is `--x=false`.
const TWINS: [&str; 4] = [
    "enable-sleep-mode",
    "mm-encoder-only",
    "enforce-eager",
    "enable-prefix-caching",
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
        if let Some(twin) = word.strip_prefix("--no-").filter(|n| TWINS.contains(n)) {
            taking = None;
            rest.push(format!("--{twin}=false").into());
            continue;
        }
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
        let args = "--model m --served-model-name a b --no-enforce-eager --port 1 --lora-modules={\"name\":\"x\"} stray --config c";
        let (rest, lists) = take_lists(args.split(' ').map(OsString::from).collect());
        assert_eq!(
            rest,
            ["--model", "m", "--enforce-eager=false", "--port", "1", "stray"]
        );
        assert_eq!(lists[0].as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(lists[1].as_deref(), Some(&["{\"name\":\"x\"}".to_owned()][..]));
        assert_eq!(
            (lists[2].clone(), lists[4].as_ref().map(Vec::len)),
            (None, Some(1))
        );
    }
}
