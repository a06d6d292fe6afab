//! What is wrong with a command line that parses: every mistake, not just the first (runtime.md §1.4;
//! decisions 3, 4). Nothing is bound before this has passed.

use std::net::IpAddr;

use crate::base::flags::Parsed;
use crate::net::tls::Policy;
use crate::requestcontrol::record::MAX_DECISIONS;

use super::options::METRIC_FLAGS;

/// Values that pflag's own types refuse while parsing (exit code 2).
///
/// # Errors
/// With the text of a usage error.
pub fn usage(p: &Parsed) -> Result<(), String> {
    const LEVELS: &[&str] = &["debug", "info", "warn", "error", "panic"];
    const TIMES: &[&str] = &[
        "epoch",
        "millis",
        "nano",
        "nanos",
        "iso8601",
        "rfc3339",
        "rfc3339nano",
    ];
    let rows: [(&str, &[&str], &str); 4] = [
        ("zap-log-level", LEVELS, "invalid log level"),
        ("zap-encoder", &["json", "console"], "invalid encoder value"),
        (
            "zap-stacktrace-level",
            &["info", "error", "panic"],
            "invalid stacktrace level",
        ),
        ("zap-time-encoding", TIMES, "invalid time-encoding value"),
    ];
    for (name, words, what) in rows.into_iter().filter(|(n, ..)| p.is_set(n)) {
        let value = p.text(name);
        let number = name == "zap-log-level" && value.parse::<u32>().is_ok_and(|n| n > 0);
        if !number && !words.contains(&value.to_ascii_lowercase().as_str()) {
            let more = if name == "zap-log-level" {
                ", or an integer above 0"
            } else {
                ""
            };
            let known = words.join(", ");
            return Err(format!(
                "invalid argument {value:?} for \"--{name}\" flag: {what} {value:?} (one of {known}{more})"
            ));
        }
    }
    Ok(())
}

/// The identity rule. A file of endpoints needs neither, so it is applied only where there is none.
///
/// # Errors
/// With the reference's text.
pub fn pool_identity(pool: bool, selector: bool) -> Result<(), String> {
    if pool == selector {
        Err("either pool-name or endpoint-selector must be set".into())
    } else {
        Ok(())
    }
}

/// Everything that is wrong, in the order of the reference's checks, ours after them. A configuration can be checked
/// (`checking`) without saying which pool it is for.
pub fn errors(p: &Parsed, checking: bool) -> Vec<String> {
    let mut errors = Vec::new();
    let text = |name: &str| !p.text(name).is_empty();
    let configured = text("config-file") || text("config-text");
    let (pool, selector_given) = (text("pool-name"), text("endpoint-selector"));
    if !(configured || checking) || (pool && selector_given) {
        errors.extend(pool_identity(pool, selector_given).err());
    }
    if selector_given {
        target_ports(p, &mut errors);
    }
    if text("config-file") && text("config-text") {
        errors
            .push("both the \"configText\" and \"configFile\" flags can not be set at the same time".into());
    }
    let scheme = p.text("model-server-metrics-scheme");
    if !matches!(scheme, "http" | "https") {
        errors.push(format!(
            "unexpected {scheme:?} value for \"model-server-metrics-scheme\" flag, it can only be set to 'http' or 'https'"
        ));
    }
    match p.text("compat-version") {
        "v0.5.0" => {}
        "main" => errors.extend(METRIC_FLAGS.iter().filter(|f| p.is_set(f)).map(|f| {
            format!(
                "flag \"{f}\" is deprecated and cannot be used; configure metrics via engineConfigs in \
                 EndpointPickerConfig instead"
            )
        })),
        other => errors.push(format!(
            "unexpected {other:?} value for \"compat-version\" flag: use main or v0.5.0"
        )),
    }
    ours(p, &mut errors);
    errors
}

fn target_ports(p: &Parsed, errors: &mut Vec<String>) {
    let mut ports = p.ints("endpoint-target-ports").to_vec();
    ports.sort_unstable();
    ports.dedup();
    if !(1..=8).contains(&ports.len()) {
        errors.push("flag \"endpoint-target-ports\" should have length from 1 to 8".into());
    }
    for port in p
        .ints("endpoint-target-ports")
        .iter()
        .filter(|n| !(1..=65535).contains(*n))
    {
        errors.push(format!("invalid port number {port} in \"endpoint-target-ports\""));
    }
    errors.extend(selector(p.text("endpoint-selector")).err());
}

