//! Health of an endpoint: a pure state machine fed with evidence, and the cell that shares its state.
//!
//! Evidence comes from the poller, which reaches the endpoint many times a second, and from the responses of exchanges.
//! Readers load one atomic and never wait; writers lock, and write only when something was seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Failure weight from which an endpoint is suspect.
const SUSPECT: u32 = 2;
/// Failure weight from which an endpoint is down.
const DOWN: u32 = 6;
/// Answers in a row after which an endpoint that was down is healthy.
const ANSWERS: u32 = 2;
/// How long a failure that the proxy saw outweighs answers that we get: the proxy's way to the endpoint is not ours.
const PROXY_HOLD: Duration = Duration::from_millis(500);
/// How long an endpoint is down for consecutive server errors.
const ERROR_HOLD: Duration = Duration::from_secs(10);

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    #[default]
    Healthy,
    /// It could not be reached lately; not confirmed yet.
    Suspect,
    /// It could not be reached several times in a row, or answered with nothing but errors.
    Down,
}

impl Standing {
    /// `healthy`, `suspect` or `down`.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Healthy => "healthy",
            Standing::Suspect => "suspect",
            Standing::Down => "down",
        }
    }

    fn of(byte: u8) -> Self {
        match byte {
            1 => Standing::Suspect,
            2 => Standing::Down,
            _ => Standing::Healthy,
        }
    }
}

/// What an attempt to reach an endpoint, or a response, says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The poller reached it: any byte of an answer, whatever its content, or a connection where only that was tried.
    Answered,
    /// The connection was refused, or there is no way to the host.
    Refused,
    /// No connection within the time limit.
    Unreachable,
    /// A connection was made and broke, or stayed silent for the time limit. Counts only for an endpoint that has
    /// answered before: others may not speak HTTP on that port.
    Unanswered,
    /// The proxy could not connect to it.
    ProxyRefused,
    /// It answered a request with a status below 500.
    Served,
    /// It answered a request with a status of 500 or above.
    ServerError,
}

impl Evidence {
    /// Weight of a failure to reach the endpoint, 0 for everything else.
    fn weight(self) -> u32 {
        match self {
            Evidence::Refused => 2,
            Evidence::Unreachable | Evidence::Unanswered => 1,
            _ => 0,
        }
    }

    /// The reason as a word of the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Evidence::Answered => "answered",
            Evidence::Refused => "connection refused",
            Evidence::Unreachable => "no connection in time",
            Evidence::Unanswered => "no answer",
            Evidence::ProxyRefused => "the proxy could not connect",
            Evidence::Served => "served",
            Evidence::ServerError => "consecutive server errors",
        }
    }
}

/// How health is judged; process-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Share of healthy endpoints, percent, below which health is ignored and all are used.
    pub panic_percent: u32,
    /// Consecutive server errors after which an endpoint is down; 0 never.
    pub max_server_errors: u32,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        HealthPolicy {
            panic_percent: 50,
            max_server_errors: 0,
        }
    }
}

/// The state machine of one endpoint. A pure function of the evidence and its times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    standing: Standing,
    /// Sum of the weights of failures since the last answer.
    failures: u32,
    /// Answers since the last failure.
    answers: u32,
    /// Has it ever answered?
    known: bool,
    /// Server errors since the last response without one.
    errors: u32,
    /// Until when answers do not make it healthy.
    held: Option<Instant>,
    /// What made it leave `Healthy`.
    reason: Option<Evidence>,
}

impl Machine {
    /// Takes in `evidence` seen at `now`; returns the standing after it.
    pub fn observe(&mut self, evidence: Evidence, now: Instant, max_server_errors: u32) -> Standing {
        match evidence {
            Evidence::Answered => self.answered(now),
            Evidence::Unanswered if !self.known => {}
            Evidence::Refused | Evidence::Unreachable | Evidence::Unanswered => self.failed(evidence),
            Evidence::ProxyRefused => {
                self.answers = 0;
                self.failures = self.failures.max(SUSPECT);
                self.hold(now + PROXY_HOLD);
                self.worsen(Standing::Suspect, evidence);
            }
            Evidence::Served => self.errors = 0,
            Evidence::ServerError => {
                self.errors = self.errors.saturating_add(1);
                if max_server_errors > 0 && self.errors >= max_server_errors {
                    // One more is enough when it comes back and nothing has changed.
                    self.errors = max_server_errors - 1;
                    self.answers = 0;
                    self.hold(now + ERROR_HOLD);
                    self.worsen(Standing::Down, evidence);
                }
            }
        }
        self.standing
    }

