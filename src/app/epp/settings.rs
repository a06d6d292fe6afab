//! The settings of `epp`: flags and environment made sense of and checked. Called by `main` once.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::admin::debug::FlagValue;
use crate::base::flags::{self, Parsed, Stop};
use crate::model::health::HealthPolicy;
use crate::net::tls::{Policy, TlsSource};
use crate::requestcontrol::streams::Timeouts;
use crate::telemetry::logging::{self, Encoder, StackLevel, Threshold, TimeFormat};
use crate::telemetry::spans::TracingSettings;

use super::environment::{Environment, Lookup};
use super::options::{FLAGS, METRIC_FLAGS};
use super::{environment, streams, validate};

/// Everything `epp` is told from outside, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--pool-name`; empty when not given.
    pub pool_name: String,
    /// Namespace: flag, else `$NAMESPACE`, else `default`.
    pub namespace: String,
    /// API group of the pool.
    pub pool_group: String,
    /// Labels of `--endpoint-selector`, in order; empty when not given.
    pub selector: Vec<(String, String)>,
    /// `--endpoint-target-ports` without duplicates.
    pub target_ports: Vec<u16>,
    /// Ignore subset hints.
    pub ignore_subset: bool,
    /// Address of all servers; `None` is every address.
    pub bind: Option<IpAddr>,
    /// Address of the ext_proc port; `None` is every address.
    pub grpc_bind: Option<IpAddr>,
    /// Port of ext_proc.
    pub grpc_port: u16,
    /// Port of gRPC health.
    pub health_port: u16,
    /// Port of the metrics page.
    pub metrics_port: u16,
    /// One replica leads, the others stand by.
    pub leader_election: bool,
    /// Ask the cluster who may read metrics.
    pub metrics_auth: bool,
    /// gRPC health on the ext_proc port too.
    pub health_checking: bool,
    /// TLS on the ext_proc port.
    pub secure: bool,
    /// Certificate, client authorities, versions and ciphers of the ext_proc port.
    pub tls: TlsSource,
    /// Follow changes of the certificate folder.
    pub cert_reload: bool,
    /// ext_proc worker threads, at least 1.
    pub threads: usize,
    /// Longest time between the first signal and the end.
    pub drain_timeout: Duration,
    /// Time without an open stream after which a drain is over.
    pub drain_quiet: Duration,
    /// Connections to the ext_proc port.
    pub max_connections: usize,
    /// Longest time a connection to the ext_proc port stays without a stream.
    pub connection_idle: Duration,
    /// The EndpointPickerConfig.
    pub config: ConfigSource,
    /// Follow changes of the configuration file.
    pub config_reload: bool,
    /// Time between scrapes.
    pub scrape_interval: Duration,
    /// Time between refreshes of the pool's gauges.
    pub gauges_interval: Duration,
    /// Age from which a sample no longer counts in the pool's gauges.
    pub gauges_staleness: Duration,
    /// `http` or `https`.
    pub metrics_scheme: String,
    /// Port of the model servers' metrics page, where the pool has one port; 0: the port requests go to.
    pub model_server_metrics_port: u16,
    /// Path of the model servers' metrics page.
    pub metrics_path: String,
    /// Do not verify the model servers' certificates.
    pub metrics_insecure: bool,
    /// Metric names, where `--compat-version v0.5.0` allows them.
    pub metric_specs: Option<MetricSpecs>,
    /// How the health of endpoints is judged; `None`: not at all.
    pub endpoint_health: Option<HealthPolicy>,
    /// Endpoints named after the picked one for retries.
    pub fallback_endpoints: usize,
    /// Largest request body, bytes.
    pub max_request_body: usize,
    /// Bytes held for all requests and answers under way.
    pub max_buffered: u64,
    /// How long request bodies and silence may last.
    pub stream_timeouts: Timeouts,
    /// Largest ext_proc message, bytes.
    pub max_message: usize,
    /// Decisions kept for the debug pages; 0 keeps none.
    pub debug_decisions: usize,
    /// Serve profiles beside the metrics page.
    pub pprof: bool,
    /// Logging.
    pub logging: logging::Options,
    /// Tracing; `None`: off, or no exporter is asked for.
    pub tracing: Option<TracingSettings>,
    /// Every flag as it is in force.
    pub flags: Vec<FlagValue>,
    /// What the environment says.
    pub environment: Environment,
    /// Flags that were given and change nothing, with why.
    pub idle_flags: Vec<&'static str>,
}

/// Where the EndpointPickerConfig comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// A file.
    File(PathBuf),
    /// The text itself.
    Text(String),
    /// Neither was given: the built-in default.
    BuiltIn,
}

