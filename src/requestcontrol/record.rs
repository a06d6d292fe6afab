//! The ring of recorded decisions: fixed memory, written by every worker, read by the explain pages.
//!
//! A slot keeps what cannot be had again ([`Kept`]); the whole decision is put together when somebody looks. A worker never
//! waits: a slot that a reader or another worker holds at that moment is left alone and the decision is not recorded,
//! which is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::datastore::Fleet;
use crate::model::endpoint::Endpoint;
use crate::model::endpoint_list::EndpointList;
use crate::model::error::RequestError;
use crate::model::exchange::End;
use crate::model::sample::Signals;
use crate::model::usage::Usage;
use crate::plugin::Decision;

use super::kept::{Kept, Numbers};
use super::plan::Plan;

/// Longest id and model name kept, in bytes; longer ones are cut at a character.
pub const MAX_TEXT: usize = 128;

/// Most decisions a ring can be asked to keep.
pub const MAX_DECISIONS: usize = 10_000;

/// How the response to a routed request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Error code counted in the metrics, if one was.
    pub error: Option<&'static str>,
    /// From the request's headers to the end.
    pub took: Duration,
    /// Tokens, if the response told.
    pub usage: Option<Usage>,
}

/// One decision with everything it was made from.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Number of the decision, from 1; 0 where nothing is recorded.
    pub sequence: u64,
    /// When it was made; `None` where nothing is recorded.
    pub at: Option<Instant>,
    /// Seed of every random draw of the decision.
    pub seed: u64,
    /// Request id.
    pub request_id: String,
    /// Model in the client's body; empty for a request without a body.
    pub incoming_model: String,
    /// Model after rewrites.
    pub target_model: String,
    /// Priority of the request's objective.
    pub priority: i32,
    /// The fleet at that time.
    pub fleet: Arc<Fleet>,
    /// Were the endpoints narrowed by the proxy's subset hint? Then `subset` holds them.
    pub hinted: bool,
    /// Endpoints of the hint.
    pub subset: EndpointList,
    /// The numbers of each endpoint that the decision used.
    pub signals: Vec<Signals>,
    /// Did the scheduler run? If not, `decision` and `signals` mean nothing.
    pub scheduled: bool,
    /// The decision.
    pub decision: Decision,
    /// What it was made with.
    pub plan: Option<Arc<Plan>>,
    /// The rejection, if it came to one.
    pub rejected: Option<RequestError>,
    /// First endpoint of the destination.
    pub target: Option<Arc<Endpoint>>,
    /// How the response ended; `None` while it is under way, or when this was not noted.
    pub ended: Option<Ended>,
}

/// What is recorded beside the buffers.
pub struct Entry<'a> {
    /// When the decision was made.
    pub at: Instant,
    /// Seed of every random draw of the decision.
    pub seed: u64,
    /// Request id.
    pub request_id: &'a str,
    /// Model in the client's body.
    pub incoming_model: &'a str,
    /// Model after rewrites.
    pub target_model: &'a str,
    /// Priority.
    pub priority: i32,
    /// The fleet.
    pub fleet: &'a Arc<Fleet>,
    /// What was decided with.
    pub plan: &'a Arc<Plan>,
    /// Was there a subset hint?
    pub hinted: bool,
    /// Did the scheduler run?
    pub scheduled: bool,
    /// Where the request goes, or why it does not.
    pub outcome: Result<Option<&'a Arc<Endpoint>>, &'a RequestError>,
}

/// What a decision was made from, and the decision.
pub struct Made<'a> {
    /// Endpoints of the subset hint; taken.
    pub subset: &'a mut EndpointList,
    /// Numbers of each endpoint.
    pub numbers: Numbers<'a>,
    /// The decision.
    pub decision: &'a Decision,
}

/// A place in the ring.
#[derive(Debug, Default)]
struct Slot {
    /// Without decision and signals.
    record: Record,
    kept: Kept,
}

impl Record {
    /// The endpoints the decision was about; it names them by index.
    pub fn endpoints(&self) -> &EndpointList {
        if self.hinted {
            &self.subset
        } else {
            &self.fleet.endpoints
        }
    }

