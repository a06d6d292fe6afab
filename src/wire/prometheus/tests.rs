//! Tests of the scan and of the spec grammars: tables, a naive reader to compare with, a second parser.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[path = "../../../benches/fixtures/vllm_page.rs"]
mod vllm_page;

use vllm_page::VllmPage;

fn query(spec: &str, winner: Winner) -> Query {
    Query {
        spec: MetricSpec::parse(spec).unwrap().unwrap(),
        winner,
        keep_labels: true,
    }
}

fn latest(specs: &[&str]) -> Compiled {
    Compiled::new(specs.iter().map(|s| query(s, Winner::Latest)).collect())
}

fn read(page: &str, spec: &str) -> Option<f64> {
    let mut out = Readings::default();
    scan(page.as_bytes(), &latest(&[spec]), &mut out);
    out.get(0).map(|hit| hit.value)
}

#[test]
fn values_are_read_from_every_shape_of_line() {
    let rows: &[(&str, &str, Option<f64>)] = &[
        ("m 3\n", "m", Some(3.0)),
        ("m 3", "m", Some(3.0)),
        ("m\t3\r\n", "m", Some(3.0)),
        ("  m {} 3e1 \n", "m", Some(30.0)),
        ("m +Inf\n", "m", Some(f64::INFINITY)),
        ("m -Inf\n", "m", Some(f64::NEG_INFINITY)),
        ("a:b:c{x=\"1\"} 0.25 1700000000000\n", "a:b:c", Some(0.25)),
        ("# HELP m m 9\n# TYPE m counter\n#m 8\nm 3\n", "m", Some(3.0)),
        ("m_total 1\nmm 2\nm 3\nm2 4\n", "m", Some(3.0)),
        ("m{a=\"x,y\",b=\"}\"} 3\n", "m{b=\"}\"}", Some(3.0)),
        (r#"m{a="q\"\\",b="1"} 3"#, r#"m{a="q\"\\"}"#, Some(3.0)),
        ("m{ a = \"1\" , b = \"2\" , } 3\n", "m{a=1,b=2}", Some(3.0)),
        ("m{a=\"1\"} 3 # {trace=\"t\"} 9\n", "m", Some(3.0)),
        ("m{a=\"1\"} 1\nother 5\nm{a=\"2\"} 2\n", "m{a=2}", Some(2.0)),
        ("m{a=\"1\"} 1\n", "m{a=2}", None),
        ("m{a=\"1\"} 1\n", "m{b=1}", None),
        ("m\n", "m", None),
        ("m \n", "m", None),
        ("m three\n", "m", None),
        ("m 3 x\n", "m", None),
        ("m 3 4 5\n", "m", None),
        ("m{a=\"1} 3\n", "m", None),
        ("m{a=\"1\\\n", "m", None),
        ("", "m", None),
        ("<html><body>m 3</body></html>", "m", None),
    ];
    for (page, spec, want) in rows {
        assert_eq!(read(page, spec), *want, "{page:?} asked for {spec}");
    }
    assert!(read("m NaN\n", "m").unwrap().is_nan());
}

#[test]
fn the_largest_timestamp_wins_and_the_first_of_equals() {
    let rows = [
        ("m 1\nm 2\n", 1.0),
        ("m 1 5\nm 2 6\nm 3 6\n", 2.0),
        ("m 1 -5\nm 2\n", 2.0),
        ("m 1\nm 2 0\n", 1.0),
    ];
    for (page, want) in rows {
        assert_eq!(read(page, "m"), Some(want), "{page:?}");
    }
}

#[test]
fn the_largest_value_wins_above_minus_one() {
    let wanted = Compiled::new(vec![query("m", Winner::LargestValue)]);
    let mut out = Readings::default();
    for (page, want) in [
        ("m{a=\"x\"} 1\nm{a=\"y\"} 2\nm{a=\"z\"} 2\n", Some("y")),
        ("m{a=\"x\"} NaN\nm{a=\"y\"} 0\n", Some("y")),
        ("m{a=\"x\"} -1\n", None),
    ] {
        scan(page.as_bytes(), &wanted, &mut out);
        let label = out.get(0).map(|h| h.labels().get("a").unwrap().text());
        assert_eq!(label.as_deref(), want, "{page:?}");
    }
}

#[test]
fn a_vllm_page_gives_what_it_was_written_with() {
    let page = VllmPage::default().render();
    let mut wanted = ["running", "waiting"]
        .map(|m| query(&format!("vllm:num_requests_{m}"), Winner::Latest))
        .to_vec();
    wanted.push(query("vllm:kv_cache_usage_perc{engine=0}", Winner::Latest));
    wanted.push(query("vllm:lora_requests_info", Winner::LargestValue));
    wanted.push(query("vllm:cache_config_info", Winner::Latest));
    let mut out = Readings::default();
    scan(page.as_bytes(), &Compiled::new(wanted), &mut out);
    let values: Vec<f64> = (0..3).map(|i| out.get(i).unwrap().value).collect();
    assert_eq!(values, [17.0, 3.0, 0.4375]);
    let label = |i: usize, name| out.get(i).unwrap().labels().get(name).unwrap().text();
    assert_eq!(label(3, "running_lora_adapters"), "sql-lora, chat-lora");
    assert_eq!(label(4, "num_gpu_blocks"), "27536");
    assert!(page.len() >= 50_000 && out.malformed() == 0);
}

#[test]
fn lines_that_cannot_be_read_are_counted() {
    let mut out = Readings::default();
    scan(b"m x\nm 1\nm{\nother y\n", &latest(&["m"]), &mut out);
    assert_eq!((out.malformed(), out.get(0).unwrap().value), (2, 1.0));
}

#[test]
fn a_line_without_end_is_refused_before_it_fills_memory() {
    let wanted = latest(&["m"]);
    let mut out = Readings::default();
    out.begin(&wanted);
    let piece = vec![b'x'; MAX_LINE_BYTES / 4];
    let refused = (0..5).position(|_| out.feed(&wanted, &piece).is_err());
    assert_eq!(refused, Some(4));
}

#[test]
fn specs_are_accepted_and_refused_in_both_grammars() {
    type Verdict = Result<&'static str, &'static str>;
    let rows: &[(&str, Verdict, Verdict)] = &[
        ("m", Ok("m"), Ok("m")),
        (" m ", Ok("m"), Ok("m")),
        ("m{a=b}", Ok("m a=b"), Ok("m a=b")),
        (
            "  m  {  a  =  b  ,  c  =  d  }  ",
            Ok("m a=b c=d"),
            Ok("m a=b c=d"),
        ),
        ("m{a=\"b\"}", Ok("m a=\"b\""), Ok("m a=b")),
        ("m{a='b,c'}", Err("invalid label pair: c'"), Ok("m a=b,c")),
        (
            "m{a=\"b}\",c=`d\\`,}",
            Err("invalid characters after label section in: m{a=\"b}\",c=`d\\`,}"),
            Ok("m a=b} c=d\\"),
        ),
        (
            "m{}",
            Err("invalid metric spec string: m{}, missing or malformed label block"),
            Ok("m"),
        ),
        (
            "m{a=b",
            Err("invalid metric spec string: m{a=b, missing or malformed label block"),
            Err("invalid metric spec string: m{a=b, missing or malformed label block"),
        ),
        (
            "ma=b}",
            Err("invalid metric spec string: ma=b}, missing or malformed label block"),
            Err("invalid metric spec string: ma=b}, missing or malformed label block"),
        ),
        ("m{a}", Err("invalid label pair: a"), Err("invalid label pair: a")),
        (
            "m{a=b=c}",
            Err("invalid label pair: a=b=c"),
            Err("invalid label pair: a=b=c"),
        ),
        (
            "m{a=b,,c=d}",
            Err("invalid label pair: "),
            Err("invalid label pair: "),
        ),
        (
            "m{=b}",
            Err("empty label name or value in pair: =b"),
            Err("empty label name or value in pair: =b"),
        ),
        (
            "m{a=}",
            Err("empty label name or value in pair: a="),
            Err("empty label name or value in pair: a="),
        ),
        (
            "m{a=b}x",
            Err("invalid characters after label section in: m{a=b}x"),
            Err("invalid characters after label section in: m{a=b}x"),
        ),
        (
            "{a=b}",
            Err("empty metric name in spec: {a=b}"),
            Err("empty metric name in spec: {a=b}"),
        ),
        (
            "  ",
            Err("empty metric name in spec:   "),
            Err("empty metric name in spec:   "),
        ),
        (
            "m{a!=b}",
            Ok("m a!=b"),
            Err("only = is supported between label and value: a!=b"),
        ),
        (
            "m{a=~b}",
            Ok("m a=~b"),
            Err("only = is supported between label and value: a=~b"),
        ),
        (
            "m{a=\"b}",
            Ok("m a=\"b"),
            Err("unterminated quote in metric spec: m{a=\"b}"),
        ),
        (
            "m n",
            Ok("m n"),
            Err(
                "invalid metric name in spec: m n (letters, digits, '_' and ':' only, not starting with a digit)",
            ),
        ),
    ];
    let shown = |parsed: Result<Option<MetricSpec>, SpecError>| match parsed {
        Ok(spec) => {
            let spec = spec.unwrap();
            let labels = spec.labels.iter().map(|(n, v)| format!(" {n}={v}"));
            Ok(format!("{}{}", spec.name, labels.collect::<String>()))
        }
        Err(e) => Err(e.to_string()),
    };
    for (text, flag, selector) in rows {
        let owned = |r: &Verdict| r.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(shown(MetricSpec::parse_flag(text)), owned(flag), "flag {text:?}");
        assert_eq!(
            shown(MetricSpec::parse(text)),
            owned(selector),
            "selector {text:?}"
        );
    }
    assert_eq!(MetricSpec::parse(""), Ok(None));
    assert_eq!(MetricSpec::parse_flag(""), Ok(None));
}

/// One series as generated.
#[derive(Clone, Debug)]
struct Line {
    name: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
    timestamp: Option<i64>,
}

impl Line {
    fn render(&self) -> String {
        let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let pairs: Vec<String> = self
            .labels
            .iter()
            .map(|(n, v)| format!("{n}=\"{}\"", escape(v)))
            .collect();
        let labels = match pairs.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", pairs.join(",")),
        };
        let timestamp = self.timestamp.map(|t| format!(" {t}")).unwrap_or_default();
        format!("{}{labels} {}{timestamp}", self.name, self.value)
    }
}

