//! What is wrong with objects, said once: again only when the object says something else.

use std::collections::HashMap;

/// Mistakes said, by kind and name of the object.
#[derive(Debug, Default)]
pub struct Complaints(HashMap<(&'static str, String), Vec<String>>);

impl Complaints {
    /// `mistakes` are what is wrong with this object now.
    pub fn about(&mut self, kind: &'static str, name: &str, mistakes: &[String]) {
        let key = (kind, name.to_owned());
        if mistakes.is_empty() {
            self.0.remove(&key);
            return;
        }
        if self.0.get(&key).is_some_and(|said| said == mistakes) {
            return;
        }
        for mistake in mistakes {
            tracing::warn!("{kind} {name}: {mistake}");
        }
        self.0.insert(key, mistakes.to_vec());
    }

    /// Forgets objects of `kind` that `exists` does not know.
    pub fn keep(&mut self, kind: &str, exists: impl Fn(&str) -> bool) {
        self.0.retain(|(k, name), _| *k != kind || exists(name));
    }
}
