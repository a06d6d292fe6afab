//! What the OTEL variables ask for. Read by `app`; the endpoint, its headers and timeout are read by the exporter
//! itself (`OTEL_EXPORTER_OTLP_*`).

use std::ffi::OsString;
use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;

/// Share of the requests sampled where nothing says otherwise.
const RATIO: f64 = 0.1;

/// How spans are sampled and sent.
#[derive(Clone, Debug)]
pub struct TracingSettings {
    /// Which exchanges are recorded.
    pub sampler: Sampler,
    /// `service.name`, where neither `OTEL_SERVICE_NAME` nor `OTEL_RESOURCE_ATTRIBUTES` has one.
    pub service_name: Option<&'static str>,
    /// Ended spans that may wait; more are dropped.
    pub queue: usize,
    /// Spans sent at once.
    pub batch: usize,
    /// Longest wait of an ended span before it is sent.
    pub delay: Duration,
    /// Longest wait for the collector.
    pub timeout: Duration,
    /// The collector is reached over TLS.
    pub tls: bool,
}

/// Variables that name the collector, the first one that is set counts.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Where variables are read from.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl TracingSettings {
    /// Reads the environment. `None` when no exporter is asked for; the lines say what could not be followed.
    pub fn read(lookup: Lookup<'_>) -> (Option<Self>, Vec<String>) {
        let text = |name: &str| {
            let value = lookup(name)?.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let mut warnings = Vec::new();
        if !asked_for(&text, &mut warnings) {
            return (None, warnings);
        }
        let attributes = text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let named = text("OTEL_SERVICE_NAME").is_some()
            || attributes
                .split(',')
                .any(|a| a.trim().starts_with("service.name="));
        let mut number = |name: &str, default: u64, least: u64| {
            let Some(value) = text(name) else { return default };
            let good = value.parse().ok().filter(|n| *n >= least);
            if good.is_none() {
                warnings.push(format!(
                    "{name}={value:?} is not a whole number of at least {least}: using {default}"
                ));
            }
            good.unwrap_or(default)
        };
        let queue = size(number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1));
        let batch = size(number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1)).min(queue);
        let delay = Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5000, 1));
        let timeout = Duration::from_millis(number("OTEL_BSP_EXPORT_TIMEOUT", 30_000, 1));
        let settings = TracingSettings {
            sampler: sampler(&text, &mut warnings),
            service_name: (!named).then_some("gateway-api-inference-extension"),
            queue,
            batch,
            delay,
            timeout,
            tls: ENDPOINTS
                .iter()
                .find_map(|e| text(e))
                .is_some_and(|endpoint| !endpoint.starts_with("http://")),
        };
        (Some(settings), warnings)
    }
}

/// Bounded, so that a typing error cannot ask for all memory.
fn size(n: u64) -> usize {
    usize::try_from(n.min(1 << 20)).unwrap_or(1 << 20)
}

/// `OTEL_TRACES_EXPORTER=otlp`, or an endpoint without another exporter being named.
fn asked_for(text: &impl Fn(&str) -> Option<String>, warnings: &mut Vec<String>) -> bool {
    if text("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return false;
    }
    let on = match text("OTEL_TRACES_EXPORTER").as_deref() {
        None => ENDPOINTS.iter().any(|e| text(e).is_some()),
        Some("otlp") => true,
        Some("none") => false,
        Some(other) => {
            warnings.push(format!(
                "OTEL_TRACES_EXPORTER={other:?} is not an exporter of epp: use otlp or none; no spans are sent"
            ));
            false
        }
    };
    let protocol = [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];
    if on && let Some(other) = protocol.iter().find_map(|p| text(p)).filter(|p| p != "grpc") {
        warnings.push(format!(
            "OTLP is sent over grpc; the protocol {other:?} of the environment is not followed"
        ));
    }
    on
}