fn line() -> impl Strategy<Value = Line> {
    let label = prop_oneof![Just("a"), Just("b"), Just("le")];
    let text = prop_oneof![Just("1".to_owned()), Just("2".to_owned()), "[ -~\n\\\\\"é]{0,12}"];
    (
        prop_oneof![Just("m"), Just("m:n"), Just("m_total"), Just("other")],
        prop::collection::btree_map(label, text, 0..3),
        prop_oneof![(-3i32..5).prop_map(f64::from), -1e9..1e9f64],
        prop::option::of(-2i64..4),
    )
        .prop_map(|(name, labels, value, timestamp)| Line {
            name,
            labels: labels.into_iter().collect(),
            value,
            timestamp,
        })
}

/// What the rules of selection say, written down without any regard for speed.
fn naive<'a>(lines: &'a [Line], query: &Query) -> Option<&'a Line> {
    let matching = lines.iter().filter(|line| {
        let labels: BTreeMap<&str, &str> = line.labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let spec = &query.spec;
        line.name == spec.name
            && spec
                .labels
                .iter()
                .all(|(n, v)| labels.get(n.as_str()) == Some(&v.as_str()))
    });
    let rank = |line: &Line| match query.winner {
        Winner::Latest => line.timestamp.unwrap_or(0) as f64,
        Winner::LargestValue => line.value,
    };
    matching
        .filter(|line| query.winner == Winner::Latest || line.value > -1.0)
        .reduce(|best, line| if rank(line) > rank(best) { line } else { best })
}

