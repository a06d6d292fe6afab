//! InferenceObjective: a named priority of a pool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::spec::{self, Mistakes};

pub use super::spec::PoolRef;

/// `inference.networking.x-k8s.io/v1alpha2` InferenceObjective.
#[derive(Clone, Debug, Deserialize)]
pub struct InferenceObjective {
    /// Its name is what requests ask for.
    #[serde(deserialize_with = "super::metadata")]
    pub metadata: ObjectMeta,
    /// As written.
    #[serde(default)]
    pub spec: Value,
}

super::resource!(
    InferenceObjective,
    super::GROUP_EXPERIMENTAL,
    "v1alpha2",
    "InferenceObjective",
    "inferenceobjectives"
);

impl InferenceObjective {
    /// The pool it is for and its priority (none written: 0), and what in it is wrong.
    pub fn read(&self) -> (Option<(PoolRef, i32)>, Mistakes) {
        let mut mistakes = Mistakes::new();
        let pool = PoolRef::read(&self.spec, &mut mistakes);
        let priority = match self.spec.get("priority") {
            None | Some(Value::Null) => 0,
            Some(value) => value.as_i64().unwrap_or_else(|| {
                let got = spec::kind(value);
                mistakes.push(format!("spec.priority: must be an integer, not {got}; 0 is used"));
                0
            }),
        };
        // Only the order of priorities and their sign count: the ends of the range stand for all beyond them.
        let clamped = i32::try_from(priority).unwrap_or(if priority < 0 { i32::MIN } else { i32::MAX });
        (pool.map(|pool| (pool, clamped)), mistakes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: Value) -> (Option<(PoolRef, i32)>, Mistakes) {
        let object: InferenceObjective =
            serde_json::from_value(json!({"metadata": {"name": "o"}, "spec": spec})).unwrap();
        object.read()
    }

    #[test]
    fn a_missing_group_is_the_stable_one_and_a_missing_priority_is_0() {
        let pool = |group: &str| PoolRef {
            group: group.into(),
            name: "p".into(),
        };
        let stable = "inference.networking.k8s.io";
        for (spec, group, priority) in [
            (json!({"poolRef": {"name": "p"}}), stable, 0),
            (json!({"poolRef": {"name": "p"}, "priority": -3}), stable, -3),
            (
                json!({"poolRef": {"name": "p", "group": "g"}, "priority": 7}),
                "g",
                7,
            ),
            (
                json!({"poolRef": {"name": "p"}, "priority": 1_i64 << 40}),
                stable,
                i32::MAX,
            ),
        ] {
            assert_eq!(read(spec), (Some((pool(group), priority)), vec![]));
        }
    }

    #[test]
    fn an_objective_for_no_pool_counts_for_nothing() {
        for spec in [
            json!(null),
            json!({}),
            json!({"poolRef": {}}),
            json!({"poolRef": {"name": 1}}),
        ] {
            let text = spec.to_string();
            let (got, mistakes) = read(spec);
            assert!(got.is_none() && !mistakes.is_empty(), "{text}");
        }
        let (got, mistakes) = read(json!({"poolRef": {"name": "p"}, "priority": "high"}));
        assert_eq!((got.map(|g| g.1), mistakes.len()), (Some(0), 1));
    }
}
