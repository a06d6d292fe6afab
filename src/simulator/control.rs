//! What can be changed while a simulator runs (simulator.md §14): changes are read as settings were, by who knows how
//! ([`Reader`], from `app::sim`), and take effect together or not at all. Called by [`super::machine`].

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::failure::Failures;
use super::latency::Latency;
use super::metrics::fake::Fake;

/// Settings by the names of flags.
pub type Fields = Map<String, Value>;

/// What settings and changes together amount to.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Latencies.
    pub latency: Latency,
    /// Failures.
    pub failures: Failures,
    /// Made-up metrics.
    pub fake: Option<Arc<Fake>>,
    /// Everything, to be shown.
    pub shown: Fields,
}

type Read = dyn Fn(&Fields) -> Result<Effective, String> + Send + Sync;

/// Reads all changes since the start.
#[derive(Clone)]
pub struct Reader(Arc<Read>);

impl Reader {
    /// Reads by `read`, which says what is wrong with changes.
    pub fn new(read: impl Fn(&Fields) -> Result<Effective, String> + Send + Sync + 'static) -> Self {
        Reader(Arc::new(read))
    }

    /// What changes amount to.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(&self, changes: &Fields) -> Result<Effective, String> {
        (self.0)(changes)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// The changes of one simulator.
pub struct Control {
    reader: Reader,
    /// All of them. Held while one takes effect: they come one after the other.
    changes: Mutex<Fields>,
}

impl Control {
    /// Nothing has been changed.
    pub fn new(reader: Reader) -> Self {
        Control {
            reader,
            changes: Mutex::default(),
        }
    }

    /// The settings now.
    ///
    /// # Errors
    /// They cannot be read again.
    pub fn shown(&self) -> Result<Fields, String> {
        let changes = self.changes.lock();
        Ok(self.reader.read(&changes)?.shown)
    }

    /// Makes changes; `apply` is called when they are sound. The settings then.
    ///
    /// # Errors
    /// What is wrong with them; nothing has changed.
    pub fn change(&self, fields: &Fields, apply: impl FnOnce(Effective)) -> Result<Fields, String> {
        let mut changes = self.changes.lock();
        let mut next = changes.clone();
        merge(&mut next, fields);
        let effective = self.reader.read(&next)?;
        let shown = effective.shown.clone();
        apply(effective);
        *changes = next;
        Ok(shown)
    }
}

/// Puts `fields` over `onto`, fields of objects one by one; `null` leaves what is there.
pub fn merge(onto: &mut Fields, fields: &Fields) {
    for (key, value) in fields {
        match (onto.get_mut(key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(old)), Value::Object(new)) if !new.is_empty() => merge(old, new),
            (_, Value::Object(new)) => {
                let mut whole = Fields::new();
                merge(&mut whole, new);
                onto.insert(key.clone(), Value::Object(whole));
            }
            _ => {
                onto.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    /// Reads anything but `bad`.
    fn reader() -> Reader {
        Reader::new(|changes| {
            if changes.contains_key("bad") {
                return Err("bad".to_owned());
            }
            Ok(Effective {
                latency: Latency::default(),
                failures: Failures::default(),
                fake: None,
                shown: changes.clone(),
            })
        })
    }

    #[test]
    fn changes_add_up_and_bad_ones_change_nothing() {
        let control = Control::new(reader());
        let change = |value: Value| {
            let mut applied = false;
            let result = control.change(&fields(value), |_| applied = true);
            assert_eq!(result.is_ok(), applied);
            result
        };
        change(json!({"a": 1, "m": {"x": 1, "y": [1]}})).unwrap();
        assert_eq!(change(json!({"a": 2, "bad": 1})), Err("bad".to_owned()));
        let shown = change(json!({"a": null, "b": 3, "m": {"y": [], "z": null, "x": 4}})).unwrap();
        let expected = json!({"a": 1, "b": 3, "m": {"x": 4, "y": []}});
        assert_eq!(Value::Object(shown.clone()), expected);
        assert_eq!(control.shown(), Ok(shown));
        let shown = change(json!({"m": {}})).unwrap();
        assert_eq!(shown["m"], json!({}), "an empty object clears");
    }
}
