//! The metrics page in the format the scraper asked for: OpenMetrics text as the registry writes it, or the
//! older Prometheus text 0.0.4 made from it. Called by `admin`; takes a page of ours, not one of a model
//! server (those are scanned elsewhere).

use std::fmt::Write;

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0 text.
    OpenMetrics,
    /// Prometheus text 0.0.4, the answer to whoever does not ask for OpenMetrics.
    Prometheus,
}

impl Format {
    /// Chooses by the `Accept` header: OpenMetrics when it is named with a weight of at least that of plain
    /// text, 0.0.4 in every other case (no header, `*/*`, protobuf, nonsense).
    pub fn from_accept(accept: &str) -> Format {
        let weight = |wanted: fn(&str) -> bool| {
            accept
                .split(',')
                .filter(|range| wanted(range.split(';').next().unwrap_or("").trim()))
                .map(quality)
                .fold(0.0, f32::max)
        };
        let open = weight(|t| t.eq_ignore_ascii_case("application/openmetrics-text"));
        let plain = weight(|t| t.eq_ignore_ascii_case("text/plain"));
        if open > 0.0 && open >= plain {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The page in this format, from OpenMetrics text.
    pub fn render(self, openmetrics: String) -> String {
        match self {
            Format::OpenMetrics => openmetrics,
            Format::Prometheus => prometheus(&openmetrics),
        }
    }
}

/// The `q` of one media range; 1 when it has none, 0 when it cannot be read.
fn quality(range: &str) -> f32 {
    range
        .split(';')
        .skip(1)
        .filter_map(|p| p.trim().strip_prefix("q="))
        .map(|q| q.trim().parse().unwrap_or(0.0))
        .next()
        .unwrap_or(1.0)
}

/// OpenMetrics text as Prometheus text 0.0.4: counters are declared under the name their samples have, units, exemplars and the end mark go, and numbers look as Go
/// prints them, because `le="1"` and `le="1.0"` are two series to an older Prometheus.
pub fn prometheus(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Held back: the name to write depends on the type, which follows.
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            declare(&mut out, family, kind, help.take());
        } else if !line.starts_with('#') && !line.is_empty() {
            sample(&mut out, line);
        }
    }
    out
}

fn declare(out: &mut String, family: &str, kind: &str, help: Option<(&str, &str)>) {
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "stateset" => ("", "gauge"),
        "gaugehistogram" => ("", "histogram"),
        "unknown" => ("", "untyped"),
        other => ("", other),
    };
    if let Some((_, text)) = help.filter(|(name, _)| *name == family) {
        // Inside a help text the older format escapes the backslash and the line feed, not the quote.
        let text = text.replace("\\\"", "\"");
        let _ = writeln!(out, "# HELP {family}{suffix} {text}");
    }
    let _ = writeln!(out, "# TYPE {family}{suffix} {kind}");
}

fn sample(out: &mut String, line: &str) {
    let (series, rest) = line.split_at(end_of_series(line));
    match le_value(series) {
        Some((from, to)) => {
            out.push_str(&series[..from]);
            out.push_str(&number(&series[from..to]));
            out.push_str(&series[to..]);
        }
        None => out.push_str(series),
    }
    let value = rest.split_whitespace().next().unwrap_or("NaN");
    out.push(' ');
    out.push_str(&number(value));
    out.push('\n');
}

/// Where name and labels end and the value begins: after the bracket that closes the labels, outside quotes.
fn end_of_series(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return at + 1,
            b' ' if !quoted && !line[..at].contains('{') => return at,
            _ => {}
        }
    }
    line.len()
}

/// The place of the value of the label `le`, which the library writes first. Quotes inside values are escaped,
/// so that no other label's value can look like it.
fn le_value(series: &str) -> Option<(usize, usize)> {
    let (name, rest) = series.split_once("{le=\"")?;
    let from = name.len() + "{le=\"".len();
    Some((from, from + rest.find('"')?))
}