fn ours(p: &Parsed, errors: &mut Vec<String>) {
    const PORTS: [&str; 3] = ["grpc-port", "grpc-health-port", "metrics-port"];
    for (i, name) in PORTS.iter().enumerate() {
        let port = p.int(name);
        if !(1..=65535).contains(&port) {
            errors.push(format!(
                "invalid port number {port} for flag \"{name}\": use 1 to 65535"
            ));
        }
        if let Some(other) = PORTS[..i].iter().find(|o| p.int(o) == port) {
            errors.push(format!(
                "flags \"{other}\" and \"{name}\" both ask for port {port}"
            ));
        }
    }
    let metrics_port = p.int("model-server-metrics-port");
    if !(0..=65535).contains(&metrics_port) {
        errors.push(format!(
            "invalid port number {metrics_port} for flag \"model-server-metrics-port\""
        ));
    }
    let group = p.text("pool-group");
    if !matches!(
        group,
        "inference.networking.k8s.io" | "inference.networking.x-k8s.io"
    ) {
        errors.push(format!(
            "unexpected {group:?} value for \"pool-group\" flag: use inference.networking.k8s.io or \
             inference.networking.x-k8s.io"
        ));
    }
    for name in [
        "refresh-metrics-interval",
        "refresh-prometheus-metrics-interval",
        "metrics-staleness-threshold",
    ] {
        let value = p.duration(name);
        if value.0 <= 0 {
            errors.push(format!("flag \"{name}\" must be above 0, not {value}"));
        }
    }
    for name in [
        "drain-timeout",
        "drain-quiet-period",
        "request-body-timeout",
        "stream-idle-timeout",
    ] {
        if p.duration(name).0 < 0 {
            errors.push(format!("flag \"{name}\" must not be negative"));
        }
    }
    let buffered = p.int("max-buffered-bytes");
    if buffered != 0 && !(1 << 20..=1 << 40).contains(&buffered) {
        errors.push(format!(
            "flag \"max-buffered-bytes\" must be 0 or a number of bytes from 1048576 on, not {buffered}"
        ));
    }
    connections(p, errors);
    for name in ["max-request-body-size", "grpc-max-recv-msg-size"] {
        let value = p.int(name);
        if !(1..=1 << 40).contains(&value) {
            errors.push(format!(
                "flag \"{name}\" must be a number of bytes above 0, not {value}"
            ));
        }
    }
    health(p, errors);
    errors.extend(Policy::parse(p.text("tls-min-version"), p.text("tls-cipher-suites")).err());
    if !p.bool("secure-serving") {
        let tls = ["client-ca-file", "tls-min-version", "tls-cipher-suites"];
        errors.extend(
            tls.iter()
                .filter(|f| p.is_set(f))
                .map(|f| format!("flag \"{f}\" needs TLS: drop it, or drop --secure-serving=false")),
        );
    }
    let kept = p.int("debug-decisions");
    if !(0..=MAX_DECISIONS as i64).contains(&kept) {
        errors.push(format!(
            "flag \"debug-decisions\" must be 0 to {MAX_DECISIONS}, not {kept}"
        ));
    }
    let threads = p.int("threads");
    if !(0..=1024).contains(&threads) {
        errors.push(format!("flag \"threads\" must be 0 to 1024, not {threads}"));
    }
    if p.text("bind-address").parse::<IpAddr>().is_err() {
        errors.push(format!(
            "flag \"bind-address\" must be an IP address, not {:?}",
            p.text("bind-address")
        ));
    }
    let grpc = p.text("grpc-bind-address");
    if !grpc.is_empty() && grpc.parse::<IpAddr>().is_err() {
        errors.push(format!(
            "flag \"grpc-bind-address\" must be an IP address or empty, not {grpc:?}"
        ));
    }
    if !p.text("model-server-metrics-path").starts_with('/') {
        errors.push("flag \"model-server-metrics-path\" must begin with /".into());
    }
}

fn connections(p: &Parsed, errors: &mut Vec<String>) {
    let most = p.int("max-connections");
    if !(1..=1_000_000).contains(&most) {
        errors.push(format!(
            "flag \"max-connections\" must be 1 to 1000000, not {most}"
        ));
    }
    let idle = p.duration("connection-idle-timeout");
    if idle.0 <= 0 {
        errors.push(format!(
            "flag \"connection-idle-timeout\" must be above 0, not {idle}"
        ));
    }
}

fn health(p: &Parsed, errors: &mut Vec<String>) {
    let switch = p.text("endpoint-health");
    if !matches!(switch, "on" | "off") {
        errors.push(format!(
            "unexpected {switch:?} value for \"endpoint-health\" flag: use on or off"
        ));
    }
    for (name, most) in [
        ("endpoint-health-panic-threshold", 100),
        ("endpoint-health-max-server-errors", 1_000_000),
        ("fallback-endpoints", 16),
    ] {
        let value = p.int(name);
        if !(0..=most).contains(&value) {
            errors.push(format!("flag \"{name}\" must be 0 to {most}, not {value}"));
        }
    }
}

/// Labels of a selector `k=v,k2=v2`.
///
/// # Errors
/// A part is not one `key=value`, or is no Kubernetes label.
pub fn selector(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let invalid = |why: &str| format!("invalid selector: [{text}]: {why}");
    text.split(',')
        .map(|part| {
            let mut sides = part.split('=').map(str::trim);
            let (Some(key), Some(value), None) = (sides.next(), sides.next(), sides.next()) else {
                return Err(invalid(&format!("{part:?} is not one key=value")));
            };
            if !label_key(key) {
                return Err(invalid(&format!("{key:?} is not a label key")));
            }
            if !(value.is_empty() || label_name(value)) {
                return Err(invalid(&format!("{value:?} is not a label value")));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let dns = |p: &str| {
        p.len() <= 253
            && p.split('.').all(|l| {
                !l.is_empty()
                    && l.bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !l.starts_with('-')
                    && !l.ends_with('-')
            })
    };
    label_name(name) && prefix.is_none_or(dns)
}

fn label_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_equalities_of_labels() {
        let pairs = selector(" app = x ,llm-d.ai/role=").unwrap();
        assert_eq!(
            pairs,
            [
                ("app".into(), "x".into()),
                ("llm-d.ai/role".into(), String::new())
            ]
        );
        for bad in [
            "app",
            "app==x",
            "app!=x",
            "=x",
            "a b=c",
            "app=-x",
            "UPPER.x/a=b",
            "app=x,",
        ] {
            assert!(selector(bad).is_err(), "{bad}");
        }
    }
}