fn sampler(text: &impl Fn(&str) -> Option<String>, warnings: &mut Vec<String>) -> Sampler {
    let argument = text("OTEL_TRACES_SAMPLER_ARG");
    let ratio = argument.as_deref().map_or(Some(RATIO), |a| {
        a.parse().ok().filter(|r| (0.0..=1.0).contains(r))
    });
    let mut ratio = || {
        let bad = argument.as_deref().unwrap_or_default();
        ratio.unwrap_or_else(|| {
            warnings.push(format!(
                "OTEL_TRACES_SAMPLER_ARG={bad:?} is not between 0 and 1: using {RATIO}"
            ));
            RATIO
        })
    };
    let parent_based = |root| Sampler::ParentBased(Box::new(root));
    match text("OTEL_TRACES_SAMPLER").as_deref() {
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => Sampler::TraceIdRatioBased(ratio()),
        Some("parentbased_always_on") => parent_based(Sampler::AlwaysOn),
        Some("parentbased_always_off") => parent_based(Sampler::AlwaysOff),
        None | Some("parentbased_traceidratio") => parent_based(Sampler::TraceIdRatioBased(ratio())),
        Some(other) => {
            warnings.push(format!(
                "OTEL_TRACES_SAMPLER={other:?} is unknown: using parentbased_traceidratio of {RATIO}"
            ));
            parent_based(Sampler::TraceIdRatioBased(RATIO))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<TracingSettings>, Vec<String>) {
        TracingSettings::read(&|name| {
            let found = pairs.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| OsString::from(v))
        })
    }

    #[test]
    fn an_exporter_is_started_only_where_it_is_asked_for() {
        let otlp = ("OTEL_TRACES_EXPORTER", "otlp");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        let rows: [(&[(&str, &str)], bool, usize); 9] = [
            (&[], false, 0),
            (&[otlp], true, 0),
            (&[endpoint], true, 0),
            (
                &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")],
                true,
                0,
            ),
            (&[endpoint, ("OTEL_TRACES_EXPORTER", "none")], false, 0),
            (&[endpoint, ("OTEL_TRACES_EXPORTER", "console")], false, 1),
            (&[otlp, ("OTEL_SDK_DISABLED", "True")], false, 0),
            (&[otlp, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], true, 1),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false, 0),
        ];
        for (env, on, warned) in rows {
            let (settings, warnings) = read(env);
            assert_eq!(
                (settings.is_some(), warnings.len()),
                (on, warned),
                "{env:?} {warnings:?}"
            );
        }
    }

    #[test]
    fn samplers_are_those_of_the_variables() {
        let rows = [
            ("", "", "ParentBased(TraceIdRatioBased(0.1))", 0),
            (
                "parentbased_traceidratio",
                "0.5",
                "ParentBased(TraceIdRatioBased(0.5))",
                0,
            ),
            ("traceidratio", "1", "TraceIdRatioBased(1.0)", 0),
            ("traceidratio", "1.5", "TraceIdRatioBased(0.1)", 1),
            ("always_on", "", "AlwaysOn", 0),
            ("always_off", "x", "AlwaysOff", 0),
            ("parentbased_always_on", "", "ParentBased(AlwaysOn)", 0),
            ("parentbased_always_off", "", "ParentBased(AlwaysOff)", 0),
            ("jaeger_remote", "0.5", "ParentBased(TraceIdRatioBased(0.1))", 1),
        ];
        for (sampler, argument, want, warned) in rows {
            let (settings, warnings) = read(&[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ]);
            let got = format!("{:?}", settings.unwrap().sampler);
            assert_eq!(
                (got.as_str(), warnings.len()),
                (want, warned),
                "{sampler} {argument}"
            );
        }
    }

    #[test]
    fn the_service_has_a_name_and_the_queue_a_size() {
        let (settings, _) = read(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        let settings = settings.unwrap();
        assert_eq!(settings.service_name, Some("gateway-api-inference-extension"));
        assert_eq!((settings.queue, settings.batch), (2048, 512));
        for named in [
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=mine"),
        ] {
            let (settings, _) = read(&[("OTEL_TRACES_EXPORTER", "otlp"), named]);
            assert_eq!(settings.unwrap().service_name, None, "{named:?}");
        }
        let (settings, warnings) = read(&[
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ]);
        let settings = settings.unwrap();
        assert_eq!((settings.queue, settings.batch), (10, 10));
        assert_eq!((settings.delay, warnings.len()), (Duration::from_secs(5), 1));
    }
}
