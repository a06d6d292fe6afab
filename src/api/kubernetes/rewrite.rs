//! InferenceModelRewrite: rules of a pool that send a model's requests to other models.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::spec::{self, Mistakes, PoolRef};

/// Largest weight the schema allows.
const MAX_WEIGHT: u64 = 1_000_000;

/// `inference.networking.x-k8s.io/v1alpha2` InferenceModelRewrite.
#[derive(Clone, Debug, Deserialize)]
pub struct InferenceModelRewrite {
    /// Name and age.
    #[serde(deserialize_with = "super::metadata")]
    pub metadata: ObjectMeta,
    /// As written.
    #[serde(default)]
    pub spec: Value,
}

super::resource!(
    InferenceModelRewrite,
    super::GROUP_EXPERIMENTAL,
    "v1alpha2",
    "InferenceModelRewrite",
    "inferencemodelrewrites"
);

/// A rule as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Exact model names. Empty: every model.
    pub matches: Vec<String>,
    /// Models and weights.
    pub targets: Vec<(String, Option<u32>)>,
}

impl InferenceModelRewrite {
    /// The pool it is for and its rules, and what in it is wrong. A rule that could never apply is left out.
    pub fn read(&self) -> (Option<(PoolRef, Vec<Rule>)>, Mistakes) {
        let mut mistakes = Mistakes::new();
        let pool = PoolRef::read(&self.spec, &mut mistakes);
        let mut rules = Vec::new();
        for (i, value) in spec::list(&self.spec, "spec", "rules", &mut mistakes)
            .iter()
            .enumerate()
        {
            rules.extend(rule(value, &format!("spec.rules[{i}]"), &mut mistakes));
        }
        (pool.map(|pool| (pool, rules)), mistakes)
    }
}

fn rule(value: &Value, path: &str, mistakes: &mut Mistakes) -> Option<Rule> {
    let matches = spec::list(value, path, "matches", mistakes);
    let mut models = Vec::new();
    for (i, entry) in matches.iter().enumerate() {
        let path = format!("{path}.matches[{i}].model");
        let model = entry.get("model").unwrap_or(&Value::Null);
        let kind = spec::text(model, &path, "type", mistakes).unwrap_or("Exact");
        if kind != "Exact" {
            mistakes.push(format!("{path}.type: must be Exact, not {kind:?}"));
        } else if let Some(name) = spec::text(model, &path, "value", mistakes).filter(|v| !v.is_empty()) {
            models.push(name.to_owned());
        } else {
            mistakes.push(format!("{path}.value: is required: name the model"));
        }
    }
    // A rule whose matches are all unusable must not turn into one that matches everything.
    if models.is_empty() && !matches.is_empty() {
        return None;
    }
    let mut targets = Vec::new();
    for (i, entry) in spec::list(value, path, "targets", mistakes).iter().enumerate() {
        targets.extend(target(entry, &format!("{path}.targets[{i}]"), mistakes));
    }
    if targets.is_empty() {
        mistakes.push(format!(
            "{path}.targets: no usable target, so the rule rewrites nothing"
        ));
        return None;
    }
    Some(Rule {
        matches: models,
        targets,
    })
}

fn target(entry: &Value, path: &str, mistakes: &mut Mistakes) -> Option<(String, Option<u32>)> {
    let Some(model) = spec::text(entry, path, "modelRewrite", mistakes).filter(|m| !m.is_empty()) else {
        mistakes.push(format!("{path}.modelRewrite: is required: name the model"));
        return None;
    };
    let weight = match entry.get("weight") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let weight = value.as_u64().filter(|w| *w <= MAX_WEIGHT);
            if weight.is_none() {
                mistakes.push(format!(
                    "{path}.weight: must be an integer from 1 to {MAX_WEIGHT}, not {value}"
                ));
                return None;
            }
            weight.and_then(|w| u32::try_from(w).ok())
        }
    };
    Some((model.to_owned(), weight))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(rules: Value) -> (Vec<Rule>, Mistakes) {
        let spec = json!({"poolRef": {"name": "p"}, "rules": rules});
        let object: InferenceModelRewrite =
            serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": spec})).unwrap();
        let (read, mistakes) = object.read();
        (read.unwrap().1, mistakes)
    }

    #[test]
    fn rules_have_matches_and_weighted_targets() {
        let (read, mistakes) = rules(json!([
            {"matches": [{"model": {"type": "Exact", "value": "a"}}, {"model": {"value": "b"}}],
             "targets": [{"modelRewrite": "x", "weight": 70}, {"modelRewrite": "y"}]},
            {"targets": [{"modelRewrite": "z"}]},
        ]));
        let target = |m: &str, w| (m.to_owned(), w);
        let first = Rule {
            matches: vec!["a".into(), "b".into()],
            targets: vec![target("x", Some(70)), target("y", None)],
        };
        let second = Rule {
            matches: vec![],
            targets: vec![target("z", None)],
        };
        assert_eq!((read, mistakes), (vec![first, second], vec![]));
    }

    #[test]
    fn a_rule_that_cannot_apply_is_left_out_and_said() {
        let to = json!([{"modelRewrite": "x"}]);
        for (rule, word) in [
            (json!({"matches": [{}], "targets": to}), "value: is required"),
            (
                json!({"matches": [{"model": {"type": "Prefix", "value": "a"}}], "targets": to}),
                "must be Exact",
            ),
            (json!({"matches": []}), "no usable target"),
            (json!({"targets": [{}]}), "modelRewrite: is required"),
            (
                json!({"targets": [{"modelRewrite": "x", "weight": -1}]}),
                "weight: must be an integer",
            ),
            (json!({"targets": {"modelRewrite": "x"}}), "must be a list"),
            (json!("text"), "no usable target"),
        ] {
            let text = rule.to_string();
            let (read, mistakes) = rules(json!([rule]));
            assert_eq!(read, [], "{text}");
            assert!(mistakes.iter().any(|m| m.contains(word)), "{text}: {mistakes:?}");
        }
    }
}
