//! What is written, and what is not, for each verbosity and encoder.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::*;

/// A place lines are written to, to be read back.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(options: Options, speak: impl FnOnce()) -> Vec<String> {
    let page = Page::default();
    let writer = page.clone();
    let subscriber = tracing_subscriber::registry().with(layer(options, move || writer.clone()));
    tracing::subscriber::with_default(subscriber, speak);
    let text = String::from_utf8(page.0.lock().clone()).unwrap();
    text.lines().map(String::from).collect()
}

fn options(threshold: Threshold, encoder: Encoder) -> Options {
    Options {
        threshold,
        encoder,
        ..Options::default()
    }
}

fn every_grade() {
    tracing::error!("error");
    tracing::warn!("warn");
    tracing::info!("info");
    verbose!(1, "v1");
    verbose!(2, "v2");
    verbose!(3, "v3");
    tracing::debug!("v4");
    tracing::trace!("v5");
    tracing::warn!(target: "h2::codec", "foreign warn");
    tracing::info!(target: "h2::codec", "foreign info");
    tracing::debug!(target: "h2::codec", "foreign debug");
    tracing::trace!(target: "h2::codec", "foreign trace");
}

#[test]
fn a_message_is_shown_when_its_verbosity_is_at_most_the_threshold() {
    use Threshold::{Error, Panic, Verbosity, Warn};
    let always = ["error", "warn", "info", "v1", "v2", "v3", "v4", "v5"];
    let table: [(Threshold, &[&str], &[&str]); 10] = [
        (Panic, &[], &[]),
        (Error, &always[..1], &[]),
        (Warn, &always[..2], &["warn"]),
        (Verbosity(0), &always[..3], &["warn"]),
        (Verbosity(1), &always[..4], &["warn"]),
        (Verbosity(2), &always[..5], &["warn", "info"]),
        (Verbosity(4), &always[..7], &["warn", "info"]),
        (Verbosity(5), &always, &["warn", "info"]),
        (Verbosity(6), &always, &["warn", "info", "debug"]),
        (Verbosity(300), &always, &["warn", "info", "debug", "trace"]),
    ];
    for (threshold, ours, foreign) in table {
        let lines = logged(options(threshold, Encoder::Console), every_grade);
        let shown: Vec<&str> = lines.iter().map(|l| l.rsplit('\t').next().unwrap()).collect();
        let want: Vec<String> = ours
            .iter()
            .map(|o| o.to_string())
            .chain(foreign.iter().map(|f| format!("foreign {f}")))
            .collect();
        assert_eq!(shown, want, "{threshold:?}");
    }
}

#[test]
fn arguments_of_a_message_that_is_off_are_not_built() {
    let built = std::cell::Cell::new(0);
    let build = || {
        built.set(built.get() + 1);
        "built"
    };
    logged(options(Threshold::Verbosity(3), Encoder::Json), || {
        tracing::debug!(argument = build(), "off");
        tracing::trace!("off {}", build());
        verbose!(3, argument = build(), "on");
    });
    assert_eq!(built.get(), 1);
}

#[test]
fn a_json_line_has_the_keys_of_the_reference_in_order() {
    let error = io::Error::other("disk \"full\"");
    let lines = logged(options(Threshold::Verbosity(5), Encoder::Json), || {
        tracing::error!(%error, port = 9002, ratio = 0.5, ok = true, name = "a\tb", "Cannot {}", "listen");
        verbose!(1, "d");
        tracing::trace!("t");
    });
    let first: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(first["level"], "error");
    assert_eq!(first["msg"], "Cannot listen");
    assert_eq!(first["logger"], "telemetry.logging.tests");
    assert!(first["caller"].as_str().unwrap().starts_with("logging/tests.rs:"));
    assert_eq!(first["port"], 9002);
    assert_eq!(first["ratio"], 0.5);
    assert_eq!(first["ok"], true);
    assert_eq!(first["name"], "a\tb");
    assert_eq!(first["error"], "disk \"full\"");
    let places: Vec<usize> = ["level", "ts", "logger", "caller", "msg", "port", "name", "error"]
        .map(|k| lines[0].find(&format!("\"{k}\":")).unwrap())
        .into();
    assert!(places.is_sorted(), "{}", lines[0]);
    let levels: Vec<Value> = lines
        .iter()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["level"].clone())
        .collect();
    assert_eq!(levels, ["error", "debug", "Level(-5)"]);
    let logger: Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(
        logger["logger"], "telemetry.logging.tests",
        "without the mark of the verbosity"
    );
}

#[test]
fn a_numeric_time_is_a_number_in_json() {
    for (time, numeric) in [
        (TimeFormat::Epoch, true),
        (TimeFormat::Nanos, true),
        (TimeFormat::Rfc3339, false),
    ] {
        let options = Options {
            time,
            ..options(Threshold::default(), Encoder::Json)
        };
        let lines = logged(options, || tracing::info!("x"));
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["ts"].is_number(), numeric, "{}", lines[0]);
    }
}

