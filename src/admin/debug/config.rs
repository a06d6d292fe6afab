//! `/debug/config`: the configuration in force, its hash, and the flags.

use serde_json::{Map, Value, json};

use super::{DebugPages, unix_ms};

/// Parts of names whose values are not shown.
const HIDDEN: [&str; 5] = ["token", "password", "secret", "credential", "authorization"];

impl DebugPages {
    /// The page.
    pub(super) fn config(&self) -> Value {
        let active = self.config.load();
        let flags: Map<String, Value> = self
            .flags
            .iter()
            .map(|f| (f.name.to_owned(), json!({"value": f.value, "given": f.given})))
            .collect();
        let refused = active
            .refused
            .as_ref()
            .map(|r| json!({"unix_milliseconds": unix_ms(r.at), "reasons": r.reasons}));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "hash": active.hash,
            "source": active.source,
            "in_force_since_unix_milliseconds": unix_ms(active.since),
            "applied": active.applied,
            "refused": refused,
            "configuration": veiled(&active.effective),
            "flags": flags,
        })
    }
}

/// `value` without what a name says is secret. No plugin of ours takes a secret; one to come might.
pub(super) fn veiled(value: &Value) -> Value {
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        HIDDEN.iter().any(|h| name.contains(h))
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| {
                let shown = if secret(k) { json!("(hidden)") } else { veiled(v) };
                (k.clone(), shown)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(veiled).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let given =
            json!({"plugins": [{"parameters": {"apiToken": "x", "path": "/p", "deep": {"PASSWORD": 1}}}]});
        let shown = json!({"plugins": [{"parameters": {"apiToken": "(hidden)", "path": "/p", "deep": {"PASSWORD": "(hidden)"}}}]});
        assert_eq!(veiled(&given), shown);
    }
}