/// The five metric flags of v0.5.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSpecs {
    /// Waiting requests.
    pub queued: String,
    /// Running requests.
    pub running: String,
    /// KV-cache use.
    pub kv_usage: String,
    /// LoRA adapters.
    pub lora: String,
    /// KV-cache configuration.
    pub cache_info: String,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum CommandLine {
    /// Run with these settings; the lines go to stderr first.
    Run(Box<Settings>, Vec<String>),
    /// `epp check …`: check the configuration and end; the lines go to stderr first.
    Check(Box<Settings>, Vec<String>),
    /// `--help`: the text goes to stderr, exit code 0.
    Help(String),
    /// A usage error: the text goes to stderr, exit code 2.
    Usage(String),
    /// Refused settings: the lines go to stderr, exit code 1.
    Refused(Vec<String>),
}

/// Reads a command line and the environment.
pub fn read(program: &str, args: &[OsString], lookup: Lookup<'_>) -> CommandLine {
    // The first word alone: elsewhere words are ignored, as in the reference.
    let checking = args.first().is_some_and(|word| word == CHECK);
    let (parsed, stop) = flags::parse(FLAGS, args);
    let mut lines = parsed.notes.clone();
    match stop {
        Some(Stop::Help) => return CommandLine::Help(flags::help(program, FLAGS)),
        Some(Stop::Usage(text)) => {
            lines.push(format!("{}\n{text}", flags::help(program, FLAGS)));
            return CommandLine::Usage(lines.join("\n"));
        }
        None => {}
    }
    if let Err(text) = validate::usage(&parsed) {
        lines.push(format!("{}\n{text}", flags::help(program, FLAGS)));
        return CommandLine::Usage(lines.join("\n"));
    }
    let errors = validate::errors(&parsed, checking);
    if !errors.is_empty() {
        lines.extend(errors.into_iter().map(|e| format!("error: {e}")));
        return CommandLine::Refused(lines);
    }
    let environment = environment::read(lookup);
    lines.extend(environment.warnings.iter().map(|w| format!("warning: {w}")));
    let mut settings = Settings::new(&parsed, environment);
    if parsed.bool("tracing") {
        let (tracing, warnings) = TracingSettings::read(lookup);
        settings.tracing = tracing;
        lines.extend(warnings.into_iter().map(|w| format!("warning: {w}")));
    }
    if checking {
        return CommandLine::Check(Box::new(settings), lines);
    }
    CommandLine::Run(Box::new(settings), lines)
}

/// The word that asks for a check instead of a run.
const CHECK: &str = "check";

impl Settings {
    /// `parsed` has passed validation.
    fn new(p: &Parsed, environment: Environment) -> Self {
        let port = |name: &str| u16::try_from(p.int(name)).unwrap_or(0);
        let time = |name: &str| p.duration(name).to_std().unwrap_or_default();
        let path = |name: &str| Some(p.text(name)).filter(|c| !c.is_empty()).map(PathBuf::from);
        let size = |name: &str| usize::try_from(p.int(name)).unwrap_or(usize::MAX);
        let mut target_ports: Vec<u16> = Vec::new();
        for port in p
            .ints("endpoint-target-ports")
            .iter()
            .filter_map(|n| u16::try_from(*n).ok())
        {
            if !target_ports.contains(&port) {
                target_ports.push(port);
            }
        }
        let flag_namespace = Some(p.text("pool-namespace")).filter(|n| !n.is_empty());
        let namespace = flag_namespace
            .or(environment.namespace.as_deref())
            .unwrap_or("default")
            .to_owned();
        let threads = match size("threads") {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        };
        Settings {
            pool_name: p.text("pool-name").to_owned(),
            namespace,
            pool_group: p.text("pool-group").to_owned(),
            selector: validate::selector(p.text("endpoint-selector")).unwrap_or_default(),
            target_ports,
            ignore_subset: p.bool("disable-endpoint-subset-filter"),
            bind: address(p.text("bind-address")),
            grpc_bind: match p.text("grpc-bind-address") {
                "" => address(p.text("bind-address")),
                own => address(own),
            },
            grpc_port: port("grpc-port"),
            health_port: port("grpc-health-port"),
            metrics_port: port("metrics-port"),
            leader_election: p.bool("ha-enable-leader-election"),
            metrics_auth: p.bool("metrics-endpoint-auth"),
            health_checking: p.bool("health-checking"),
            secure: p.bool("secure-serving"),
            tls: TlsSource {
                folder: path("cert-path"),
                client_ca: path("client-ca-file"),
                policy: Policy::parse(p.text("tls-min-version"), p.text("tls-cipher-suites"))
                    .unwrap_or_default(),
            },
            cert_reload: p.bool("enable-cert-reload"),
            threads,
            drain_timeout: time("drain-timeout"),
            drain_quiet: time("drain-quiet-period"),
            max_connections: size("max-connections"),
            connection_idle: time("connection-idle-timeout"),
            config: config_source(p),
            config_reload: p.bool("enable-config-reload"),
            scrape_interval: time("refresh-metrics-interval"),
            gauges_interval: time("refresh-prometheus-metrics-interval"),
            gauges_staleness: time("metrics-staleness-threshold"),
            metrics_scheme: p.text("model-server-metrics-scheme").to_owned(),
            model_server_metrics_port: port("model-server-metrics-port"),
            metrics_path: p.text("model-server-metrics-path").to_owned(),
            metrics_insecure: p.bool("model-server-metrics-https-insecure-skip-verify"),
            metric_specs: METRIC_FLAGS.iter().any(|f| p.is_set(f)).then(|| metric_specs(p)),
            endpoint_health: (p.text("endpoint-health") == "on").then(|| endpoint_health(p)),
            fallback_endpoints: size("fallback-endpoints"),
            max_request_body: size("max-request-body-size"),
            max_buffered: streams::max_buffered(size("max-buffered-bytes") as u64),
            stream_timeouts: Timeouts {
                request_body: time("request-body-timeout"),
                idle: time("stream-idle-timeout"),
            },
            max_message: size("grpc-max-recv-msg-size"),
            debug_decisions: size("debug-decisions"),
            pprof: p.bool("enable-pprof"),
            logging: logging_options(p),
            tracing: None,
            flags: FLAGS.iter().map(|f| flag_value(p, f.name)).collect(),
            environment,
            idle_flags: idle_flags(p),
        }
    }

