//! Series by label values, with a cap: a reader finds its series through an atomic pointer and never waits for
//! a scrape or for a writer. Used by every labelled metric of this folder.
//!
//! The library's `Family` is a locked map that a scrape holds while it writes the page, and it has no cap: a
//! client that makes up model names could grow it without end.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// Distinct series a family holds before new ones are counted under [`OVERFLOW`].
pub const MAX_SERIES: usize = 1000;

/// Label value of the series that takes what is over the cap.
pub const OVERFLOW: &str = "other";

/// Longest label value in bytes; longer ones are cut at a character.
pub const MAX_LABEL_BYTES: usize = 128;

type Labels<const N: usize> = [Arc<str>; N];

/// Label values with their names, as the encoder takes them.
pub type Named<const N: usize> = [(&'static str, Arc<str>); N];

type Series<const N: usize, M> = HashMap<Key<N>, Arc<M>>;

/// All series of one label set.
pub struct Family<const N: usize, M> {
    names: [&'static str; N],
    make: fn(&Labels<N>) -> M,
    series: ArcSwap<Series<N, M>>,
    /// Held by whoever adds a series: two that add at once must see each other.
    adding: Mutex<()>,
}

impl<const N: usize, M> Family<N, M> {
    /// An empty family with these label names; `make` makes a series on first use.
    pub fn new(names: [&'static str; N], make: fn(&Labels<N>) -> M) -> Self {
        Family {
            names,
            make,
            series: ArcSwap::default(),
            adding: Mutex::new(()),
        }
    }

    /// The series of these values, made on first use, or the overflow series when the family is full.
    pub fn get(&self, values: [&str; N]) -> Arc<M> {
        let values = values.map(clean);
        let values = values.each_ref().map(|v| v.as_ref());
        let now = self.series.load();
        if let Some(known) = find(&now, values) {
            return known;
        }
        if now.len() >= MAX_SERIES
            && let Some(overflow) = find(&now, [OVERFLOW; N])
        {
            return overflow;
        }
        self.add(values)
    }

    fn add(&self, values: [&str; N]) -> Arc<M> {
        let _one_at_a_time = self.adding.lock();
        let now = self.series.load_full();
        let values = if now.len() < MAX_SERIES {
            values
        } else {
            [OVERFLOW; N]
        };
        if let Some(known) = find(&now, values) {
            return known;
        }
        let labels = values.map(Arc::<str>::from);
        let made = Arc::new((self.make)(&labels));
        let mut next = Series::clone(&now);
        next.insert(Key(labels), made.clone());
        self.series.store(Arc::new(next));
        made
    }

    /// Every series with its labels as name and value, ordered by values.
    pub fn all(&self) -> Vec<(Named<N>, Arc<M>)> {
        let now = self.series.load_full();
        let mut all: Vec<_> = now.iter().collect();
        all.sort_by(|a, b| a.0.0.cmp(&b.0.0));
        all.into_iter()
            .map(|(key, series)| {
                let labels = std::array::from_fn(|i| (self.names[i], key.0[i].clone()));
                (labels, series.clone())
            })
            .collect()
    }
}

impl<const N: usize, M> fmt::Debug for Family<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family")
            .field("labels", &self.names)
            .field("series", &self.series.load().len())
            .finish()
    }
}

fn find<const N: usize, M>(series: &Series<N, M>, values: [&str; N]) -> Option<Arc<M>> {
    series.get(&values as &dyn Values).cloned()
}

/// A label value fit for a page: of limited length, without control characters.
fn clean(value: &str) -> Cow<'_, str> {
    let cut = &value[..value.floor_char_boundary(MAX_LABEL_BYTES)];
    if cut.contains(char::is_control) {
        Cow::Owned(cut.replace(char::is_control, "_"))
    } else {
        Cow::Borrowed(cut)
    }
}

/// Owned label values as a key that borrowed ones can look up.
#[derive(Clone)]
struct Key<const N: usize>(Labels<N>);

/// Label values, owned or borrowed: the common ground a map lookup without allocation needs.
trait Values {
    fn count(&self) -> usize;
    fn value(&self, at: usize) -> &str;
}

impl<const N: usize> Values for Key<N> {
    fn count(&self) -> usize {
        N
    }
    fn value(&self, at: usize) -> &str {
        &self.0[at]
    }
}

impl<const N: usize> Values for [&str; N] {
    fn count(&self) -> usize {
        N
    }
    fn value(&self, at: usize) -> &str {
        self[at]
    }
}

impl<'a, const N: usize> Borrow<dyn Values + 'a> for Key<N> {
    fn borrow(&self) -> &(dyn Values + 'a) {
        self
    }
}

impl Hash for dyn Values + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (0..self.count()).for_each(|i| self.value(i).hash(state));
    }
}

impl PartialEq for dyn Values + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.count() == other.count() && (0..self.count()).all(|i| self.value(i) == other.value(i))
    }
}

impl Eq for dyn Values + '_ {}

impl<const N: usize> Hash for Key<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self as &dyn Values).hash(state);
    }
}

impl<const N: usize> PartialEq for Key<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<const N: usize> Eq for Key<N> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn family() -> Family<2, AtomicU64> {
        Family::new(["model", "target"], |_| AtomicU64::new(0))
    }

    #[test]
    fn the_same_values_give_the_same_series() {
        let family = family();
        let a = family.get(["m", "t"]);
        assert!(Arc::ptr_eq(&a, &family.get(["m", "t"])));
        assert!(!Arc::ptr_eq(&a, &family.get(["t", "m"])));
        assert!(!Arc::ptr_eq(&a, &family.get(["mt", ""])), "values are kept apart");
        assert_eq!(family.all().len(), 3);
    }

    #[test]
    fn past_the_cap_everything_new_is_other_and_the_known_stay() {
        let family = family();
        for i in 0..MAX_SERIES + 50 {
            family
                .get([&format!("model-{i}"), "t"])
                .fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(family.all().len(), MAX_SERIES + 1);
        assert_eq!(family.get([OVERFLOW; 2]).load(Ordering::Relaxed), 50);
        family.get(["model-3", "t"]).fetch_add(1, Ordering::Relaxed);
        assert_eq!(family.get(["model-3", "t"]).load(Ordering::Relaxed), 2);
    }

    #[test]
    fn values_are_short_and_printable() {
        let cases = [
            ("plain", "plain".to_string()),
            ("a\nb\u{7f}c", "a_b_c".to_string()),
            (&"é".repeat(200), "é".repeat(64)),
            ("", String::new()),
        ];
        for (given, want) in cases {
            assert_eq!(clean(given), want);
        }
        let odd = format!("x{}", "é".repeat(64));
        assert_eq!(clean(&odd).len(), 127, "cut between characters");
    }

    #[test]
    fn threads_that_ask_at_once_share_one_series() {
        let family = family();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for i in 0..100 {
                        family.get([&i.to_string(), ""]).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let all = family.all();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|(_, n)| n.load(Ordering::Relaxed) == 4));
    }
}
