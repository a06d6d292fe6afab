//! The rows of configuration of simulator.md §16.1.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::json;

use super::options::{FLAGS, LOGGING};
use super::settings::{CommandLine, Settings, read};

const C1: &str = "port: 8001
model: Qwen/Qwen2-0.5B
served-model-name: [model1, model2]
max-loras: 2
max-cpu-loras: 5
max-num-seqs: 5
lora-modules:
- '{\"name\":\"lora1\",\"path\":\"/p1\"}'
- '{\"name\":\"lora2\",\"path\":\"/p2\"}'
time-to-first-token: 2000
inter-token-latency: 1000
kv-cache-transfer-latency: 100
seed: 100100100
";

fn words(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, String> {
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    match read("inference-sim", args.iter().map(OsString::from).collect(), &env) {
        CommandLine::Run(settings, _) => Ok(*settings),
        CommandLine::Help(text) | CommandLine::Refused(text) => Err(text),
    }
}

/// Settings of a file and more words.
fn with_file(yaml: &str, more: &[&str]) -> Settings {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let path = file.path().to_str().unwrap();
    words(&[&["--config", path], more].concat(), &[]).unwrap()
}

#[test]
fn a_file_is_read_with_bare_numbers_as_milliseconds() {
    let s = with_file(C1, &[]);
    let c = &s.config;
    assert_eq!(
        (s.port, c.model.as_str(), c.seed),
        (8001, "Qwen/Qwen2-0.5B", 100_100_100)
    );
    assert_eq!(c.served_names, ["model1", "model2"]);
    assert_eq!(c.adapters, ["lora1", "lora2"]);
    assert_eq!((c.machine.engine.max_loras, c.machine.engine.max_running), (2, 5));
    assert_eq!(
        c.machine.engine.latency.time_to_first_token.0,
        Duration::from_secs(2)
    );
    assert_eq!(c.machine.engine.latency.inter_token.0, Duration::from_secs(1));
    assert_eq!(c.machine.engine.latency.transfer.0, Duration::from_millis(100));
    assert_eq!(c.machine.engine.max_cpu_loras, 5);
}

#[test]
fn the_command_line_wins_over_the_file() {
    let line = [
        "--model",
        "X",
        "--port",
        "8002",
        "--served-model-name",
        "a",
        "b",
        "--seed",
        "100",
    ];
    let s = with_file(C1, &line);
    assert_eq!((s.port, s.config.model.as_str(), s.config.seed), (8002, "X", 100));
    assert_eq!(s.config.served_names, ["a", "b"]);
    assert_eq!(s.config.adapters, ["lora1", "lora2"]);
    let modules = [
        r#"{"name":"lora3","path":"/p3"}"#,
        r#"{"name":"lora4","path":"/p4"}"#,
    ];
    let s = with_file(C1, &["--lora-modules", modules[0], modules[1]]);
    assert_eq!(s.config.adapters, ["lora3", "lora4"], "a list is replaced");
    for empty in [
        &["--lora-modules"][..],
        &["--lora-modules", ""],
        &["--lora-modules="],
    ] {
        assert!(with_file(C1, empty).config.adapters.is_empty(), "{empty:?}");
    }
    let s = with_file(C1, &["--served-model-name"]);
    assert_eq!(s.config.served_names, ["Qwen/Qwen2-0.5B"]);
}

#[test]
fn a_list_may_stand_anywhere() {
    for line in [
        &["--served-model-name", "a", "b", "--model", "m", "--port", "1"][..],
        &["--model", "m", "--served-model-name", "a", "b", "--port", "1"],
        &["--model", "m", "--port", "1", "--served-model-name", "a", "b"],
    ] {
        let s = words(line, &[]).unwrap();
        assert_eq!((s.port, s.config.model.as_str()), (1, "m"));
        assert_eq!(s.config.served_names, ["a", "b"], "{line:?}");
    }
    let s = words(&["--model", "m", "--served-model-name=a", "b"], &[]).unwrap();
    assert_eq!(s.config.served_names, ["a"], "one value after the equals sign");
}

#[test]
fn a_second_is_written_in_three_ways() {
    for line in [
        "--time-to-first-token 1s",
        "--time-to-first-token=1000",
        "--time-to-first-token 1000ms",
    ] {
        let args: Vec<&str> = ["--model", "m"].into_iter().chain(line.split(' ')).collect();
        let s = words(&args, &[]).unwrap();
        assert_eq!(
            s.config.machine.engine.latency.time_to_first_token.0,
            Duration::from_secs(1),
            "{line}"
        );
    }
}

#[test]
fn every_broken_rule_has_its_text() {
    let rows = [
        ("--max-loras 0", "max LoRAs cannot be less than 1"),
        (
            "--max-cpu-loras 1 --max-loras 4",
            "max CPU LoRAs cannot be less than max LoRAs",
        ),
        (
            "--time-factor-under-load 0.5",
            "time factor under load cannot be less than 1.0",
        ),
        (
            "--block-size 35",
            "token block size should be one of the following: 8, 16, 32, 64, 128",
        ),
        ("--kv-cache-size -1", "KV cache size cannot be negative"),
        (
            "--zmq-max-connect-attempts -1",
            "zmq retries times cannot be negative",
        ),
        (
            "--enable-kvcache --kv-events-replay-endpoint tcp://host:1",
            "kv-events-replay-endpoint tcp://host:1 must be tcp://*:port or tcp://address:port",
        ),
        (
            "--kv-events-replay-endpoint tcp://*:65535 --data-parallel-size 2",
            "kv-events-replay-endpoint tcp://*:65535: the ports of 1 further ranks must end at 65535",
        ),
        (
            "--kv-events-replay-endpoint tcp://*:5558 --kv-events-replay-queue-size 0",
            "kv-events-replay-queue-size cannot be less than 1",
        ),
        (
            "--time-to-first-token 1s --time-to-first-token-std-dev 301ms",
            "time to first token standard deviation cannot be more than 30% of time to first token",
        ),
        (
            "--inter-token-latency 1s --inter-token-latency-std-dev 301ms",
            "inter token latency standard deviation cannot be more than 30% of inter token latency",
        ),
        (
            "--kv-cache-transfer-latency 1s --kv-cache-transfer-latency-std-dev 301ms",
            "kv-cache tranfer standard deviation cannot be more than 30% of kv-cache tranfer",
        ),
        (
            "--kv-cache-transfer-time-per-token 1s --kv-cache-transfer-time-std-dev 301ms",
            "kv-cache tranfer time standard deviation cannot be more than 30% of kv-cache tranfer time",
        ),
        (
            "--prefill-time-per-token 1s --prefill-time-std-dev 301ms",
            "prefill time standard deviation cannot be more than 30% of prefill time per token",
        ),
        (
            "--time-to-first-token-std-dev -1s",
            "time to first token standard deviation cannot be negative",
        ),
        ("--prefill-overhead -1s", "prefill overhead cannot be negative"),
        (
            "--kv-cache-transfer-latency -1s",
            "kv-cache tranfer time cannot be negative",
        ),
        (
            "--kv-cache-transfer-time-per-token -1s",
            "kv-cache tranfer time per token cannot be negative",
        ),
        ("--max-loras 0", "max LoRAs cannot be less than 1"),
        (
            "--fake-metrics {\"kv-cache-usage\":1.5}",
            "fake metrics KV cache usage must be between 0 and 1",
        ),
        ("--startup-duration -1s", "startup duration cannot be negative"),
        (
            "--kv-events-replay-frames both",
            "invalid kv-events-replay-frames 'both', valid values are: topic, vllm",
        ),
        (
            "--zmq-max-connect-attempts 11",
            "zmq retries times cannot be more than 10",
        ),
        ("--event-batch-size -1", "event batch size cannot less than 1"),
        (
            "--mode hello",
            "invalid mode 'hello', valid values are 'random' and 'echo'",
        ),
        (
            "--data-parallel-size 0",
            "data parallel size must be between 1 and 8",
        ),
        (
            "--data-parallel-size 9",
            "data parallel size must be between 1 and 8",
        ),
        (
            "--data-parallel-rank 8",
            "data parallel rank must be between 0 and 7",
        ),
        (
            "--failure-injection-rate 150",
            "failure injection rate should be between 0 and 100",
        ),
        (
            "--failure-injection-rate -10",
            "failure injection rate should be between 0 and 100",
        ),
        (
            "--failure-types bad",
            "invalid failure type 'bad', valid types are: rate_limit, invalid_api_key, context_length, server_error, invalid_request, model_not_found",
        ),
        (
            "--ssl-certfile c",
            "both ssl-certfile and ssl-keyfile must be provided together",
        ),
        (
            "--ssl-certfile c --ssl-keyfile k --self-signed-certs",
            "cannot use both self-signed-certs and explicit ssl-certfile/ssl-keyfile",
        ),
        (
            "--dataset-url http://h/",
            "dataset-path is required when dataset-url is set",
        ),
        (
            "--dataset-path d --mode echo",
            "dataset cannot be defined in echo mode",
        ),
        (
            "--global-cache-hit-threshold 1.5",
            "global cache hit threshold must be between in range [0, 1]",
        ),
        (
            "--min-tool-call-integer-param 5 --max-tool-call-integer-param 4",
            "MaxToolCallIntegerParam cannot be less than MinToolCallIntegerParam",
        ),
        (
            "--min-tool-call-number-param 101",
            "MaxToolCallNumberParam cannot be less than MinToolCallNumberParam",
        ),
        (
            "--min-tool-call-array-param-length 9",
            "MaxToolCallArrayParamLength cannot be less than MinToolCallArrayParamLength",
        ),
        (
            "--min-tool-call-array-param-length -1",
            "MinToolCallArrayParamLength cannot be negative",
        ),
        (
            "--tool-call-not-required-param-probability 101",
            "ToolCallNotRequiredParamProbability should be between 0 and 100",
        ),
        (
            "--object-tool-call-not-required-field-probability -1",
            "ObjectToolCallNotRequiredParamProbability should be between 0 and 100",
        ),
        (
            "--enable-kvcache",
            "IP should be defined in the environment (POD_IP)",
        ),
        ("--fake-metrics", "fake-metrics needs a JSON object after it"),
        ("--fake-metrics {", "fake-metrics must be a JSON object: EOF"),
        (
            "--fake-metrics []",
            "fake-metrics must be a JSON object: it is no object",
        ),
        (
            "--compat-version v1",
            "unknown compat-version 'v1', valid values are 'base' and 'v0.5.0'",
        ),
        (
            "--default-embedding-dimensions 0",
            "default embedding dimensions must be at least 1",
        ),
        ("--port 65535 --data-parallel-size 2", "must end at 65535"),
    ];
    for (line, text) in rows {
        let args: Vec<&str> = ["--model", "m"].into_iter().chain(line.split(' ')).collect();
        let error = words(&args, &[]).map(|_| ()).unwrap_err();
        assert!(error.contains(text), "{line}: {error}");
    }
}

#[test]
fn made_up_metrics_are_the_same_on_the_command_line_and_in_a_file() {
    let words_of = r#"{"running-requests":10,"waiting-requests":"ramp:0:5:1s","kv-cache-usage":0.4,"loras":[
        {"running":"a,b","waiting":"c","timestamp":1257894567}],"ttft-buckets-values":[1,2],
        "request-success-total":{"stop":20},"total-prompt-tokens":7}"#;
    let yaml = "model: m
