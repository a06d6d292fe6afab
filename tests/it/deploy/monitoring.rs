//! The dashboard and the alert rules: every query is one Prometheus parses, about metrics and labels `epp` has, and every
//! alert leads to a section of the documentation.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::label::Matchers;
use promql_parser::parser::{AggregateExpr, Expr, LabelModifier, VectorSelector, parse};
use serde_json::Value;

use super::{documents, read, text};

/// Labels that Prometheus adds when it scrapes.
const SCRAPED: [&str; 5] = ["job", "instance", "namespace", "pod", "le"];

/// Labels by metric, from the page operators read; a test elsewhere holds it against what the binary exposes.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for line in read("docs/user-guide/metrics.md").lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = cells[..] else {
            continue;
        };
        if !name.starts_with('`') || !["counter", "gauge", "histogram"].contains(&kind) {
            continue;
        }
        let name = name.trim_matches('`').to_owned();
        let labels: BTreeSet<String> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let suffixes: &[&str] = if kind == "histogram" {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        for suffix in suffixes {
            known.insert(format!("{name}{suffix}"), labels.clone());
        }
    }
    assert!(known.len() > 30, "the table of metrics.md is not read");
    known
}

/// Metrics a query asks for, with the labels it matches or groups by.
#[derive(Default)]
struct Asked {
    metrics: BTreeSet<String>,
    matched: Vec<(String, String)>,
    grouped: BTreeSet<String>,
}

impl Asked {
    fn selector(&mut self, of: &VectorSelector) {
        let name = of.name.clone().unwrap_or_default();
        let Matchers { matchers, .. } = &of.matchers;
        self.matched
            .extend(matchers.iter().map(|m| (name.clone(), m.name.clone())));
        self.metrics.insert(name);
    }

    fn aggregate(&mut self, of: &AggregateExpr) {
        if let Some(LabelModifier::Include(labels)) = &of.modifier {
            self.grouped.extend(labels.labels.iter().cloned());
        }
        self.walk(&of.expr);
    }

    fn walk(&mut self, expression: &Expr) {
        match expression {
            Expr::VectorSelector(s) => self.selector(s),
            Expr::MatrixSelector(m) => self.selector(&m.vs),
            Expr::Aggregate(a) => self.aggregate(a),
            Expr::Call(c) => c.args.args.iter().for_each(|a| self.walk(a)),
            Expr::Binary(b) => {
                self.walk(&b.lhs);
                self.walk(&b.rhs);
            }
            Expr::Paren(p) => self.walk(&p.expr),
            Expr::Unary(u) => self.walk(&u.expr),
            Expr::Subquery(s) => self.walk(&s.expr),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
            other => panic!("an expression nobody checks: {other}"),
        }
    }
}

fn check(query: &str, known: &BTreeMap<String, BTreeSet<String>>) {
    let parsed = parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
    let mut asked = Asked::default();
    asked.walk(&parsed);
    assert!(!asked.metrics.is_empty(), "{query}");
    let mut had: BTreeSet<String> = SCRAPED.map(str::to_owned).into();
    for metric in asked.metrics.iter().filter(|m| *m != "up") {
        let labels = known
            .get(metric)
            .unwrap_or_else(|| panic!("{query}: epp has no {metric}"));
        had.extend(labels.iter().cloned());
    }
    for (metric, label) in &asked.matched {
        let own = known.get(metric).is_some_and(|l| l.contains(label));
        assert!(
            own || SCRAPED.contains(&label.as_str()),
            "{query}: {metric} has no label {label}"
        );
    }
    for label in &asked.grouped {
        assert!(had.contains(label), "{query}: nothing has the label {label}");
    }
}

/// Every query of the dashboard, its variables put in.
fn dashboard() -> Vec<String> {
    let board: Value = serde_json::from_str(&read("deploy/grafana/endpoint-picker.json")).unwrap();
    let variables: BTreeSet<&str> = board["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| text(v, "/name"))
        .collect();
    let mut queries = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut query = text(target, "/expr")
                .replace("$__rate_interval", "5m")
                .replace("$__range", "1h");
            for variable in &variables {
                query = query
                    .replace(&format!("${variable}"), "x")
                    .replace(&format!("${{{variable}}}"), "x");
            }
            assert!(
                !query.contains('$'),
                "a variable the dashboard does not have: {query}"
            );
            queries.push(query);
        }
    }
    queries
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let (known, queries) = (metrics(), dashboard());
    assert!(queries.len() > 20);
    queries.iter().for_each(|q| check(q, &known));
}

#[test]
fn alerts_ask_for_what_there_is_and_lead_to_what_to_do() {
    let (known, guide) = (metrics(), read("docs/user-guide/troubleshooting.md"));
    let anchors: BTreeSet<String> = guide
        .lines()
        .filter_map(|l| l.strip_prefix("## ").or(l.strip_prefix("### ")))
        .map(|title| {
            let kept = title.to_lowercase();
            let kept: String = kept
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .collect();
            kept.replace(' ', "-")
        })
        .collect();
    let rules = &documents(&read("deploy/prometheus/alerts.yaml"))[0];
    let mut names = BTreeSet::new();
    for group in rules["spec"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            check(text(rule, "/expr"), &known);
            assert!(names.insert(text(rule, "/alert")), "twice: {rule}");
            assert!(["info", "warning", "critical"].contains(&text(rule, "/labels/severity")));
            for annotation in ["summary", "description"] {
                assert!(!text(rule, &format!("/annotations/{annotation}")).is_empty());
            }
            let (page, anchor) = text(rule, "/annotations/runbook").split_once('#').unwrap();
            assert_eq!(page, "docs/user-guide/troubleshooting.md");
            assert!(anchors.contains(anchor), "no section {anchor} in {anchors:?}");
        }
    }
    assert!(names.len() >= 8);
}
