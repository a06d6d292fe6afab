//! Configurations: every mistake of a document at once with its place, the error texts of plugins.md §1.1, the
//! injection rules of §1.2, and the examples in `config/`.

use std::sync::Arc;

use endpoint_picker::base::clock::Clock;
use endpoint_picker::config::{self, Built, Environment, Source};
use endpoint_picker::telemetry::metrics::Metrics;

fn build(text: &str) -> Result<Built, String> {
    let source = Source::Text {
        name: "c.yaml".into(),
        bytes: text.as_bytes().to_vec(),
    };
    let metrics = Arc::new(Metrics::default());
    config::build(&source, &Environment::default(), &metrics, &Clock::System).map_err(|e| e.to_string())
}

/// A document of the newer version with this rest.
fn document(rest: &str) -> String {
    format!("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n{rest}")
}

fn mistakes(rest: &str) -> String {
    match build(&document(rest)) {
        Ok(_) => panic!("accepted:\n{rest}"),
        Err(text) => text,
    }
}

#[test]
fn three_mistakes_are_reported_at_once_with_places_and_suggestions() {
    let text = mistakes(
        "plugins:\n- type: queue-scorr\n- type: max-score-picker\n  parameters: {maxNumOfEndpoint: 2}\nschedulingProfile: []\n",
    );
    let expected = "\
c.yaml:4:3: plugins[0]: plugin type 'queue-scorr' is not registered (did you mean \"queue-scorer\"?)
c.yaml:6:16: plugins[1].parameters.maxNumOfEndpoint: unknown parameter \"maxNumOfEndpoint\" (did you mean \"maxNumOfEndpoints\"?)
c.yaml:7:1: schedulingProfile: unknown field \"schedulingProfile\" (did you mean \"schedulingProfiles\"?)";
    assert_eq!(text, expected);
}

#[test]
fn each_mistake_has_the_text_of_the_reference() {
    let rows = [
        (
            "featureGates: [flowControll]",
            "feature gate 'flowControll' is unknown or unregistered (did you mean \"flowControl\"?)",
        ),
        (
            "featureGates: [flowControl=maybe]",
            "feature gate \"flowControl\" must be =true or =false",
        ),
        ("plugins: [{name: a}]", "plugin 'a' is missing a type"),
        ("plugins: [{type: nope}]", "plugin type 'nope' is not registered"),
        (
            "plugins: [{type: queue-scorer}, {type: queue-scorer}]",
            "duplicate plugin name 'queue-scorer'",
        ),
        (
            "plugins: [{type: queue-scorer, typo: 1}]",
            "unknown field \"typo\" (did you mean \"type\"?)",
        ),
        (
            "plugins: [{type: queue-scorer, type: queue-scorer}]",
            "field \"type\" is given twice",
        ),
        ("plugins: {}", "must be a list, not an object"),
        (
            "plugins: [{type: 3}]",
            "must be a string, not a number (put it in quotes)",
        ),
        (
            "plugins: [{type: file-discovery}]",
            "failed to create plugin 'file-discovery' (type: file-discovery): path is required",
        ),
        (
            "schedulingProfiles: [{plugins: []}]",
            "schedulingProfiles[0] is missing a name",
        ),
        (
            "schedulingProfiles: [{name: p}, {name: p}]",
            "schedulingProfiles[1] has duplicate name 'p'",
        ),
        (
            "schedulingProfiles: [{name: p, plugins: [{weight: 1}]}]",
            "schedulingProfiles[p].plugins[0] is missing a 'pluginRef'",
        ),
        (
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: x}]}]",
            ":3:42: schedulingProfiles[0].plugins[0]: schedulingProfiles[p] references undefined plugin 'x'",
        ),
        (
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: x, weight: .nan}]}]",
            "non-finite float",
        ),
        (
            "plugins: [{type: random-picker}, {type: max-score-picker}]\nschedulingProfiles: [{name: p, plugins: [{pluginRef: random-picker}, {pluginRef: max-score-picker}]}]",
            "failed to set 'max-score-picker' as picker, already have 'random-picker'",
        ),
        (
            "schedulingProfiles: [{name: p}, {name: q}]",
            "no profile handler configured",
        ),
        (
            "plugins: [{type: single-profile-handler}, {name: b, type: single-profile-handler}]",
            "only one profile handler may be configured",
        ),
        (
            "dataLayer: {sources: [{pluginRef: q}]}\nplugins: [{name: q, type: queue-scorer}]",
            "the plugin q is not a data source",
        ),
        (
            "plugins: [{type: core-metrics-extractor}, {name: b, type: model-server-protocol-metrics}]",
            "plugins[1]: a second extractor beside core-metrics-extractor: name the one to use in dataLayer.sources",
        ),
        (
            "plugins: [{type: metrics-data-source}, {name: b, type: metrics-data-source}]",
            "plugins[1]: a second data source beside metrics-data-source: name the one to use in dataLayer.sources",
        ),
        (
            "plugins: [{type: metrics-data-source}, {name: a, type: core-metrics-extractor}, {name: b, type: \
             core-metrics-extractor}]\ndataLayer: {sources: [{pluginRef: metrics-data-source, extractors: [{pluginRef: a}, \
             {pluginRef: b}]}]}",
            "a second extractor: put its engineConfigs into the first one",
        ),
        (
            "plugins: [{type: metrics-data-source}, {name: b, type: metrics-data-source}]\ndataLayer: {sources: \
             [{pluginRef: metrics-data-source}, {pluginRef: b}]}",
            "a second data source: an endpoint has one metrics page, name one source",
        ),
        (
            "dataLayer: {discovery: {pluginRef: q}}\nplugins: [{name: q, type: queue-scorer}]",
            "the plugin q does not discover endpoints",
        ),
        (
            "saturationDetector: {metricsStalenessThreshold: 5}",
            "must be a string, not a number",
        ),
        (
            "saturationDetector: {metricsStalenessThreshold: '5'}",
            "time: missing unit in duration \"5\"",
        ),
        ("flowControl: {maxBytes: -1}", "maxBytes must not be negative"),
        ("flowControl: {defaultRequestTTL: -1s}", "must not be negative"),
        ("data: {}", "unknown field \"data\""),
    ];
    for (rest, text) in rows {
        let got = mistakes(rest);
        assert!(got.contains(text), "{rest}\n{got}");
        assert!(got.starts_with("c.yaml:"), "{got}");
    }
}