fake-metrics:
  running-requests: 10
  waiting-requests: ramp:0:5:1s
  kv-cache-usage: 0.4
  loras: ['{\"running\":\"a,b\",\"waiting\":\"c\",\"timestamp\":1257894567}']
  ttft-buckets-values: [1, 2]
  request-success-total: {stop: 20}
  totalprompttokens: 7
";
    let typed = words(&["--model", "m", "--fake-metrics", words_of], &[]).unwrap();
    let filed = with_file(yaml, &[]);
    let shown = |s: &Settings| format!("{:?}", s.config.machine.engine.fake.as_ref().unwrap());
    assert_eq!(shown(&typed), shown(&filed));
}

#[test]
fn the_environment_completes_the_command_line() {
    let env = [
        ("SIM_MODEL", "e"),
        ("POD_IP", "10.0.0.1"),
        ("VLLM_SERVER_DEV_MODE", "1"),
    ];
    let s = words(&["--enable-kvcache", "--enable-sleep-mode"], &env).unwrap();
    assert_eq!(s.config.model, "e");
    assert!(s.config.machine.engine.cache && s.config.sleep_mode);
    let s = words(&["--model", "m", "--enable-sleep-mode"], &env[..2]).unwrap();
    assert_eq!((s.config.model.as_str(), s.config.sleep_mode), ("m", false));
}