#[test]
fn a_console_line_is_tab_separated_with_fields_at_the_end() {
    let lines = logged(options(Threshold::Verbosity(4), Encoder::Console), || {
        tracing::info!(port = 1, at = 2, "two\nlines \u{1b}[2J");
        tracing::debug!("plain");
    });
    assert_eq!(lines.len(), 2, "a line feed does not start a line: {lines:?}");
    let parts: Vec<&str> = lines[0].split('\t').collect();
    assert_eq!(parts[1..3], ["INFO", "telemetry.logging.tests"]);
    assert_eq!(parts[4..], ["two\\nlines \\u{1b}[2J", r#"{"port":1,"at":2}"#]);
    assert_eq!(lines[1].split('\t').nth(1), Some("LEVEL(-4)"));
}

#[test]
fn production_logging_samples_a_repeated_message_but_not_from_verbosity_2_on() {
    for (threshold, fewer) in [
        (Threshold::Verbosity(0), true),
        (Threshold::Verbosity(1), true),
        (Threshold::Verbosity(2), false),
    ] {
        let options = Options {
            sampled: true,
            ..options(threshold, Encoder::Json)
        };
        let lines = logged(options, || (0..5000).for_each(|_| tracing::info!("again")));
        assert_eq!(lines.len() < 5000, fewer, "{threshold:?}: {}", lines.len());
        assert!(lines.len() >= 100);
    }
}

#[test]
fn lines_written_while_a_request_is_handled_carry_its_id() {
    let lines = logged(options(Threshold::Verbosity(0), Encoder::Json), || {
        let scope = request_scope("id-1");
        tracing::info!(a = 1, "inside");
        tracing::error!(error = "e", "inside, too");
        drop(scope);
        tracing::info!("outside");
    });
    let keys = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        value
            .get("x-request-id")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    assert_eq!(keys(&lines[0]).as_deref(), Some("id-1"));
    assert!(
        lines[1].ends_with(r#""x-request-id":"id-1","error":"e"}"#),
        "{}",
        lines[1]
    );
    assert_eq!(keys(&lines[2]), None);
}

#[test]
fn an_error_that_repeats_is_written_ten_times_and_counted() {
    let lines = logged(options(Threshold::Verbosity(0), Encoder::Json), || {
        for i in 0..500 {
            tracing::warn!(i, "again");
            tracing::info!(i, "not limited");
        }
        tracing::warn!("another place");
    });
    let count = |text: &str| lines.iter().filter(|l| l.contains(text)).count();
    // Twice as many if the test runs over the turn of a window.
    assert!([10, 20].contains(&count("again")), "{}", count("again"));
    assert_eq!((count("not limited"), count("another place")), (500, 1));
}

#[test]
fn the_next_line_of_a_window_says_how_many_were_left_out() {
    struct Place(&'static tracing::Metadata<'static>);
    static CALLSITE: tracing::callsite::DefaultCallsite = {
        static META: tracing::Metadata<'static> = tracing::metadata! {
            name: "place",
            target: "epp",
            level: tracing::Level::WARN,
            fields: &[],
            callsite: &CALLSITE,
            kind: tracing::metadata::Kind::EVENT,
        };
        tracing::callsite::DefaultCallsite::new(&META)
    };
    let place = Place(tracing::callsite::Callsite::metadata(&CALLSITE));
    let repeats = Repeats::default();
    let passed = (0..25)
        .filter(|_| repeats.passes(place.0, 100) == Some(0))
        .count();
    assert_eq!(passed, 10);
    assert_eq!(repeats.passes(place.0, 110), Some(15));
    assert_eq!(repeats.passes(place.0, 110), Some(0));
}

#[test]
fn a_stack_is_captured_from_the_level_of_the_flag_on() {
    for (stack, covered) in [
        (StackLevel::Info, [true, true, true, false]),
        (StackLevel::Error, [true, false, false, false]),
        (StackLevel::Panic, [false; 4]),
    ] {
        for encoder in [Encoder::Json, Encoder::Console] {
            let options = Options {
                stack,
                ..options(Threshold::Verbosity(1), encoder)
            };
            let got = |speak: fn()| {
                let lines = logged(options, speak);
                lines
                    .concat()
                    .contains("a_stack_is_captured_from_the_level_of_the_flag_on")
            };
            let got = [
                got(|| tracing::error!("x")),
                got(|| tracing::warn!("x")),
                got(|| tracing::info!("x")),
                got(|| verbose!(1, "x")),
            ];
            assert_eq!(got, covered, "{stack:?} {encoder:?}");
        }
    }
}

#[test]
fn characters_a_terminal_acts_on_are_escaped() {
    let hostile = "a\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}\u{7f}é😀";
    for encoder in [Encoder::Console, Encoder::Json] {
        let lines = logged(options(Threshold::Verbosity(0), encoder), || {
            tracing::info!(field = hostile, "message {hostile}");
        });
        let line = lines.concat();
        let acts = |c: &char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}');
        assert_eq!(
            line.chars().filter(|c| acts(c) && *c != '\t').count(),
            0,
            "{line:?}"
        );
        assert!(
            line.contains(r"a\u009b31m\u0085\u2028\u2029\u202e\u007fé😀"),
            "{line}"
        );
        if let Encoder::Json = encoder {
            let json: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["field"], hostile);
        }
    }
}

#[test]
fn long_texts_and_ids_are_cut() {
    let long = "é".repeat(100_000);
    let lines = logged(options(Threshold::Verbosity(0), Encoder::Json), || {
        let _scope = request_scope(&long);
        tracing::info!(field = long, "message");
    });
    let json: Value = serde_json::from_str(&lines.concat()).unwrap();
    assert_eq!(json["x-request-id"].as_str().map(str::len), Some(256));
    let field = json["field"].as_str().unwrap();
    assert!(
        field.len() < 65 * 1024 && field.ends_with("… (134464 bytes more)"),
        "{}",
        &field[field.len() - 30..]
    );
}

#[test]
fn a_document_is_logged_as_one() {
    let speak = || {
        let text = r#"{"b":[1],"a":{"c":"d"}}"#;
        tracing::info!(json.configuration = %text, json.broken = "{", "Configuration:");
    };
    let [line] = &logged(options(Threshold::Verbosity(0), Encoder::Json), speak)[..] else {
        panic!("one line is logged");
    };
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        line["configuration"],
        serde_json::json!({"b": [1], "a": {"c": "d"}})
    );
    assert_eq!(line["broken"], "{");
}