fn wanted() -> Compiled {
    let mut queries: Vec<Query> = ["m", "m{a=1}", "m:n{b=\"2\"}", "m_total", "absent"]
        .map(|s| query(s, Winner::Latest))
        .to_vec();
    queries.push(query("m", Winner::LargestValue));
    Compiled::new(queries)
}

proptest! {
    #[test]
    fn a_scan_agrees_with_the_naive_reader_however_the_page_is_cut(
        lines in prop::collection::vec(line(), 0..20),
        ending in prop_oneof![Just("\n"), Just("\r\n"), Just("\n# HELP m x\n\n")],
        piece in 1usize..60,
    ) {
        let page: String = lines.iter().map(|l| l.render() + ending).collect();
        let wanted = wanted();
        let (mut whole, mut pieces) = (Readings::default(), Readings::default());
        scan(page.as_bytes(), &wanted, &mut whole);
        pieces.begin(&wanted);
        for part in page.as_bytes().chunks(piece) {
            pieces.feed(&wanted, part).unwrap();
        }
        prop_assert!(pieces.finish(&wanted));
        for (index, query) in wanted.queries().iter().enumerate() {
            let want = naive(&lines, query);
            prop_assert_eq!(whole.get(index).map(|h| h.value), want.map(|l| l.value));
            prop_assert_eq!(whole.get(index), pieces.get(index));
            if let (Some(hit), Some(line)) = (whole.get(index), want) {
                for (name, value) in &line.labels {
                    prop_assert_eq!(&hit.labels().get(name).unwrap().text(), value);
                }
            }
        }
    }

    #[test]
    fn no_page_panics(page in prop::collection::vec(prop_oneof![
        any::<u8>(), Just(b'm'), Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\\'), Just(b'='), Just(b','),
        Just(b' '), Just(b'\n'), Just(b'1'), Just(b'a'),
    ], 0..300)) {
        let mut out = Readings::default();
        scan(&page, &wanted(), &mut out);
        for index in 0..wanted().queries().len() {
            if let Some(hit) = out.get(index) {
                for (_, value) in hit.labels() {
                    let text = value.text();
                    let replaced = text.contains(char::REPLACEMENT_CHARACTER);
                    prop_assert!(replaced || value.is(&text));
                }
            }
        }
    }

    #[test]
    fn no_spec_panics(text in "[m{}=\",'`!~\\\\ aé:]{0,20}") {
        let _ = MetricSpec::parse(&text);
        let _ = MetricSpec::parse_flag(&text);
    }
}

#[test]
fn a_second_parser_reads_the_same_values_where_it_can_read_the_page() {
    // It knows no colons in names and cuts labels at commas, so the page is without either.
    let page = VllmPage {
        lora: None,
        ..VllmPage::default()
    }
    .render()
    .replace("vllm:", "vllm_");
    let theirs = prometheus_parse::Scrape::parse(page.lines().map(|l| Ok(l.to_owned()))).unwrap();
    let mut compared = 0;
    for sample in &theirs.samples {
        let value = match &sample.value {
            prometheus_parse::Value::Gauge(v) | prometheus_parse::Value::Counter(v) => *v,
            prometheus_parse::Value::Untyped(v) => *v,
            _ => continue,
        };
        let query = Query {
            spec: MetricSpec {
                name: sample.metric.clone(),
                labels: sample
                    .labels
                    .iter()
                    .map(|(n, v)| (n.clone(), v.clone()))
                    .collect(),
            },
            winner: Winner::Latest,
            keep_labels: false,
        };
        let mut out = Readings::default();
        scan(page.as_bytes(), &Compiled::new(vec![query]), &mut out);
        assert_eq!(out.get(0).map(|h| h.value), Some(value), "{}", sample.metric);
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} series compared");
}