    /// The identity rule (runtime.md §1.4 rule 1), for everyone who does not bring endpoints from a file.
    ///
    /// # Errors
    /// Neither or both of `--pool-name` and `--endpoint-selector` are set.
    pub fn require_pool_identity(&self) -> Result<(), String> {
        validate::pool_identity(!self.pool_name.is_empty(), !self.selector.is_empty())
    }

    /// The pool's name in metrics, where endpoints come from a file.
    pub fn file_pool_name(&self) -> &str {
        if self.pool_name.is_empty() {
            "epp"
        } else {
            &self.pool_name
        }
    }
}

/// A flag for the debug pages; a configuration given as text is shown elsewhere.
fn flag_value(p: &Parsed, name: &'static str) -> FlagValue {
    let value = match p.written(name) {
        text if name == "config-text" && !text.is_empty() => format!("({} bytes)", text.len()),
        text => text,
    };
    FlagValue {
        name,
        value,
        given: p.is_set(name),
    }
}

fn config_source(p: &Parsed) -> ConfigSource {
    match (p.text("config-text"), p.text("config-file")) {
        ("", "") => ConfigSource::BuiltIn,
        ("", file) => ConfigSource::File(file.into()),
        (text, _) => ConfigSource::Text(text.to_owned()),
    }
}

fn endpoint_health(p: &Parsed) -> HealthPolicy {
    let number = |name: &str| u32::try_from(p.int(name)).unwrap_or_default();
    HealthPolicy {
        panic_percent: number("endpoint-health-panic-threshold"),
        max_server_errors: number("endpoint-health-max-server-errors"),
    }
}

fn metric_specs(p: &Parsed) -> MetricSpecs {
    let [queued, running, kv_usage, lora, cache_info] = METRIC_FLAGS.map(|f| p.text(f).to_owned());
    MetricSpecs {
        queued,
        running,
        kv_usage,
        lora,
        cache_info,
    }
}

/// Level: `--zap-log-level`, else the verbosity. Lines: `--zap-encoder`, else console with `--zap-devel`.
fn logging_options(p: &Parsed) -> logging::Options {
    let verbosity = |n: i64| Threshold::Verbosity(u32::try_from(n.max(0)).unwrap_or(u32::MAX));
    let threshold = match p.text("zap-log-level").to_ascii_lowercase().as_str() {
        "" => verbosity(p.int("v")),
        "debug" => Threshold::Verbosity(1),
        "info" => Threshold::Verbosity(0),
        "warn" => Threshold::Warn,
        "error" => Threshold::Error,
        "panic" => Threshold::Panic,
        number => verbosity(number.parse().unwrap_or(0)),
    };
    let encoder = match p.text("zap-encoder").to_ascii_lowercase().as_str() {
        "json" => Encoder::Json,
        "" if !p.bool("zap-devel") => Encoder::Json,
        _ => Encoder::Console,
    };
    let time = match p.text("zap-time-encoding").to_ascii_lowercase().as_str() {
        "epoch" => TimeFormat::Epoch,
        "millis" => TimeFormat::Millis,
        "nano" | "nanos" => TimeFormat::Nanos,
        "iso8601" => TimeFormat::Iso8601,
        "rfc3339nano" => TimeFormat::Rfc3339Nano,
        _ => TimeFormat::Rfc3339,
    };
    let stack = match p.text("zap-stacktrace-level").to_ascii_lowercase().as_str() {
        "info" => StackLevel::Info,
        "error" => StackLevel::Error,
        _ => StackLevel::Panic,
    };
    logging::Options {
        stack,
        threshold,
        encoder,
        time,
        sampled: !p.bool("zap-devel"),
    }
}

