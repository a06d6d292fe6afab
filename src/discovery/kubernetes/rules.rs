//! The pool's objectives and model rewrites, as they are in the cluster.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::api::kubernetes::objective::{InferenceObjective, PoolRef};
use crate::api::kubernetes::rewrite::{self, InferenceModelRewrite};
use crate::kubernetes::watch::Update;
use crate::model::objective::Objectives;
use crate::model::rewrite::{ModelRewrite, Rewrites, Rule, Target};

use super::complaints::Complaints;

const OBJECTIVE: &str = "InferenceObjective";
const REWRITE: &str = "InferenceModelRewrite";

/// Those that are for one pool.
#[derive(Debug, Default)]
pub struct Rules {
    pool: Option<PoolRef>,
    objectives: BTreeMap<String, i32>,
    rewrites: BTreeMap<String, (Timestamp, Vec<rewrite::Rule>)>,
}

impl Rules {
    /// No rules yet of this pool.
    pub fn of(name: &str, group: &str) -> Self {
        let pool = PoolRef {
            group: group.to_owned(),
            name: name.to_owned(),
        };
        Rules {
            pool: Some(pool),
            ..Rules::default()
        }
    }

    /// Takes an update of objectives in.
    pub fn objectives(&mut self, update: Update<InferenceObjective>, complaints: &mut Complaints) {
        let changed = match update {
            Update::All(all) => {
                self.objectives.clear();
                complaints.keep(OBJECTIVE, |name| all.iter().any(|o| is(&o.metadata.name, name)));
                all
            }
            Update::Changed(one) => vec![one],
            Update::Gone(one) => {
                self.objectives.remove(&name(one.metadata.name));
                return;
            }
        };
        for object in changed {
            let (read, mistakes) = object.read();
            let name = name(object.metadata.name);
            complaints.about(OBJECTIVE, &name, &mistakes);
            match read.filter(|(pool, _)| self.pool.as_ref() == Some(pool)) {
                Some((_, priority)) => self.objectives.insert(name, priority),
                // For another pool, perhaps since just now.
                None => self.objectives.remove(&name),
            };
        }
    }

    /// Takes an update of rewrites in.
    pub fn rewrites(&mut self, update: Update<InferenceModelRewrite>, complaints: &mut Complaints) {
        let changed = match update {
            Update::All(all) => {
                self.rewrites.clear();
                complaints.keep(REWRITE, |name| all.iter().any(|o| is(&o.metadata.name, name)));
                all
            }
            Update::Changed(one) => vec![one],
            Update::Gone(one) => {
                self.rewrites.remove(&name(one.metadata.name));
                return;
            }
        };
        for object in changed {
            let (read, mistakes) = object.read();
            let born = object.metadata.creation_timestamp.as_ref();
            let born = born.map_or(Timestamp::UNIX_EPOCH, |t| t.0);
            let name = name(object.metadata.name);
            complaints.about(REWRITE, &name, &mistakes);
            match read.filter(|(pool, _)| self.pool.as_ref() == Some(pool)) {
                Some((_, rules)) => self.rewrites.insert(name, (born, rules)),
                None => self.rewrites.remove(&name),
            };
        }
    }

    /// As requests look them up: rewrites oldest first, of the same age by name.
    pub fn build(&self) -> (Objectives, Rewrites) {
        let mut by_age: Vec<_> = self.rewrites.iter().collect();
        by_age.sort_by_key(|(_, (born, _))| *born);
        let rewrites = by_age.into_iter().map(|(name, (_, rules))| ModelRewrite {
            name: name.clone(),
            rules: rules.iter().map(rule).collect(),
        });
        let objectives = self
            .objectives
            .iter()
            .map(|(name, priority)| (name.clone(), *priority));
        (
            Objectives(objectives.collect()),
            Rewrites::new(rewrites.collect()),
        )
    }
}

fn rule(rule: &rewrite::Rule) -> Rule {
    let target = |(model, weight): &(String, Option<u32>)| Target {
        model: model.clone(),
        weight: *weight,
    };
    Rule {
        matches: rule.matches.clone(),
        targets: rule.targets.iter().map(target).collect(),
    }
}

fn name(of: Option<String>) -> String {
    of.unwrap_or_default()
}

fn is(of: &Option<String>, name: &str) -> bool {
    of.as_deref() == Some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules() -> Rules {
        Rules::of("p", "g")
    }

    fn objective(name: &str, pool: &str, group: &str, priority: i32) -> InferenceObjective {
        let spec = json!({"poolRef": {"name": pool, "group": group}, "priority": priority});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn rewrite(name: &str, born: &str, rules: Value) -> InferenceModelRewrite {
        let spec = json!({"poolRef": {"name": "p", "group": "g"}, "rules": rules});
        let metadata = json!({"name": name, "creationTimestamp": born});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn only_objectives_of_this_pool_count_and_one_that_moves_away_is_dropped() {
        let (mut rules, mut said) = (rules(), Complaints::default());
        let all = vec![
            objective("a", "p", "g", 1),
            objective("b", "other", "g", 2),
            objective("c", "p", "other", 3),
        ];
        rules.objectives(Update::All(all), &mut said);
        let priority = |rules: &Rules, name: &str| rules.build().0.priority(name);
        assert_eq!(["a", "b", "c"].map(|n| priority(&rules, n)), [1, 0, 0]);
        rules.objectives(Update::Changed(objective("a", "other", "g", 1)), &mut said);
        rules.objectives(Update::Changed(objective("b", "p", "g", 2)), &mut said);
        assert_eq!(["a", "b"].map(|n| priority(&rules, n)), [0, 2]);
        rules.objectives(Update::Gone(objective("b", "p", "g", 2)), &mut said);
        assert_eq!(priority(&rules, "b"), 0);
        rules.objectives(Update::Changed(objective("d", "p", "g", 4)), &mut said);
        rules.objectives(Update::All(vec![]), &mut said);
        assert_eq!(priority(&rules, "d"), 0);
    }

    #[test]
    fn the_oldest_rewrite_wins_and_the_name_settles_a_tie() {
        let (mut rules, mut said) = (rules(), Complaints::default());
        let to = |model: &str| json!([{"matches": [{"model": {"value": "m"}}], "targets": [{"modelRewrite": model}]}]);
        let all = vec![
            rewrite("a-young", "2026-02-01T00:00:00Z", to("young")),
            rewrite("z", "2026-01-01T00:00:00Z", to("z")),
            rewrite("b", "2026-01-01T00:00:00Z", to("b")),
        ];
        rules.rewrites(Update::All(all), &mut said);
        let winner = |rules: &Rules| rules.build().1.find("m").map(|h| h.name.to_owned());
        assert_eq!(winner(&rules).as_deref(), Some("b"));
        rules.rewrites(
            Update::Gone(rewrite("b", "2026-01-01T00:00:00Z", to("b"))),
            &mut said,
        );
        assert_eq!(winner(&rules).as_deref(), Some("z"));
    }
}