    fn answered(&mut self, now: Instant) {
        self.known = true;
        self.failures = 0;
        if self.held.is_some_and(|until| now < until) {
            return;
        }
        self.held = None;
        self.answers = self.answers.saturating_add(1);
        if self.standing == Standing::Suspect || self.answers >= ANSWERS {
            self.standing = Standing::Healthy;
            self.reason = None;
        }
    }

    fn failed(&mut self, evidence: Evidence) {
        self.answers = 0;
        self.failures = self.failures.saturating_add(evidence.weight());
        if self.failures >= DOWN {
            self.worsen(Standing::Down, evidence);
        } else if self.failures >= SUSPECT {
            self.worsen(Standing::Suspect, evidence);
        }
    }

    fn hold(&mut self, until: Instant) {
        self.held = self.held.max(Some(until));
    }

    fn worsen(&mut self, to: Standing, reason: Evidence) {
        if to as u8 > self.standing as u8 {
            self.standing = to;
            self.reason = Some(reason);
        }
    }

    /// Is there a failure that nothing has answered since?
    pub fn failing(&self) -> bool {
        self.failures > 0
    }
}

/// A change of an endpoint's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandingChange {
    /// Before.
    pub from: Standing,
    /// After.
    pub to: Standing,
}

/// The health of one endpoint, shared by everybody who sees it.
#[derive(Debug, Default)]
pub struct Health {
    standing: AtomicU8,
    machine: Mutex<Machine>,
    /// Counts the changes of standing in a fleet, so that who keeps a list of the unhealthy sees that it is old.
    changes: Arc<AtomicU64>,
    /// A probe is wanted before the next turn.
    wanted: AtomicBool,
    prober: AtomicWaker,
}

impl Health {
    /// The health of a new endpoint of the fleet whose changes of standing `changes` counts: healthy.
    pub fn new(changes: Arc<AtomicU64>) -> Self {
        Health {
            changes,
            ..Health::default()
        }
    }

    /// The standing now.
    #[inline]
    pub fn standing(&self) -> Standing {
        Standing::of(self.standing.load(Ordering::Acquire))
    }

    /// Takes in `evidence` seen at `now`; tells when the standing is another one after it.
    pub fn observe(&self, evidence: Evidence, now: Instant, policy: HealthPolicy) -> Option<StandingChange> {
        let mut machine = self.machine.lock();
        let from = machine.standing;
        let to = machine.observe(evidence, now, policy.max_server_errors);
        if from == to {
            return None;
        }
        self.standing.store(to as u8, Ordering::Release);
        // After the standing: who sees the number sees the standing too.
        self.changes.fetch_add(1, Ordering::Release);
        Some(StandingChange { from, to })
    }