    fn fill(&mut self, sequence: u64, entry: &Entry<'_>, subset: &mut EndpointList) {
        self.sequence = sequence;
        self.at = Some(entry.at);
        self.seed = entry.seed;
        set(&mut self.request_id, entry.request_id);
        set(&mut self.incoming_model, entry.incoming_model);
        set(&mut self.target_model, entry.target_model);
        self.priority = entry.priority;
        self.hinted = entry.hinted;
        self.scheduled = entry.scheduled;
        self.ended = None;
        // Most of the time nothing has changed since: a look at a pointer is cheaper than counting references.
        if !Arc::ptr_eq(&self.fleet, entry.fleet) {
            self.fleet = entry.fleet.clone();
        }
        if !self.plan.as_ref().is_some_and(|p| Arc::ptr_eq(p, entry.plan)) {
            self.plan = Some(entry.plan.clone());
        }
        self.target = entry.outcome.as_ref().ok().and_then(|t| t.cloned());
        self.rejected = entry.outcome.as_ref().err().map(|e| (*e).clone());
        self.subset = std::mem::take(subset);
    }

    /// The whole record.
    fn restored(mut self, kept: &Kept) -> Self {
        if let (true, Some(plan), Some(at)) = (self.scheduled, &self.plan, self.at) {
            self.signals = kept.signals();
            self.decision = kept.decision(plan, self.endpoints(), &self.signals, at);
        }
        self
    }
}

fn set(kept: &mut String, text: &str) {
    kept.clear();
    kept.push_str(cut(text));
}

/// `text` as the ring keeps it.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// The ring. Share it in an `Arc`.
#[derive(Debug)]
pub struct DecisionRing {
    /// One lock a slot: a writer only ever tries it, a reader holds it for one copy.
    slots: Box<[Mutex<Slot>]>,
    next: AtomicU64,
    missed: AtomicU64,
}

impl DecisionRing {
    /// A ring of the last `decisions`, at most [`MAX_DECISIONS`]; 0 records nothing.
    pub fn new(decisions: usize) -> Self {
        DecisionRing {
            slots: (0..decisions.min(MAX_DECISIONS))
                .map(|_| Mutex::default())
                .collect(),
            next: AtomicU64::new(1),
            missed: AtomicU64::new(0),
        }
    }

    /// How many decisions it keeps.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Decisions made so far.
    pub fn made(&self) -> u64 {
        self.next.load(Ordering::Relaxed) - 1
    }

