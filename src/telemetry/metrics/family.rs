//! Series by label values, with a cap: a reader finds its series through an atomic pointer and never waits for
//! a scrape or for a writer. Used by every labelled metric of this folder.
//!
//! The library's `Family` is a locked map that a scrape holds while it writes the page, and it has no cap: a
//! client that makes up model names could grow it without end.
//!
//! A full family makes room by forgetting series that nobody holds and that were not asked for in [`IDLE`]. A
//! series never goes backwards: one that was forgotten and comes back is a new one, from zero.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// Distinct series a family holds before new ones are counted under [`OVERFLOW`].
pub const MAX_SERIES: usize = 1000;

/// Label value of the series that takes what is over the cap.
pub const OVERFLOW: &str = "other";

/// Longest label value in bytes; longer ones are cut at a character.
pub const MAX_LABEL_BYTES: usize = 128;

/// A series that was not asked for in this time is forgotten when a full family needs room.
pub const IDLE: Duration = Duration::from_secs(600);

/// Bytes of a line of the page beside its label values, about.
const LINE_BYTES: usize = 80;

type Labels<const N: usize> = [Arc<str>; N];

/// Label values with their names, as the encoder takes them.
pub type Named<const N: usize> = [(&'static str, Arc<str>); N];

type Series<const N: usize, M> = HashMap<Key<N>, Arc<Slot<M>>>;

/// How large a family may become.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    /// Series at most.
    pub series: usize,
    /// Bytes of the page at most, about.
    pub page: usize,
    /// Lines of the page a series takes at most.
    pub lines: usize,
}

impl Default for Cap {
    fn default() -> Self {
        Cap {
            series: MAX_SERIES,
            page: usize::MAX,
            lines: 1,
        }
    }
}

/// All series of one label set.
pub struct Family<const N: usize, M> {
    names: [&'static str; N],
    make: fn(&Labels<N>) -> M,
    cap: Cap,
    series: ArcSwap<Series<N, M>>,
    /// Held by whoever changes the set of series: two that change it at once must see each other.
    changing: Mutex<Changing>,
}

struct Slot<M> {
    series: Arc<M>,
    /// Asked for since the last sweep.
    used: AtomicBool,
    /// Bytes of the page it takes at most, about.
    bytes: usize,
}

#[derive(Default)]
struct Changing {
    /// Bytes of the page all series take.
    bytes: usize,
    swept: Option<Instant>,
}

impl<const N: usize, M> Family<N, M> {
    /// An empty family with these label names; `make` makes a series on first use.
    pub fn new(names: [&'static str; N], make: fn(&Labels<N>) -> M) -> Self {
        Self::capped(names, Cap::default(), make)
    }

    /// The same with another cap.
    pub fn capped(names: [&'static str; N], cap: Cap, make: fn(&Labels<N>) -> M) -> Self {
        Family {
            names,
            make,
            cap,
            series: ArcSwap::default(),
            changing: Mutex::default(),
        }
    }

    /// The series of these values, made on first use, or the overflow series when the family is full.
    pub fn get(&self, values: [&str; N]) -> Arc<M> {
        let known = self.find(values).or_else(|| self.claim(values, Instant::now()));
        known.unwrap_or_else(|| self.overflow())
    }

    /// The series that takes what has none of its own.
    pub fn overflow(&self) -> Arc<M> {
        let values = [OVERFLOW; N];
        self.find(values)
            .unwrap_or_else(|| self.add(values, None, &mut self.changing.lock()))
    }

    /// The series of these values, where there is one.
    pub fn find(&self, values: [&str; N]) -> Option<Arc<M>> {
        let values = values.map(clean);
        let slot = find(&self.series.load(), values.each_ref().map(|v| v.as_ref()))?;
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(slot.series.clone())
    }

    /// The series of these values, made on first use; `None` when the family is full `now`.
    pub fn claim(&self, values: [&str; N], now: Instant) -> Option<Arc<M>> {
        self.admit(values, None, now)
    }

    /// Takes `series`, which another family made, under these values. False when the family is full `now`.
    pub fn adopt(&self, values: [&str; N], series: Arc<M>, now: Instant) -> bool {
        self.admit(values, Some(series), now).is_some()
    }

    fn admit(&self, values: [&str; N], series: Option<Arc<M>>, now: Instant) -> Option<Arc<M>> {
        let values = values.map(clean);
        let values = values.each_ref().map(|v| v.as_ref());
        let mut changing = self.changing.lock();
        if let Some(known) = find(&self.series.load(), values) {
            return Some(known.series.clone());
        }
        if self.full(&changing, values) {
            self.sweep(&mut changing, now);
            if self.full(&changing, values) {
                return None;
            }
        }
        Some(self.add(values, series, &mut changing))
    }

    fn full(&self, changing: &Changing, values: [&str; N]) -> bool {
        self.series.load().len() >= self.cap.series
            || changing.bytes.saturating_add(self.bytes(values)) > self.cap.page
    }

    fn add(&self, values: [&str; N], series: Option<Arc<M>>, changing: &mut Changing) -> Arc<M> {
        let now = self.series.load_full();
        if let Some(known) = find(&now, values) {
            return known.series.clone();
        }
        let labels = values.map(Arc::<str>::from);
        let series = series.unwrap_or_else(|| Arc::new((self.make)(&labels)));
        let bytes = self.bytes(values);
        changing.bytes += bytes;
        let slot = Slot {
            series: series.clone(),
            used: AtomicBool::new(true),
            bytes,
        };
        let mut next = Series::clone(&now);
        next.insert(Key(labels), Arc::new(slot));
        self.series.store(Arc::new(next));
        series
    }

    /// Forgets the series of these values.
    pub fn remove(&self, values: [&str; N]) {
        let values = values.map(clean);
        let values = values.each_ref().map(|v| v.as_ref());
        self.retain(&mut self.changing.lock(), |key, _| {
            (0..N).any(|i| key.value(i) != values[i])
        });
    }

    /// Forgets what nobody holds and nobody asked for since the last sweep, if that was [`IDLE`] ago.
    fn sweep(&self, changing: &mut Changing, now: Instant) {
        let due = changing
            .swept
            .is_none_or(|then| now.saturating_duration_since(then) >= IDLE);
        if !due {
            return;
        }
        if changing.swept.replace(now).is_some() {
            self.retain(changing, |key, slot| {
                slot.used.load(Ordering::Relaxed)
                    || Arc::strong_count(&slot.series) > 1
                    || key.0.iter().all(|value| **value == *OVERFLOW)
            });
        }
        for slot in self.series.load().values() {
            slot.used.store(false, Ordering::Relaxed);
        }
    }

    fn retain(&self, changing: &mut Changing, keep: impl Fn(&Key<N>, &Slot<M>) -> bool) {
        let mut next = Series::clone(&self.series.load_full());
        next.retain(|key, slot| {
            let kept = keep(key, slot);
            if !kept {
                changing.bytes -= slot.bytes;
            }
            kept
        });
        self.series.store(Arc::new(next));
    }

    /// Bytes of the page a series of these values takes at most, about.
    fn bytes(&self, values: [&str; N]) -> usize {
        // Quotes and backslashes are escaped on the page.
        let escaped = |v: &str| v.len() + v.bytes().filter(|b| matches!(b, b'"' | b'\\')).count();
        let labels: usize = values.iter().map(|v| escaped(v)).sum();
        self.cap.lines * (LINE_BYTES + labels)
    }

    /// Every series with its labels as name and value, ordered by values.
    pub fn all(&self) -> Vec<(Named<N>, Arc<M>)> {
        let now = self.series.load_full();
        let mut all: Vec<_> = now.iter().collect();
        all.sort_by(|a, b| a.0.0.cmp(&b.0.0));
        all.into_iter()
            .map(|(key, slot)| {
                let labels = std::array::from_fn(|i| (self.names[i], key.0[i].clone()));
                (labels, slot.series.clone())
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

fn find<const N: usize, M>(series: &Series<N, M>, values: [&str; N]) -> Option<Arc<Slot<M>>> {
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
    fn a_full_family_forgets_what_is_idle_and_held_by_nobody() {
        let start = Instant::now();
        let cap = Cap {
            series: 3,
            ..Cap::default()
        };
        let family = Family::capped(["model"], cap, |_| AtomicU64::new(0));
        let claim = |name: &str, after: Duration| family.claim([name], start + after);
        let (now, later) = (Duration::ZERO, IDLE);
        for name in ["idle", "busy", "held"] {
            claim(name, now).unwrap().fetch_add(7, Ordering::Relaxed);
        }
        let held = family.get(["held"]);
        assert!(claim("new", now).is_none(), "nothing is known to be idle yet");
        assert!(family.find(["busy"]).is_some());
        assert!(claim("new", later - Duration::from_secs(1)).is_none());
        assert!(claim("new", later).is_some());
        assert!(family.find(["idle"]).is_none());
        assert_eq!(family.get(["busy"]).load(Ordering::Relaxed), 7);
        assert!(Arc::ptr_eq(&held, &family.get(["held"])));
        assert!(claim("idle", later).is_none(), "full again");
        family.overflow().fetch_add(1, Ordering::Relaxed);
        assert!(
            claim("idle", later * 2).is_none(),
            "new and busy were asked for since"
        );
        assert!(claim("idle", later * 3).is_some());
        assert_eq!(family.get(["idle"]).load(Ordering::Relaxed), 0, "from zero");
        assert_eq!(
            family.overflow().load(Ordering::Relaxed),
            1,
            "the overflow series stays"
        );
    }

    #[test]
    fn the_page_of_a_family_is_limited() {
        let cap = Cap {
            page: 100_000,
            lines: 10,
            ..Cap::default()
        };
        let family = Family::capped(["model"], cap, |_| AtomicU64::new(0));
        for i in 0..MAX_SERIES {
            family.get([&format!("{i:0120}")]);
        }
        assert_eq!(family.all().len(), 100_000 / (10 * (LINE_BYTES + 120)) + 1);
        let quotes = Family::capped(["model"], cap, |_| AtomicU64::new(0));
        for i in 0..MAX_SERIES {
            quotes.get([&format!("{}{i:03}", "\"".repeat(120))]);
        }
        assert_eq!(quotes.all().len(), 100_000 / (10 * (LINE_BYTES + 243)) + 1);
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
