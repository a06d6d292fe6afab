//! Model rewrites: exact rules first, then generic ones; oldest wins (runtime.md §7.2).

use std::collections::HashMap;

/// A target of a rule: a model name and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The model the request is sent as.
    pub model: String,
    /// `None` counts as 0 beside weighted targets; all zero means uniform.
    pub weight: Option<u32>,
}

/// One rule: which models it matches (none: every model) and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Exact model names; empty makes the rule generic.
    pub matches: Vec<String>,
    /// Targets; a rule without targets rewrites nothing.
    pub targets: Vec<Target>,
}

/// A named set of rules, as one InferenceModelRewrite holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRewrite {
    /// Name of the resource.
    pub name: String,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Rules indexed for lookup. Built from rewrites in age order, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Rewrites {
    rewrites: Vec<ModelRewrite>,
    exact: HashMap<String, (usize, usize)>,
    generic: Option<(usize, usize)>,
}

/// A rule that applies: whose it is and its targets.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// Name of the rewrite resource.
    pub name: &'a str,
    /// At least one target.
    pub targets: &'a [Target],
}

impl Rewrites {
    /// Indexes `rewrites`, which must be sorted oldest first. Rules without targets are left out.
    pub fn new(rewrites: Vec<ModelRewrite>) -> Self {
        let mut out = Rewrites::default();
        for (i, rewrite) in rewrites.iter().enumerate() {
            for (j, rule) in rewrite
                .rules
                .iter()
                .enumerate()
                .filter(|(_, r)| !r.targets.is_empty())
            {
                if rule.matches.is_empty() {
                    out.generic.get_or_insert((i, j));
                }
                for model in &rule.matches {
                    out.exact.entry(model.clone()).or_insert((i, j));
                }
            }
        }
        Rewrites { rewrites, ..out }
    }

    /// The rule for `model`: exact before generic, older before newer.
    pub fn find(&self, model: &str) -> Option<Hit<'_>> {
        let &(i, j) = self.exact.get(model).or(self.generic.as_ref())?;
        let rewrite = self.rewrites.get(i)?;
        Some(Hit {
            name: &rewrite.name,
            targets: &rewrite.rules.get(j)?.targets,
        })
    }
}

impl<'a> Hit<'a> {
    /// Chooses a target by weight. `draw(n)` gives a uniform number in `0..n`.
    pub fn choose(&self, mut draw: impl FnMut(u64) -> u64) -> &'a str {
        let weight = |t: &Target| u64::from(t.weight.unwrap_or(0));
        let total: u64 = self.targets.iter().map(weight).sum();
        if total == 0 {
            let i = usize::try_from(draw(self.targets.len() as u64)).unwrap_or(0);
            return self.targets.get(i).map_or("", |t| &t.model);
        }
        let mut left = draw(total);
        for target in self.targets {
            if left < weight(target) {
                return &target.model;
            }
            left -= weight(target);
        }
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(matches: &[&str], targets: &[(&str, Option<u32>)]) -> Rule {
        Rule {
            matches: matches.iter().map(|m| (*m).to_owned()).collect(),
            targets: targets
                .iter()
                .map(|(m, w)| Target {
                    model: (*m).to_owned(),
                    weight: *w,
                })
                .collect(),
        }
    }

    fn rewrites(all: &[(&str, Vec<Rule>)]) -> Rewrites {
        Rewrites::new(
            all.iter()
                .map(|(n, r)| ModelRewrite {
                    name: (*n).to_owned(),
                    rules: r.clone(),
                })
                .collect(),
        )
    }

    #[test]
    fn exact_beats_generic_and_older_beats_newer() {
        let r = rewrites(&[
            ("any", vec![rule(&[], &[("generic", None)])]),
            ("old", vec![rule(&["m"], &[("first", None)])]),
            (
                "new",
                vec![rule(&["m"], &[("second", None)]), rule(&[], &[("later", None)])],
            ),
        ]);
        assert_eq!(
            r.find("m").map(|h| (h.name, h.choose(|_| 0))),
            Some(("old", "first"))
        );
        assert_eq!(
            r.find("x").map(|h| (h.name, h.choose(|_| 0))),
            Some(("any", "generic"))
        );
    }

    #[test]
    fn a_rule_without_targets_rewrites_nothing() {
        assert!(rewrites(&[("r", vec![rule(&["m"], &[])])]).find("m").is_none());
    }

    #[test]
    fn weights_are_cumulative_and_zero_means_uniform() {
        let r = rewrites(&[(
            "r",
            vec![rule(&["m"], &[("a", Some(70)), ("b", Some(30)), ("c", None)])],
        )]);
        let hit = r.find("m").unwrap();
        let counts = (0..100).map(|i| {
            hit.choose(|n| {
                assert_eq!(n, 100);
                i
            })
        });
        assert_eq!(counts.filter(|m| *m == "a").count(), 70);
        let r = rewrites(&[("r", vec![rule(&["m"], &[("a", Some(0)), ("b", None)])])]);
        assert_eq!(r.find("m").unwrap().choose(|n| n - 1), "b");
    }
}
