//! Rules of flags that concern more than one of them or a range, with the reference's texts (simulator.md §1).
//! Called by `settings`.

use serde_json::Value;

use super::lists::{LISTS, List};
use super::options::MILLISECONDS;
use super::serving;
use crate::base::flags::Parsed;
use crate::simulator::Compat;

/// Every rule that is broken, as a line.
pub fn all(p: &Parsed, lists: &[List; LISTS.len()], env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut errors = Vec::new();
    let mut check = |ok: bool, text: &str| {
        if !ok {
            errors.push(text.to_owned());
        }
    };
    ranges(p, &mut check);
    serving(p, &mut check);
    dataset(p, &mut check);
    let address = env("POD_IP").unwrap_or_default();
    check(
        !p.bool("enable-kvcache") || !address.is_empty() || serving::compat(p) == Compat::V050,
        "IP should be defined in the environment (POD_IP)",
    );
    if let Some(values) = &lists[3] {
        check(!values.is_empty(), "fake-metrics needs a JSON object after it");
        for value in values {
            let parsed = serde_json::from_str::<Value>(value);
            let what = match &parsed {
                Ok(Value::Object(_)) => continue,
                Ok(_) => "it is no object".to_owned(),
                Err(e) => e.to_string(),
            };
            check(false, &format!("fake-metrics must be a JSON object: {what}"));
        }
    }
    errors
}

/// What v0.5.0 refuses and later versions take, in its words: durations are whole numbers of milliseconds. Asked of what
/// was said at the start alone; v0.5.0 has no changes while it runs.
pub fn of_v050(p: &Parsed) -> Vec<String> {
    if serving::compat(p) != Compat::V050 {
        return Vec::new();
    }
    let wrong = |name: &&str| p.is_set(name) && p.text(name).parse::<i64>().is_err();
    let error = |name: &str| {
        let text = p.text(name);
        format!(
            "invalid argument \"{text}\" for \"--{name}\" flag: strconv.ParseInt: parsing \"{text}\": invalid syntax \
             (v0.5.0 takes whole milliseconds)"
        )
    };
    MILLISECONDS
        .iter()
        .copied()
        .filter(|name| wrong(name))
        .map(error)
        .collect()
}

/// Notes on logging flags that ask for something that is not done.
pub fn without_effect(p: &Parsed) -> Vec<String> {
    let elsewhere = ["log_file", "log_dir"]
        .into_iter()
        .find(|name| !p.text(name).is_empty());
    let away = (!p.bool("logtostderr")).then_some("logtostderr=false");
    let flag = elsewhere.or(away);
    flag.map(|flag| format!("warning: --{flag} has no effect: the log goes to standard error"))
        .into_iter()
        .collect()
}

fn ranges(p: &Parsed, check: &mut impl FnMut(bool, &str)) {
    let percent = |name: &str| (0..=100).contains(&p.int(name));
    check(
        percent("failure-injection-rate"),
        "failure injection rate should be between 0 and 100",
    );
    check(
        (0.0..=1.0).contains(&p.float("global-cache-hit-threshold")),
        "global cache hit threshold must be between in range [0, 1]",
    );
    check(
        p.int("event-batch-size") >= 1,
        "event batch size cannot less than 1",
    );
    check(
        p.int("zmq-max-connect-attempts") >= 0,
        "zmq retries times cannot be negative",
    );
    check(
        p.int("zmq-max-connect-attempts") <= 10,
        "zmq retries times cannot be more than 10",
    );
    check(
        p.int("max-tool-call-integer-param") >= p.int("min-tool-call-integer-param"),
        "MaxToolCallIntegerParam cannot be less than MinToolCallIntegerParam",
    );
    let (low, high) = (
        p.float("min-tool-call-number-param"),
        p.float("max-tool-call-number-param"),
    );
    check(
        low.is_finite() && high.is_finite(),
        "MinToolCallNumberParam and MaxToolCallNumberParam must be finite",
    );
    check(
        high >= low,
        "MaxToolCallNumberParam cannot be less than MinToolCallNumberParam",
    );
    let (low, high) = (
        p.int("min-tool-call-array-param-length"),
        p.int("max-tool-call-array-param-length"),
    );
    check(
        high >= low,
        "MaxToolCallArrayParamLength cannot be less than MinToolCallArrayParamLength",
    );
    check(low >= 0, "MinToolCallArrayParamLength cannot be negative");
    check(
        percent("tool-call-not-required-param-probability"),
        "ToolCallNotRequiredParamProbability should be between 0 and 100",
    );
    check(
        percent("object-tool-call-not-required-field-probability"),
        "ObjectToolCallNotRequiredParamProbability should be between 0 and 100",
    );
    check(
        (-1..=100).contains(&p.int("tool-call-extra-call-probability")),
        "ToolCallExtraCallProbability should be between 0 and 100",
    );
    check(
        (1..=65_536).contains(&p.int("default-embedding-dimensions")),
        "default embedding dimensions must be at least 1 and at most 65536",
    );
}

fn serving(p: &Parsed, check: &mut impl FnMut(bool, &str)) {
    let size = p.int("data-parallel-size");
    check(
        (1..=8).contains(&size),
        "data parallel size must be between 1 and 8",
    );
    check(
        p.int("port").saturating_add(size) <= 65_536,
        "the ports of data-parallel-size servers must end at 65535",
    );
    check(
        p.int("data-parallel-rank") <= 7,
        "data parallel rank must be between 0 and 7",
    );
    let (certificate, key) = (p.text("ssl-certfile"), p.text("ssl-keyfile"));
    check(
        certificate.is_empty() == key.is_empty(),
        "both ssl-certfile and ssl-keyfile must be provided together",
    );
    check(
        !p.bool("self-signed-certs") || (certificate.is_empty() && key.is_empty()),
        "cannot use both self-signed-certs and explicit ssl-certfile/ssl-keyfile",
    );
    let compat = p.text("compat-version");
    check(
        matches!(compat, "base" | "v0.5.0"),
        &format!("unknown compat-version '{compat}', valid values are 'base' and 'v0.5.0'"),
    );
    let echo = p.text("echo-chat");
    check(
        matches!(echo, "all" | "last"),
        &format!("invalid echo-chat '{echo}', valid values are 'all' and 'last'"),
    );
}

fn dataset(p: &Parsed, check: &mut impl FnMut(bool, &str)) {
    let (path, url) = (p.text("dataset-path"), p.text("dataset-url"));
    check(
        url.is_empty() || !path.is_empty(),
        "dataset-path is required when dataset-url is set",
    );
    check(
        (path.is_empty() && url.is_empty()) || p.text("mode") != "echo",
        "dataset cannot be defined in echo mode",
    );
}