    /// Decisions not recorded because their slot was in use.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Records a decision and returns its number.
    pub fn record(&self, entry: &Entry<'_>, made: Made<'_>) -> Option<u64> {
        if self.slots.is_empty() {
            return None;
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(mut slot) = self.slot(sequence)?.try_lock() {
            slot.record.fill(sequence, entry, made.subset);
            if entry.scheduled {
                slot.kept.fill(made.decision, entry.plan, made.numbers);
            }
            return Some(sequence);
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Notes how the response of decision `sequence` ended, if it is still there.
    pub fn ended(&self, sequence: u64, ended: Ended) {
        if let Some(mut slot) = self.slot(sequence).and_then(Mutex::try_lock)
            && slot.record.sequence == sequence
        {
            slot.record.ended = Some(ended);
        }
    }

    /// A copy of each recorded decision that `wanted` likes by what is not in its decision and signals, newest first, made
    /// one at a time as the iterator goes.
    pub fn newest<'a>(&'a self, wanted: impl Fn(&Record) -> bool + 'a) -> impl Iterator<Item = Record> + 'a {
        let next = self.next.load(Ordering::Relaxed);
        let oldest = next.saturating_sub(self.slots.len() as u64).max(1);
        (oldest..next).rev().filter_map(move |sequence| {
            let slot = self.slot(sequence)?.lock();
            let found = slot.record.sequence == sequence && wanted(&slot.record);
            let (record, kept) = found.then(|| (slot.record.clone(), slot.kept.clone()))?;
            drop(slot);
            Some(record.restored(&kept))
        })
    }

    fn slot(&self, sequence: u64) -> Option<&Mutex<Slot>> {
        let at = sequence.checked_rem(self.slots.len() as u64)?;
        self.slots.get(at as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::{Profile, Scheduler};

    fn plan() -> Arc<Plan> {
        let types = crate::scheduling::plugin_types();
        let make = |name: &str| {
            let context = crate::plugin::Context {
                name: name.into(),
                metrics: Arc::default(),
                clock: crate::base::clock::Clock::System,
            };
            let found = types.iter().find(|t| t.name == name).unwrap();
            (found.make)(&context, &crate::plugin::Params::default()).unwrap()
        };
        let profile = Profile {
            name: "default".into(),
            filters: vec![],
            scorers: vec![],
            picker: (
                "p".into(),
                "max-score-picker",
                make("max-score-picker").picker.unwrap(),
            ),
        };
        let handler = make("single-profile-handler").handler.unwrap();
        let scheduler =
            Scheduler::new(vec![profile], ("h".into(), "single-profile-handler", handler)).unwrap();
        Arc::new(Plan::new(&scheduler, &[]))
    }

    fn record(ring: &DecisionRing, id: &str, signals: &[Signals]) -> Option<u64> {
        let (fleet, plan) = (Arc::new(Fleet::default()), plan());
        let entry = Entry {
            at: Instant::now(),
            seed: 0,
            request_id: id,
            incoming_model: "m",
            target_model: "t",
            priority: 0,
            fleet: &fleet,
            plan: &plan,
            hinted: false,
            scheduled: true,
            outcome: Ok(None),
        };
        let made = Made {
            subset: &mut EndpointList::default(),
            numbers: Numbers::Subset(signals),
            decision: &Decision::default(),
        };
        ring.record(&entry, made)
    }

    fn ids(ring: &DecisionRing) -> Vec<String> {
        ring.newest(|_| true).map(|r| r.request_id).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let ring = DecisionRing::new(3);
        assert!(ids(&ring).is_empty());
        for i in 0u32..5 {
            let signals = [Signals {
                waiting: i,
                ..Signals::default()
            }];
            assert_eq!(record(&ring, &i.to_string(), &signals), Some(u64::from(i) + 1));
        }
        assert_eq!(ids(&ring), ["4", "3", "2"]);
        assert_eq!((ring.made(), ring.missed(), ring.capacity()), (5, 0, 3));
        let chosen: Vec<u32> = ring
            .newest(|r| r.request_id == "3")
            .map(|r| r.signals[0].waiting)
            .collect();
        assert_eq!(chosen, [3]);
    }

    #[test]
    fn a_ring_of_none_records_nothing() {
        let ring = DecisionRing::new(0);
        assert_eq!(record(&ring, "x", &[]), None);
        ring.ended(
            1,
            Ended {
                end: End::Natural,
                error: None,
                took: Duration::ZERO,
                usage: None,
            },
        );
        assert!(ids(&ring).is_empty());
    }

    #[test]
    fn a_worker_does_not_wait_for_a_reader() {
        let ring = DecisionRing::new(1);
        record(&ring, "a", &[]);
        let held = ring.slots[0].lock();
        assert_eq!(record(&ring, "b", &[]), None);
        drop(held);
        assert_eq!(ring.missed(), 1);
        assert_eq!(record(&ring, "c", &[]), Some(3));
        assert_eq!(ids(&ring), ["c"]);
    }

    #[test]
    fn the_end_is_noted_only_where_the_decision_still_is() {
        let ring = DecisionRing::new(1);
        let ended = |end| Ended {
            end,
            error: None,
            took: Duration::from_secs(1),
            usage: None,
        };
        let first = record(&ring, "a", &[]).unwrap();
        ring.ended(first, ended(End::Natural));
        let noted = || ring.newest(|_| true).next().unwrap().ended.map(|e| e.end);
        assert_eq!(noted(), Some(End::Natural));
        let second = record(&ring, "b", &[]).unwrap();
        ring.ended(first, ended(End::Error));
        assert_eq!(noted(), None);
        ring.ended(second, ended(End::Disconnected));
        assert_eq!(noted(), Some(End::Disconnected));
    }

    #[test]
    fn long_ids_are_cut_at_a_character() {
        let ring = DecisionRing::new(1);
        record(&ring, &format!("x{}", "é".repeat(200)), &[]);
        assert_eq!(ids(&ring)[0].len(), 127);
    }
}