#[test]
fn v050_takes_whole_milliseconds_and_knows_no_address() {
    let old = ["--model", "m", "--compat-version", "v0.5.0"];
    let args = [&old[..], &["--enable-kvcache", "--time-to-first-token", "250"]].concat();
    let read = |args: &[&str]| {
        read(
            "inference-sim",
            args.iter().map(OsString::from).collect(),
            &|_| None,
        )
    };
    let CommandLine::Run(settings, notes) = read(&args) else {
        panic!("{args:?} is refused");
    };
    assert_eq!(notes, [""; 0]);
    let latency = settings.config.machine.engine.latency;
    assert_eq!(latency.time_to_first_token.0, Duration::from_millis(250));
    assert_eq!(settings.serving.tokenizers.unwrap().as_os_str(), "");
    for value in ["5ms", "1s", "0.5", "0s"] {
        let CommandLine::Refused(error) = read(&[&old[..], &["--prefill-overhead", value]].concat()) else {
            panic!("{value} is taken");
        };
        let expected =
            format!("invalid argument \"{value}\" for \"--prefill-overhead\" flag: strconv.ParseInt");
        assert!(error.starts_with(&expected), "{error}");
    }
    // What it does not know keeps its form.
    let CommandLine::Run(settings, _) = read(
        &[
            &old[..],
            &["--startup-duration", "5ms", "--tokenizers-cache-dir", "d"],
        ]
        .concat(),
    ) else {
        panic!("a duration of later versions is refused");
    };
    assert_eq!(settings.config.startup, Duration::from_millis(5));
    assert_eq!(settings.serving.tokenizers.unwrap().as_os_str(), "d");
}