#[test]
fn the_referenced_source_and_extractor_are_the_ones_in_force() {
    let plugins = "plugins: [{name: one, type: metrics-data-source, parameters: {path: /x}}, {name: two, type: \
                   metrics-data-source, parameters: {path: /y}}, {name: a, type: core-metrics-extractor}]\n";
    let built = build(&document(&format!(
        "{plugins}dataLayer: {{sources: [{{pluginRef: two}}]}}"
    )))
    .unwrap();
    assert_eq!(built.scraping.source.unwrap().path.as_deref(), Some("/y"));
    assert!(built.scraping.engines.is_none(), "it is not referenced");
    let unused = |name: &str| format!("plugin {name} has no effect: dataLayer.sources does not name it");
    assert_eq!(built.warnings, [unused("one"), unused("a")]);
    // Without references the only one of its kind is meant.
    let built = build(&document("plugins: [{type: core-metrics-extractor}]")).unwrap();
    assert!(built.scraping.engines.is_some() && built.warnings.is_empty());
}

#[test]
fn version_and_kind_are_required_and_known() {
    let rows = [
        ("", "apiVersion is missing"),
        (
            "apiVersion: v2\nkind: EndpointPickerConfig",
            "unknown apiVersion \"v2\"",
        ),
        ("apiVersion: llm-d.ai/v1alpha1", "kind is missing"),
        ("apiVersion: llm-d.ai/v1alpha1\nkind: Pod", "unknown kind \"Pod\""),
        ("[1]", "must be an object, not a list"),
        ("a: [", "failed to decode configuration JSON/YAML"),
    ];
    for (text, expected) in rows {
        let got = build(text).err().unwrap();
        assert!(got.contains(expected), "{text}: {got}");
    }
}

#[test]
fn both_versions_load_as_yaml_and_json() {
    let old = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: queue-scorer}]\ndata: {sources: []}\n";
    let json = r#"{"apiVersion":"llm-d.ai/v1alpha1","kind":"EndpointPickerConfig","plugins":[{"type":"queue-scorer"}]}"#;
    for text in [old, json] {
        assert!(build(text).is_ok(), "{text}: {:?}", build(text).err());
    }
}

