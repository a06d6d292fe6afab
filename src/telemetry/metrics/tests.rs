//! What the page shows after what was recorded.

use std::collections::BTreeSet;

use super::*;

/// A registry in which every metric of the catalogue has a series.
pub(crate) fn everything() -> (Metrics, Arc<PrefixIndexGauge>) {
    let metrics = Metrics::default();
    let index = metrics.prefix_index();
    index.set(7);
    let model = metrics.model("m", "t");
    model.accepted(2000);
    model.running(1);
    model.error("BadRequest");
    model.completed(Duration::from_millis(250), 300);
    model.tokens(100, 20, 64, Duration::from_secs(1));
    metrics.scheduled(Duration::from_micros(3), true);
    metrics.scheduled(Duration::from_micros(3), false);
    metrics
        .plugin_timer("Scorer", "queue-scorer", "q")
        .observe(Duration::from_micros(1));
    metrics.rewritten("r", "m", "t");
    metrics.prefix_match(3, 4, 192);
    metrics.prefix_updates_dropped(2);
    metrics.pool("p", 2, Some(0.5), Some(1.5));
    metrics.endpoint_queues("p", || vec![("a-rank-0".into(), 4), ("b-rank-0".into(), 0)]);
    metrics.endpoint_health("p", || EndpointHealth {
        standings: [("healthy", 3), ("suspect", 1), ("down", 0)],
        changes: 7,
    });
    metrics.build_info("c0ffee", "main");
    metrics.buffered_bytes(9 << 20, || 16384);
    let failure = connections::Failure::Protocol;
    metrics.connections().failed(connections::Port::ExtProc, failure);
    metrics.config_applied("0123456789abcdef", SystemTime::now());
    metrics.api_server(|| Duration::from_millis(1500));
    (metrics, index)
}

#[test]
fn help_texts_are_sentences_with_the_stability_of_the_metric() {
    for spec in catalogue::ALL {
        assert!(
            spec.help.ends_with('.') && !spec.help.ends_with(".."),
            "{}",
            spec.help
        );
        let ours = !spec.name.starts_with("process_");
        assert_eq!(spec.help.starts_with("[ALPHA] "), ours, "{}", spec.help);
    }
}

fn has(page: &str, line: &str) -> bool {
    page.lines().any(|l| l == line)
}

#[test]
fn every_metric_of_the_catalogue_is_on_the_page_once_and_nothing_else_is() {
    let page = everything().0.encode();
    let shown: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
    let unique: BTreeSet<&str> = shown.iter().copied().collect();
    assert_eq!(shown.len(), unique.len(), "a family is declared once");
    let want: BTreeSet<String> = catalogue::ALL
        .iter()
        .map(|s| {
            format!(
                "{} {}",
                s.name.strip_suffix("_total").unwrap_or(s.name),
                s.kind.as_str()
            )
        })
        .collect();
    assert_eq!(
        unique.into_iter().map(String::from).collect::<BTreeSet<_>>(),
        want
    );
}

#[test]
fn the_labels_on_the_page_are_those_of_the_catalogue_in_order() {
    let page = everything().0.encode();
    for spec in catalogue::ALL {
        let sample = page.lines().find(|l| {
            let name = l.split(['{', ' ']).next().unwrap();
            name == spec.name || name.strip_suffix("_count") == Some(spec.name)
        });
        let sample = sample.unwrap_or_else(|| panic!("no sample of {}", spec.name));
        let labels: Vec<&str> = match sample.split_once('{') {
            Some((_, rest)) => rest.split(',').map(|l| l.split('=').next().unwrap()).collect(),
            None => vec![],
        };
        assert_eq!(labels, spec.labels, "{sample}");
    }
}

#[test]
fn what_was_recorded_is_what_is_shown() {
    let page = everything().0.encode();
    let of = r#"{model_name="m",target_model_name="t"}"#;
    let lines = [
        format!("inference_objective_request_total{of} 1"),
        format!("inference_objective_request_sizes_sum{of} 2000.0"),
        format!("inference_objective_request_duration_seconds_sum{of} 0.25"),
        format!("inference_objective_response_sizes_sum{of} 300.0"),
        format!("inference_objective_input_tokens_sum{of} 100.0"),
        format!("inference_objective_output_tokens_sum{of} 20.0"),
        format!("inference_objective_prompt_cached_tokens_sum{of} 64.0"),
        format!("inference_objective_normalized_time_per_output_token_seconds_sum{of} 0.05"),
        r#"inference_objective_request_error_total{model_name="m",target_model_name="t",error_code="BadRequest"} 1"#
            .into(),
        r#"inference_objective_running_requests{model_name="m"} 1"#.into(),
        r#"inference_pool_average_kv_cache_utilization{name="p"} 0.5"#.into(),
        r#"inference_pool_average_queue_size{name="p"} 1.5"#.into(),
        r#"inference_pool_ready_pods{name="p"} 2"#.into(),
        r#"inference_pool_per_pod_queue_size{name="p",model_server_pod="a-rank-0"} 4"#.into(),
        r#"inference_extension_scheduler_attempts_total{status="success"} 1"#.into(),
        r#"inference_extension_scheduler_attempts_total{status="failure"} 1"#.into(),
        "inference_extension_prefix_indexer_size 7".into(),
        "inference_extension_prefix_indexer_dropped_updates_total 2".into(),
        "inference_extension_prefix_indexer_hit_ratio_sum 0.75".into(),
        "inference_extension_prefix_indexer_hit_bytes_sum 192.0".into(),
        r#"inference_extension_info{commit="c0ffee",build_ref="main"} 1"#.into(),
        r#"inference_extension_model_rewrite_decisions_total{model_rewrite_name="r",model_name="m",target_model="t"} 1"#
            .into(),
    ];
    for line in lines {
        assert!(has(&page, &line), "missing: {line}\n{page}");
    }
}