    /// Why it is not healthy.
    pub fn reason(&self) -> Option<&'static str> {
        self.machine.lock().reason.map(Evidence::name)
    }

    /// Is there a failure that nothing has answered since?
    pub fn failing(&self) -> bool {
        self.machine.lock().failing()
    }

    /// Asks for a probe now, whenever the next turn is.
    pub fn want_probe(&self) {
        self.wanted.store(true, Ordering::Release);
        self.prober.wake();
    }

    /// Ready when a probe was asked for since it last was; for the one task that probes the endpoint.
    pub fn poll_wanted(&self, context: &Context<'_>) -> Poll<()> {
        self.prober.register(context.waker());
        if self.wanted.swap(false, Ordering::AcqRel) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Evidence::*;
    use super::Standing::*;
    use super::*;

    /// Standings after each of `evidence`, 10 ms apart.
    fn after(evidence: &[Evidence], max_server_errors: u32) -> Vec<Standing> {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let at = |i: usize| start + Duration::from_millis(10) * u32::try_from(i).unwrap();
        let each = evidence.iter().enumerate();
        each.map(|(i, e)| machine.observe(*e, at(i), max_server_errors))
            .collect()
    }

    #[test]
    fn standings_follow_the_evidence() {
        let rows: &[(&[Evidence], &[Standing])] = &[
            // One refusal is enough to suspect, three confirm, two answers clear.
            (&[Refused, Refused, Refused], &[Suspect, Suspect, Down]),
            (&[Refused, Answered], &[Suspect, Healthy]),
            (
                &[Refused, Refused, Refused, Answered, Answered],
                &[Suspect, Suspect, Down, Down, Healthy],
            ),
            (
                &[Refused, Refused, Refused, Answered, Refused, Answered],
                &[Suspect, Suspect, Down, Down, Down, Down],
            ),
            // A late answer alone does not.
            (
                &[Unreachable, Answered, Unreachable],
                &[Healthy, Healthy, Healthy],
            ),
            (
                &[Unreachable, Unreachable, Unreachable],
                &[Healthy, Suspect, Suspect],
            ),
            (
                &[
                    Unreachable,
                    Unreachable,
                    Unreachable,
                    Unreachable,
                    Unreachable,
                    Unreachable,
                ],
                &[Healthy, Suspect, Suspect, Suspect, Suspect, Down],
            ),
            // Who never spoke HTTP here is not dead for not speaking it.
            (
                &[Unanswered, Unanswered, Unanswered],
                &[Healthy, Healthy, Healthy],
            ),
            (&[Answered, Unanswered, Unanswered], &[Healthy, Healthy, Suspect]),
            // What the proxy saw outweighs our own answers for a while.
            (&[ProxyRefused, Answered, Answered], &[Suspect, Suspect, Suspect]),
            (&[ProxyRefused, Refused, Refused], &[Suspect, Suspect, Down]),
            // Responses neither clear nor worsen what scrapes saw.
            (&[Refused, Served, ServerError], &[Suspect, Suspect, Suspect]),
        ];
        for (evidence, want) in rows {
            assert_eq!(after(evidence, 0), *want, "{evidence:?}");
        }
    }

    #[test]
    fn consecutive_server_errors_count_where_a_limit_is_set() {
        let errors = [
            ServerError,
            ServerError,
            Served,
            ServerError,
            ServerError,
            ServerError,
        ];
        assert_eq!(after(&errors, 0), [Healthy; 6]);
        assert_eq!(
            after(&errors, 3),
            [Healthy, Healthy, Healthy, Healthy, Healthy, Down]
        );
    }

    #[test]
    fn an_endpoint_that_was_held_comes_back_once_the_time_is_over() {
        let start = Instant::now();
        for (evidence, hold) in [(ProxyRefused, PROXY_HOLD), (ServerError, ERROR_HOLD)] {
            let mut machine = Machine::default();
            machine.observe(evidence, start, 1);
            let mut answer = |at| machine.observe(Answered, start + at, 1);
            assert_ne!(answer(hold - Duration::from_millis(1)), Healthy, "{evidence:?}");
            answer(hold);
            assert_eq!(answer(hold + Duration::from_millis(1)), Healthy, "{evidence:?}");
        }
    }

    #[test]
    fn the_cell_counts_changes_and_hands_on_the_wish_for_a_probe_once() {
        let changes = Arc::new(AtomicU64::new(0));
        let health = Health::new(changes.clone());
        let (now, policy) = (Instant::now(), HealthPolicy::default());
        assert_eq!(health.observe(Answered, now, policy), None);
        let change = health.observe(Refused, now, policy).unwrap();
        assert_eq!(
            (change.from, change.to, health.standing()),
            (Healthy, Suspect, Suspect)
        );
        assert_eq!(
            (changes.load(Ordering::Relaxed), health.reason()),
            (1, Some("connection refused"))
        );
        health.want_probe();
        let context = Context::from_waker(std::task::Waker::noop());
        assert!(health.poll_wanted(&context).is_ready());
        assert!(health.poll_wanted(&context).is_pending());
    }

    fn any_evidence() -> impl Strategy<Value = Evidence> {
        prop::sample::select(vec![
            Answered,
            Refused,
            Unreachable,
            Unanswered,
            ProxyRefused,
            Served,
            ServerError,
        ])
    }

    proptest! {
        #[test]
        fn whatever_was_seen_answers_bring_an_endpoint_back(
            seen in prop::collection::vec((any_evidence(), 0_u64..2_000), 0..60),
            max_server_errors in 0_u32..4,
        ) {
            let (mut machine, mut now) = (Machine::default(), Instant::now());
            let mut failed = false;
            for (evidence, pause) in seen {
                now += Duration::from_millis(pause);
                let before = machine.standing;
                let standing = machine.observe(evidence, now, max_server_errors);
                // Answers and responses below 500 make nothing worse; failures make nothing better.
                match evidence {
                    Answered | Served => prop_assert!(standing as u8 <= before as u8),
                    _ => prop_assert!(standing as u8 >= before as u8),
                }
                failed |= !matches!(evidence, Answered | Served);
                prop_assert!(failed || standing == Healthy);
                prop_assert_eq!(machine.reason.is_none(), standing == Healthy);
            }
            for _ in 0..ANSWERS {
                now += ERROR_HOLD;
                machine.observe(Answered, now, max_server_errors);
            }
            prop_assert_eq!(machine.standing, Healthy);
        }
    }
}