#[test]
fn what_is_not_configured_is_injected_in_configuration_order() {
    let built = build(&document(
        "plugins: [{type: kv-cache-utilization-scorer}, {type: queue-scorer}]",
    ))
    .unwrap();
    let [profile] = built.scheduler.profiles() else {
        panic!("one profile")
    };
    assert_eq!(&*profile.name, "default");
    let scorers: Vec<(&str, f64)> = profile.scorers.iter().map(|s| (&*s.name, s.weight)).collect();
    assert_eq!(
        scorers,
        [("kv-cache-utilization-scorer", 1.0), ("queue-scorer", 1.0)]
    );
    assert_eq!(&*profile.picker.0, "max-score-picker");
    let names: Vec<&str> = built.plugins.iter().map(|p| &*p.name).collect();
    assert_eq!(
        names,
        [
            "kv-cache-utilization-scorer",
            "queue-scorer",
            "single-profile-handler",
            "max-score-picker"
        ]
    );
}

#[test]
fn a_profile_without_a_picker_takes_max_score_before_others() {
    let rest = "plugins: [{type: random-picker}, {type: max-score-picker}]\nschedulingProfiles: [{name: p}]";
    let built = build(&document(rest)).unwrap();
    assert_eq!(built.scheduler.profiles()[0].picker.1, "max-score-picker");
}

#[test]
fn the_built_in_configuration_is_the_documented_one() {
    let metrics = Arc::new(Metrics::default());
    let built = config::build(
        &Source::BuiltIn,
        &Environment::default(),
        &metrics,
        &Clock::System,
    )
    .ok()
    .unwrap();
    let scorers: Vec<(&str, f64)> = built.scheduler.profiles()[0]
        .scorers
        .iter()
        .map(|s| (s.type_name, s.weight))
        .collect();
    assert_eq!(
        scorers,
        [
            ("queue-scorer", 2.0),
            ("kv-cache-utilization-scorer", 2.0),
            ("prefix-cache-scorer", 3.0)
        ]
    );
}

#[test]
fn thresholds_come_from_the_file_unless_the_environment_has_them() {
    let text = document(
        "saturationDetector: {queueDepthThreshold: 9, kvCacheUtilThreshold: 1.5, metricsStalenessThreshold: 1s}",
    );
    let source = Source::Text {
        name: "c".into(),
        bytes: text.into_bytes(),
    };
    let metrics = Arc::new(Metrics::default());
    let environment = Environment {
        kv_cache_util: Some(0.5),
        gates: vec!["flowControl"],
        ..Environment::default()
    };
    let built = config::build(&source, &environment, &metrics, &Clock::System)
        .ok()
        .unwrap();
    assert_eq!(built.detector.queue_depth_threshold, 9);
    assert!((built.detector.kv_cache_util_threshold - 0.5).abs() < f64::EPSILON);
    assert_eq!(built.detector.metrics_staleness_threshold.as_millis(), 1000);
    assert!(
        built
            .warnings
            .iter()
            .any(|w| w.contains("flow control is not built yet")),
        "{:?}",
        built.warnings
    );
}

#[test]
fn equal_configurations_have_equal_hashes() {
    let hash = |rest: &str| build(&document(rest)).unwrap().hash;
    let a = hash("plugins: [{type: queue-scorer}]");
    assert_eq!(a, hash("plugins:\n- type: 'queue-scorer'\n"));
    assert_ne!(a, hash("plugins: [{type: random-picker}]"));
}

#[test]
fn every_example_loads() {
    let folder = crate::support::epp::in_package("config");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml")
            || path.file_name().is_some_and(|n| n == "endpoints.yaml")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            build(&text).is_ok(),
            "{}: {:?}",
            path.display(),
            build(&text).err()
        );
        count += 1;
    }
    assert!(count >= 5, "only {count} examples");
}

#[test]
fn the_configuration_page_lists_every_plugin_and_parameter() {
    let page = std::fs::read_to_string(crate::support::epp::in_package(
        "docs/user-guide/configuration.md",
    ))
    .unwrap();
    let mut expected = String::new();
    for plugin in config::registry().iter() {
        expected.push_str(&format!("### `{}`\n\n{}\n\n", plugin.name, plugin.help));
        if !plugin.params.is_empty() {
            expected.push_str("| parameter | type | default | meaning |\n|---|---|---|---|\n");
            for p in plugin.params {
                expected.push_str(&format!(
                    "| `{}` | {} | {} | {} |\n",
                    p.name, p.kind, p.default, p.help
                ));
            }
            expected.push('\n');
        }
    }
    let generated = page
        .split("<!-- plugins: begin -->\n")
        .nth(1)
        .and_then(|p| p.split("<!-- plugins: end -->").next());
    assert_eq!(
        generated.unwrap_or("no generated section").trim(),
        expected.trim(),
        "replace the section by:\n{expected}"
    );
}