#[test]
fn an_untouched_registry_shows_no_model_and_no_pool() {
    let page = Metrics::default().encode();
    for absent in [
        "inference_objective_",
        "inference_pool_",
        "_attempts",
        "_plugin_",
        "_info",
    ] {
        assert!(!page.contains(absent), "{absent} in\n{page}");
    }
    assert!(has(
        &page,
        "inference_extension_scheduler_e2e_duration_seconds_count 0"
    ));
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn a_failed_request_leaves_no_empty_histograms_behind() {
    let metrics = Metrics::default();
    metrics.model("", "").error("BadRequest");
    let page = metrics.encode();
    assert!(has(
        &page,
        r#"inference_objective_request_error_total{model_name="",target_model_name="",error_code="BadRequest"} 1"#
    ));
    assert!(!page.contains("inference_objective_request_sizes"), "{page}");
}

#[test]
fn running_knows_the_model_only_and_not_the_empty_one() {
    let metrics = Metrics::default();
    metrics.model("", "").running(1);
    assert!(!metrics.encode().contains("running_requests"));
    metrics.model("m", "a").running(1);
    metrics.model("m", "b").running(1);
    metrics.model("m", "b").running(1);
    let line = |n| format!(r#"inference_objective_running_requests{{model_name="m"}} {n}"#);
    assert!(has(&metrics.encode(), &line(3)));
    metrics.model("m", "a").running(-1);
    metrics.model("m", "b").running(-2);
    assert!(has(&metrics.encode(), &line(0)), "the gauge stays, at zero");
}

#[test]
fn what_was_not_measured_is_not_observed() {
    let metrics = Metrics::default();
    let model = metrics.model("m", "m");
    model.completed(Duration::ZERO, 10);
    model.tokens(0, 0, 0, Duration::from_secs(1));
    model.tokens(5, 5, 0, Duration::ZERO);
    metrics.prefix_match(0, 0, 0);
    let page = metrics.encode();
    let count = |name: &str| {
        let key = format!("{name}_count{{model_name=\"m\",target_model_name=\"m\"}} ");
        page.lines()
            .find_map(|l| l.strip_prefix(&key))
            .map_or(0, |n| n.parse::<u64>().unwrap())
    };
    assert_eq!(count("inference_objective_request_duration_seconds"), 0);
    assert_eq!(count("inference_objective_response_sizes"), 1);
    assert_eq!(count("inference_objective_input_tokens"), 1);
    assert_eq!(count("inference_objective_output_tokens"), 1);
    assert_eq!(count("inference_objective_prompt_cached_tokens"), 2);
    assert_eq!(
        count("inference_objective_normalized_time_per_output_token_seconds"),
        0
    );
    assert!(has(&page, "inference_extension_prefix_indexer_hit_ratio_count 0"));
    assert!(has(&page, "inference_extension_prefix_indexer_hit_bytes_count 1"));
}

#[test]
fn the_size_of_the_prefix_index_is_that_of_all_indexes_in_use() {
    let metrics = Metrics::default();
    let size = |n| {
        has(
            &metrics.encode(),
            &format!("inference_extension_prefix_indexer_size {n}"),
        )
    };
    assert!(size(0));
    let (one, other) = (metrics.prefix_index(), metrics.prefix_index());
    one.set(5);
    other.set(3);
    assert!(size(8));
    drop(one);
    assert!(size(3), "a retired index is not counted");
}

/// A request for `model` that was routed and refused by the model server.
fn made_up(metrics: &Metrics, model: &str) {
    let series = metrics.model(model, model);
    series.accepted(10);
    series.running(1);
    series.completed(Duration::from_millis(1), 10);
    series.error("ModelServerError");
    series.running(-1);
}

/// A request for `model` that a model server answered.
fn served(metrics: &Metrics, model: &str) {
    let series = metrics.model(model, model);
    series.accepted(10);
    metrics.served(model, model, &series);
    series.completed(Duration::from_millis(1), 10);
}

fn requests(page: &str, model: &str) -> Option<u64> {
    let key =
        format!("inference_objective_request_total{{model_name=\"{model}\",target_model_name=\"{model}\"}} ");
    page.lines()
        .find_map(|l| l.strip_prefix(&key))
        .map(|n| n.parse().unwrap())
}

#[test]
fn made_up_models_take_few_places_and_a_model_that_is_served_always_has_its_own() {
    let metrics = Metrics::default();
    made_up(&metrics, "first");
    for i in 0..3000 {
        made_up(&metrics, &format!("{i:0128}"));
    }
    let page = metrics.encode();
    assert_eq!(
        requests(&page, "first"),
        Some(1),
        "a place is free for the first ones"
    );
    assert_eq!(requests(&page, "other"), Some(3001 - model::MAX_UNPROVEN as u64));
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
    for _ in 0..3 {
        served(&metrics, "real");
        served(&metrics, "first");
    }
    let page = metrics.encode();
    assert_eq!(
        requests(&page, "real"),
        Some(2),
        "the first was counted before it was known"
    );
    assert_eq!(
        requests(&page, "first"),
        Some(4),
        "a series that is moved goes on"
    );
    assert_eq!(requests(&page, "other"), Some(3002 - model::MAX_UNPROVEN as u64));
    served(&metrics, "other");
    made_up(&metrics, "real");
    made_up(&metrics, "takes the place that is free again");
    served(&metrics, "another");
    assert_eq!(requests(&metrics.encode(), "another"), None);
    served(&metrics, "another");
    assert_eq!(requests(&metrics.encode(), "another"), Some(1));
    assert_eq!(requests(&metrics.encode(), "real"), Some(3));
}

#[test]
fn failures_before_a_model_was_read_keep_their_series() {
    let metrics = Metrics::default();
    for i in 0..200 {
        made_up(&metrics, &format!("m{i}"));
    }
    metrics.model("", "").error("BadRequest");
    assert!(has(
        &metrics.encode(),
        r#"inference_objective_request_error_total{model_name="",target_model_name="",error_code="BadRequest"} 1"#
    ));
}

#[test]
fn the_page_is_limited_whatever_models_are_served() {
    let metrics = Metrics::default();
    for i in 0..2000 {
        let name = format!("{i:0128}");
        served(&metrics, &name);
        metrics
            .model(&name, &name)
            .tokens(1, 1, 1, Duration::from_secs(1));
    }
    let page = metrics.encode();
    assert!(page.len() < 24 << 20, "{} bytes", page.len());
    let pairs = page
        .lines()
        .filter(|l| l.starts_with("inference_objective_request_total{"))
        .count();
    assert!(pairs > 200, "{pairs}");
}

#[test]
fn threads_that_serve_one_pair_at_once_lose_no_request() {
    let metrics = Metrics::default();
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for i in 0..60 {
                    served(&metrics, &format!("m{i}"));
                }
            });
        }
    });
    let page = metrics.encode();
    let lines = page
        .lines()
        .filter(|l| l.starts_with("inference_objective_request_total{"));
    assert_eq!(
        lines
            .map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum::<u64>(),
        240
    );
}