/// A number as Go's shortest `%g` prints it; whole numbers without a point stay as they are.
fn number(text: &str) -> String {
    if !text.contains(['.', 'e', 'E', 'n', 'N']) {
        return text.to_string();
    }
    match text.parse::<f64>() {
        Ok(x) if x.is_nan() => "NaN".into(),
        Ok(x) if x.is_infinite() => if x > 0.0 { "+Inf" } else { "-Inf" }.into(),
        Ok(x) => go_float(x),
        Err(_) => text.to_string(),
    }
}

/// Go turns to an exponent of at least two digits below 1e-4 and from 1e6 on.
fn go_float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    } else {
        format!("{x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_format_follows_the_accept_header() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
                            version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.6,\
                              application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
        let cases = [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "Application/OpenMetrics-Text; version=1.0.0; charset=utf-8",
                Format::OpenMetrics,
            ),
            (
                "text/plain;q=0.9, application/openmetrics-text;q=0.5",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=x", Format::Prometheus),
            (",;q=,;;", Format::Prometheus),
            (prometheus_2, Format::OpenMetrics),
            (protobuf_first, Format::OpenMetrics),
        ];
        for (accept, want) in cases {
            assert_eq!(Format::from_accept(accept), want, "{accept:?}");
        }
    }

    #[test]
    fn an_openmetrics_page_becomes_a_prometheus_page() {
        let given = concat!(
            "# HELP a_requests Requests made.\n# TYPE a_requests counter\n",
            "a_requests_total{m=\"x } y\",n=\"q\\\"{le=\\\"\"} 3 # {trace=\"1\"} 0.5 1.1\n",
            "# HELP b_seconds Time\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n",
            "b_seconds_sum 1.5\nb_seconds_count 2\n",
            "b_seconds_bucket{le=\"1.0\"} 1\nb_seconds_bucket{le=\"1048576.0\",m=\"1.0\"} 2\n",
            "b_seconds_bucket{le=\"+Inf\"} 2 # {} 3.0\n",
            "# TYPE c unknown\nc 2.0\n# TYPE d info\nd_info{v=\"1\"} 1\n# EOF\n",
        );
        let want = concat!(
            "# HELP a_requests_total Requests made.\n# TYPE a_requests_total counter\n",
            "a_requests_total{m=\"x } y\",n=\"q\\\"{le=\\\"\"} 3\n",
            "# HELP b_seconds Time\n# TYPE b_seconds histogram\n",
            "b_seconds_sum 1.5\nb_seconds_count 2\n",
            "b_seconds_bucket{le=\"1\"} 1\nb_seconds_bucket{le=\"1.048576e+06\",m=\"1.0\"} 2\n",
            "b_seconds_bucket{le=\"+Inf\"} 2\n",
            "# TYPE c untyped\nc 2\n# TYPE d_info gauge\nd_info{v=\"1\"} 1\n",
        );
        assert_eq!(prometheus(given), want);
    }

    #[test]
    fn numbers_look_as_go_prints_them() {
        let cases = [
            ("0.0", "0"),
            ("1.0", "1"),
            ("0.005", "0.005"),
            ("0.00205", "0.00205"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("524288.0", "524288"),
            ("1048576.0", "1.048576e+06"),
            ("1073741824.0", "1.073741824e+09"),
            ("1e300", "1e+300"),
            ("-2.5", "-2.5"),
            ("inf", "+Inf"),
            ("-inf", "-Inf"),
            ("NaN", "NaN"),
            ("18446744073709551615", "18446744073709551615"),
            ("+Inf", "+Inf"),
        ];
        for (given, want) in cases {
            assert_eq!(number(given), want, "{given}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_nothing_but_the_two_comments_is_left(page in "(?s).{0,400}") {
            for line in prometheus(&page).lines().filter(|l| l.starts_with('#')) {
                prop_assert!(line.starts_with("# HELP ") || line.starts_with("# TYPE "));
            }
        }

        #[test]
        fn any_accept_header_gives_a_format(accept in "[a-z/;=,.*0-9 q-]{0,200}") {
            Format::from_accept(&accept);
        }

        #[test]
        fn a_number_keeps_its_value(x in proptest::num::f64::NORMAL | proptest::num::f64::ZERO) {
            prop_assert_eq!(number(&format!("{x:?}")).parse::<f64>().unwrap(), x);
        }
    }
}