#[test]
fn a_log_that_is_wanted_elsewhere_is_said_to_stay() {
    let notes = |more: &[&str]| {
        let args = [&["--model", "m"], more].concat();
        match read(
            "inference-sim",
            args.iter().map(OsString::from).collect(),
            &|_| None,
        ) {
            CommandLine::Run(_, notes) => notes,
            _ => panic!("{args:?}"),
        }
    };
    assert_eq!(notes(&["--logtostderr=true"]), [""; 0]);
    for (words, flag) in [
        (&["--logtostderr=false", "--log_file", "F"][..], "log_file"),
        (&["--log_dir", "D"], "log_dir"),
        (&["--logtostderr=false"], "logtostderr=false"),
    ] {
        let expected = format!("warning: --{flag} has no effect: the log goes to standard error");
        assert_eq!(notes(words), [expected], "{words:?}");
    }
}

#[test]
fn the_flags_of_klog_and_vllm_are_taken() {
    let line = "--model m --add_dir_header --log_dir d --log_file f --log_file_max_size 10 --one_output --skip_headers \
                --skip_log_headers --log_backtrace_at x:1 --logtostderr=false --stderrthreshold 1 --vmodule a=1 -v 4 \
                --no-enforce-eager --enforce-eager --no-enable-prefix-caching --no-mm-encoder-only \
                --no-enable-sleep-mode --tensor-parallel-size 2";
    let args: Vec<&str> = line.split_whitespace().collect();
    words(&args, &[]).unwrap();
    let error = words(&["--model", "m", "--no-nonsense"], &[])
        .map(|_| ())
        .unwrap_err();
    assert!(error.contains("unknown flag: --no-nonsense"), "{error}");
}

#[test]
fn all_settings_are_shown_as_they_hold() {
    let env = [("PYTHONHASHSEED", "9"), ("SIM_MODEL", "e")];
    let line = [
        "--max-loras",
        "3",
        "--inter-token-latency",
        "1500",
        "--lora-modules",
        r#"{"name":"l","path":"/l"}"#,
        "--dataset-url",
        "https://me:pw@h/d?sig=1",
        "--dataset-path",
        "d",
        "--seed",
        "-7",
    ];
    let s = words(&line, &env).unwrap();
    let shown = s.config.machine.reader.read(&Default::default()).unwrap().shown;
    for (name, value) in [
        ("model", json!("e")),
        ("served-model-name", json!(["e"])),
        ("max-cpu-loras", json!(3)),
        ("inter-token-latency", json!("1.5s")),
        ("lora-modules", json!([{"name": "l", "path": "/l"}])),
        ("dataset-url", json!("https://***@h/d?***")),
        ("hash-seed", json!("9")),
        ("seed", json!(-7)),
        ("port", json!(8000)),
        ("failure-types", json!([])),
        ("fake-metrics", json!(null)),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    // Every flag that means something, and nothing else.
    let names: Vec<&str> = FLAGS
        .iter()
        .filter(|f| f.group != LOGGING && f.name != "config")
        .map(|f| f.name)
        .collect();
    assert!(names.iter().all(|name| shown.contains_key(*name)));
    assert_eq!(shown.len(), names.len());
}