/// Flags given on the command line that change nothing as things are: said at start-up, never silently ignored.
fn idle_flags(p: &Parsed) -> Vec<&'static str> {
    let given = |name: &str| !p.text(name).is_empty();
    let nothing_to_follow = p.is_set("enable-cert-reload")
        && p.bool("enable-cert-reload")
        && !given("cert-path")
        && !given("client-ca-file");
    let text = "enable-cert-reload: there is nothing to follow without --cert-path or --client-ca-file";
    nothing_to_follow.then_some(text).into_iter().collect()
}

/// An address to listen on; `None` is every address, IPv4 and IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let address: Option<IpAddr> = text.parse().ok();
    address.filter(|a| !(a.is_ipv6() && a.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Settings {
        let args: Vec<OsString> = line
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(OsString::from)
            .collect();
        match read("epp", &args, &|_| None) {
            CommandLine::Run(s, _) => *s,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn target_ports_keep_their_order_without_duplicates() {
        let ports = |line: &str| settings(&format!("--endpoint-selector app=x {line}")).target_ports;
        let repeated =
            "--endpoint-target-ports 8080 --endpoint-target-ports 9090 --endpoint-target-ports 8080";
        assert_eq!(ports(repeated), [8080, 9090]);
        assert_eq!(ports("--endpoint-target-ports 8080,9090,80"), [8080, 9090, 80]);
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let s = settings("--pool-name p");
        assert_eq!((s.grpc_port, s.health_port, s.metrics_port), (9002, 9003, 9090));
        assert_eq!(s.logging.threshold, Threshold::Verbosity(0));
        assert_eq!(
            (s.scrape_interval, s.gauges_interval),
            (Duration::from_millis(50), Duration::from_secs(5))
        );
        assert!(s.secure && s.metrics_insecure && s.metrics_auth && !s.health_checking && s.threads > 0);
        assert_eq!(
            (s.namespace.as_str(), s.bind, s.config),
            ("default", None, ConfigSource::BuiltIn)
        );
    }

    #[test]
    fn the_namespace_is_the_flags_then_the_environments() {
        let lookup = |n: &str| (n == "NAMESPACE").then(|| OsString::from("env"));
        for (line, expected) in [
            ("--pool-name=p", "env"),
            ("--pool-name=p --pool-namespace=flag", "flag"),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let CommandLine::Run(s, _) = read("epp", &args, &lookup) else {
                panic!("{line}")
            };
            assert_eq!(s.namespace, expected);
        }
    }

    #[test]
    fn the_log_level_wins_over_the_verbosity() {
        for (line, threshold) in [
            ("-v 4", Threshold::Verbosity(4)),
            ("-v 200", Threshold::Verbosity(200)),
            ("-v 4 --zap-log-level INFO", Threshold::Verbosity(0)),
            ("--zap-log-level debug", Threshold::Verbosity(1)),
            ("--zap-log-level warn", Threshold::Warn),
            ("--zap-log-level 7", Threshold::Verbosity(7)),
            ("--zap-log-level panic", Threshold::Panic),
        ] {
            assert_eq!(
                settings(&format!("--pool-name p {line}")).logging.threshold,
                threshold,
                "{line}"
            );
        }
        assert_eq!(
            settings("--pool-name p --zap-devel=false").logging.encoder,
            Encoder::Json
        );
    }

    #[test]
    fn a_v0_5_0_command_line_keeps_its_metric_flags() {
        let s = settings("--pool-name p --compat-version v0.5.0 --lora-info-metric=");
        let specs = s.metric_specs.unwrap();
        assert_eq!(
            (specs.lora.as_str(), specs.queued.as_str()),
            ("", "vllm:num_requests_waiting")
        );
        assert_eq!(settings("--pool-name p").metric_specs, None);
    }
}
