//! Environment variables of `epp` (runtime.md §1.6), read once and before anything is built from them.

use std::ffi::OsString;
use std::time::Duration;

use crate::base::duration::GoDuration;
use crate::base::flags::parse_bool;

/// Where variables are read from; the process's own, or a test's.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Overrides of the saturation detector. A variable that is present but no good value gives the default, not
/// the configuration file's value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SaturationOverrides {
    /// `SD_QUEUE_DEPTH_THRESHOLD`.
    pub queue_depth: Option<u32>,
    /// `SD_KV_CACHE_UTIL_THRESHOLD`.
    pub kv_cache_util: Option<f64>,
    /// `SD_METRICS_STALENESS_THRESHOLD`.
    pub staleness: Option<Duration>,
}

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// `NAMESPACE`, where not empty.
    pub namespace: Option<String>,
    /// `POD_NAME`, where not empty.
    pub pod_name: Option<String>,
    /// Feature gates switched on by deprecated variables.
    pub gates: Vec<&'static str>,
    /// Saturation thresholds.
    pub saturation: SaturationOverrides,
    /// One line per deprecated variable in use, and per value that was replaced.
    pub warnings: Vec<String>,
}

const GATES: [(&str, &str); 2] = [
    ("ENABLE_EXPERIMENTAL_DATALAYER_V2", "dataLayer"),
    ("ENABLE_EXPERIMENTAL_FLOW_CONTROL_LAYER", "flowControl"),
];

/// Reads the environment.
pub fn read(lookup: Lookup<'_>) -> Environment {
    let mut warnings = Vec::new();
    let text = |name: &str| lookup(name).map(|v| v.to_string_lossy().into_owned());
    let mut gates = Vec::new();
    for (variable, gate) in GATES {
        let Some(value) = text(variable) else { continue };
        warnings.push(format!(
            "{variable} is deprecated: list {gate} in featureGates of the configuration instead"
        ));
        if parse_bool(&value) == Some(true) {
            gates.push(gate);
        }
    }
    let mut threshold = |variable: &str, key: &str, default: &str, good: &dyn Fn(&str) -> bool| {
        let value = text(variable)?;
        warnings.push(format!(
            "{variable} is deprecated: set saturationDetector.{key} in the configuration instead"
        ));
        if good(&value) {
            return Some(value);
        }
        warnings.push(format!(
            "{variable}={value:?} is not a usable value: using the default {default}"
        ));
        Some(default.to_owned())
    };
    let queue = threshold("SD_QUEUE_DEPTH_THRESHOLD", "queueDepthThreshold", "5", &|v| {
        v.parse::<u32>().is_ok_and(|n| n > 0)
    });
    let kv = threshold(
        "SD_KV_CACHE_UTIL_THRESHOLD",
        "kvCacheUtilThreshold",
        "0.8",
        &|v| v.parse::<f64>().is_ok_and(|f| f > 0.0 && f < 1.0),
    );
    let stale = threshold(
        "SD_METRICS_STALENESS_THRESHOLD",
        "metricsStalenessThreshold",
        "200ms",
        &|v| GoDuration::parse(v).is_ok_and(|d| d.0 > 0),
    );
    let saturation = SaturationOverrides {
        queue_depth: queue.and_then(|v| v.parse().ok()),
        kv_cache_util: kv.and_then(|v| v.parse().ok()),
        staleness: stale.and_then(|v| GoDuration::parse(&v).ok()?.to_std()),
    };
    let not_empty = |name: &str| text(name).filter(|v| !v.is_empty());
    Environment {
        namespace: not_empty("NAMESPACE"),
        pod_name: not_empty("POD_NAME"),
        gates,
        saturation,
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Environment {
        read(&|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| OsString::from(v))
        })
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let e = with(&[("NAMESPACE", ""), ("POD_NAME", "p")]);
        assert_eq!((e.namespace, e.pod_name.as_deref()), (None, Some("p")));
    }

    #[test]
    fn gates_are_switched_on_by_true_words_only() {
        let v2 = "ENABLE_EXPERIMENTAL_DATALAYER_V2";
        for (value, on) in [
            ("true", true),
            ("1", true),
            ("T", true),
            ("false", false),
            ("yes", false),
            ("", false),
        ] {
            let e = with(&[(v2, value)]);
            assert_eq!(e.gates, if on { vec!["dataLayer"] } else { vec![] }, "{value}");
            assert_eq!(e.warnings.len(), 1, "{value}");
        }
    }

    #[test]
    fn an_unusable_threshold_gives_the_default() {
        for (queue, expected) in [("7", 7), ("0", 5), ("-1", 5), ("x", 5), ("", 5)] {
            assert_eq!(
                with(&[("SD_QUEUE_DEPTH_THRESHOLD", queue)])
                    .saturation
                    .queue_depth,
                Some(expected),
                "{queue}"
            );
        }
        for (kv, expected) in [("0.5", 0.5), ("1", 0.8), ("0", 0.8), ("NaN", 0.8)] {
            assert_eq!(
                with(&[("SD_KV_CACHE_UTIL_THRESHOLD", kv)])
                    .saturation
                    .kv_cache_util,
                Some(expected),
                "{kv}"
            );
        }
        for (age, ms) in [("1s", 1000), ("0s", 200), ("5", 200)] {
            let got = with(&[("SD_METRICS_STALENESS_THRESHOLD", age)])
                .saturation
                .staleness;
            assert_eq!(got, Some(Duration::from_millis(ms)), "{age}");
        }
        assert_eq!(with(&[]).saturation, SaturationOverrides::default());
    }
}