#[test]
fn error_codes_are_bounded() {
    let metrics = Metrics::default();
    for i in 0..100 {
        metrics.model("m", "m").error(&format!("code-{i}"));
    }
    let page = metrics.encode();
    let errors: Vec<&str> = page
        .lines()
        .filter(|l| l.starts_with("inference_objective_request_error_total{"))
        .collect();
    assert_eq!(errors.len(), 17);
    assert!(errors.iter().any(|l| l.ends_with(r#"error_code="other"} 84"#)));
}

#[test]
fn a_pool_without_averages_keeps_its_ready_count_only() {
    let metrics = Metrics::default();
    metrics.pool("p", 3, Some(0.2), Some(4.0));
    metrics.pool("p", 0, None, None);
    let page = metrics.encode();
    assert!(has(&page, r#"inference_pool_ready_pods{name="p"} 0"#));
    assert!(!page.contains("inference_pool_average"), "{page}");
}

#[test]
fn bucket_bounds_ascend() {
    for bounds in [
        buckets::REQUEST_SECONDS,
        buckets::SCHEDULING_SECONDS,
        buckets::SECONDS_PER_TOKEN,
        buckets::REQUEST_BYTES,
        buckets::RESPONSE_BYTES,
        buckets::PROMPT_TOKENS,
        buckets::OUTPUT_TOKENS,
        buckets::HIT_RATIO,
        buckets::HIT_BYTES,
    ] {
        assert!(bounds.windows(2).all(|w| w[0] < w[1]), "{bounds:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_is_measured() {
    let page = Metrics::default().encode();
    let value = |name: &str| -> f64 {
        let key = format!("{name} ");
        page.lines()
            .find_map(|l| l.strip_prefix(&key))
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((now.as_secs_f64() - value("process_start_time_seconds")).abs() < 3600.0);
}
