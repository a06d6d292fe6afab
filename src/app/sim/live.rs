//! The words `inference-sim` was started with, kept so that they can be read again with changes (simulator.md §14): what
//! is changed while it runs passes the same checks as what it was started with. Made by `settings`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use serde_json::Value;

use super::lists::{LISTS, List};
use super::options::{FLAGS, LATENCY};
use super::{settings, shown};
use crate::base::flags::{self, Kind, Stop};
use crate::simulator::control::{Effective, Fields, Reader, merge};

/// Environment variables that mean something.
const VARIABLES: [&str; 6] = [
    "POD_IP",
    "POD_NAME",
    "POD_NAMESPACE",
    "PYTHONHASHSEED",
    "SIM_MODEL",
    "VLLM_SERVER_DEV_MODE",
];

/// Latency flags that stay as they were.
const FIXED: [&str; 4] = [
    "latency-model",
    "max-num-batched-tokens",
    "lora-load-time",
    "ttft-metric",
];

/// Everything that was said at the start.
#[derive(Clone, Debug)]
pub struct Source {
    /// Single values: those of the file, then those of the command line.
    pub words: Vec<OsString>,
    /// Lists.
    pub lists: [List; LISTS.len()],
    /// The seed, where none is given.
    pub seed: i64,
    env: BTreeMap<&'static str, String>,
}

impl Source {
    /// Keeps what was said; `env` gives environment variables.
    pub fn new(
        words: Vec<OsString>,
        lists: [List; LISTS.len()],
        seed: i64,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let env = VARIABLES.iter().filter_map(|name| Some((*name, env(name)?)));
        Source {
            env: env.collect(),
            words,
            lists,
            seed,
        }
    }

    /// An environment variable.
    pub fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    /// Reads changes.
    pub fn reader(self: &Arc<Self>) -> Reader {
        let source = self.clone();
        Reader::new(move |changes| source.effective(changes))
    }

    fn effective(&self, changes: &Fields) -> Result<Effective, String> {
        let source = Arc::new(self.changed(changes)?);
        let (parsed, stop) = flags::parse(FLAGS, &source.words);
        if let Some(Stop::Usage(text)) = stop {
            return Err(text);
        }
        // The notes are about words that were written at the start, too.
        let read = settings::settings(&parsed, &source, &mut Vec::new());
        let config = read.map_err(|errors| errors.join("; "))?.config;
        Ok(Effective {
            latency: config.machine.engine.latency,
            shown: shown::configuration(&parsed, &source, &config),
            failures: config.machine.failures,
            fake: config.machine.engine.fake,
        })
    }

    fn changed(&self, changes: &Fields) -> Result<Source, String> {
        let mut source = self.clone();
        for (name, value) in changes {
            match name.as_str() {
                "failure-types" => source.lists[2] = Some(texts(name, value)?),
                "fake-metrics" => source.lists[3] = Some(vec![self.fake(value)?]),
                _ => source.words.push(word(name, value)?.into()),
            }
        }
        Ok(source)
    }

    /// Made-up metrics with changes, as JSON.
    fn fake(&self, changes: &Value) -> Result<String, String> {
        let Some([started]) = self.lists[3].as_deref() else {
            return Err("the simulator is reporting real metrics; fake metrics cannot be updated".to_owned());
        };
        let changes = changes
            .as_object()
            .ok_or("field 'fake-metrics' must be an object")?;
        let mut whole: Fields = serde_json::from_str(started).map_err(|e| e.to_string())?;
        merge(&mut whole, changes);
        whole.retain(|_, value| !is_empty(value));
        Ok(Value::Object(whole).to_string())
    }
}

/// An empty list or object means that there is nothing of it.
fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Fields::is_empty)
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let list = value.as_array().and_then(|l| l.iter().map(text).collect());
    list.ok_or_else(|| format!("field '{name}' must be an array of strings"))
}

/// A change as a word of a command line.
fn word(name: &str, value: &Value) -> Result<String, String> {
    let flag = FLAGS
        .iter()
        .find(|f| f.name == name)
        .filter(|f| f.name == "failure-injection-rate" || (f.group == LATENCY && !FIXED.contains(&f.name)));
    let flag = flag.ok_or_else(|| format!("field '{name}' is not admin-configurable"))?;
    let (text, wanted) = match flag.kind {
        Kind::Int => (value.as_i64().map(|n| n.to_string()), "a whole number"),
        Kind::Float => (value.as_f64().map(|n| n.to_string()), "a number"),
        _ => (value.as_str().map(str::to_owned), "a string"),
    };
    let text = text.ok_or_else(|| format!("field '{name}' must be {wanted}"))?;
    Ok(format!("--{name}={text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_can_change_is_taken_and_of_its_own_kind() {
        let rows = [
            ("time-to-first-token", json!("1s"), Ok("--time-to-first-token=1s")),
            (
                "time-factor-under-load",
                json!(2),
                Ok("--time-factor-under-load=2"),
            ),
            (
                "failure-injection-rate",
                json!(7),
                Ok("--failure-injection-rate=7"),
            ),
            ("latency-calculator", json!(""), Ok("--latency-calculator=")),
            (
                "inter-token-latency",
                json!(5),
                Err("field 'inter-token-latency' must be a string"),
            ),
            (
                "failure-injection-rate",
                json!(1.5),
                Err("field 'failure-injection-rate' must be a whole number"),
            ),
            ("port", json!(1), Err("field 'port' is not admin-configurable")),
            (
                "latency-model",
                json!("batch-step"),
                Err("field 'latency-model' is not admin-configurable"),
            ),
            (
                "nonsense",
                json!(1),
                Err("field 'nonsense' is not admin-configurable"),
            ),
        ];
        for (name, value, expected) in rows {
            let got = word(name, &value);
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{name}");
        }
    }
}
