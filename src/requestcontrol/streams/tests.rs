//! Streams among each other: the oldest gives way, everything is given back, time runs out where it should.

use std::sync::atomic::AtomicUsize;
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::budget::{BLOCK, FREE};
use super::*;

const MIB: usize = 1 << 20;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn streams(budget: usize, timeouts: Timeouts) -> Arc<Streams> {
    Arc::new(Streams::new(budget as u64, timeouts, Arc::default()))
}

fn unlimited(budget: usize) -> Arc<Streams> {
    streams(budget, Timeouts::default())
}

fn at_rest(streams: &Streams) {
    let budget = streams.budget();
    assert_eq!((budget.used(), budget.holders(), streams.listed()), (0, 0, 0));
    assert_eq!(budget.doomed(), 0);
}

#[test]
fn the_oldest_holders_are_told_until_a_newcomer_fits() {
    let streams = unlimited(10 * MIB);
    let waker = Waker::noop();
    let woken = Arc::new(Woken::default());
    let mut old: Vec<StreamHandle> = (0..3).map(|_| StreamHandle::new(streams.clone())).collect();
    for handle in &mut old {
        handle.waits(true, &woken.clone().into());
        handle.hold(3 * MIB, waker).unwrap();
    }
    let told = |old: &[StreamHandle]| old.iter().map(|h| h.interrupted().is_some()).collect::<Vec<_>>();
    let mut new = StreamHandle::new(streams.clone());
    new.hold(MIB, waker).unwrap();
    assert_eq!(told(&old), [false, false, false], "it fits");
    new.hold(2 * MIB, waker).unwrap();
    assert_eq!(told(&old), [true, false, false]);
    assert_eq!(old[0].interrupted(), Some(Interrupt::Shed));
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "and is woken");
    // What was told counts as free, up to a quarter above the budget.
    assert_eq!(new.hold(6 * MIB, waker), Err(Refusal::Full));
    drop(old);
    drop(new);
    at_rest(&streams);
}

#[test]
fn who_is_the_oldest_gives_way_itself() {
    let streams = unlimited(4 * MIB);
    let waker = Waker::noop();
    let (mut a, mut b) = (
        StreamHandle::new(streams.clone()),
        StreamHandle::new(streams.clone()),
    );
    a.hold(MIB, waker).unwrap();
    b.hold(2 * MIB, waker).unwrap();
    assert_eq!(a.hold(3 * MIB, waker), Err(Refusal::Full));
    assert_eq!(b.interrupted(), None);
    a.hold(0, waker).unwrap();
    assert_eq!(a.hold(5 * MIB, waker), Err(Refusal::TooLarge(4 * MIB as u64)));
    assert_eq!(streams.budget().used(), 2 * MIB as u64);
    // Whoever has given everything back and takes again is the youngest.
    a.hold(2 * MIB, waker).unwrap();
    a.hold(3 * MIB, waker).unwrap();
    assert_eq!(b.interrupted(), Some(Interrupt::Shed));
    drop((a, b));
    at_rest(&streams);
}

#[test]
fn a_few_bytes_are_free() {
    let streams = unlimited(MIB);
    let mut handle = StreamHandle::new(streams.clone());
    handle.hold(FREE as usize, Waker::noop()).unwrap();
    at_rest(&streams);
    handle.hold(FREE as usize + 1, Waker::noop()).unwrap();
    assert_eq!(streams.budget().used(), BLOCK);
}

#[test]
fn a_request_that_does_not_come_in_time_is_told_once_and_one_that_came_is_not() {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts {
        request_body: 10 * second,
        idle: Duration::ZERO,
    };
    let streams = streams(MIB, timeouts);
    let woken = Arc::new(Woken::default());
    let waker: Waker = woken.clone().into();
    let [mut open, mut complete] = [
        StreamHandle::new(streams.clone()),
        StreamHandle::new(streams.clone()),
    ];
    for handle in [&mut open, &mut complete] {
        handle.waits(true, &waker);
    }
    complete.waits(false, &waker);
    for n in 1..=10 {
        streams.tick(n * second);
        // It comes slowly, which does not help.
        open.waits(true, &waker);
        complete.waits(false, &waker);
        assert_eq!(open.interrupted(), None, "after {n} s");
    }
    streams.tick(12 * second);
    assert_eq!(
        (open.interrupted(), complete.interrupted()),
        (Some(Interrupt::BodyTimeout), None)
    );
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    open.go_on();
    open.waits(false, &waker);
    streams.tick(100 * second);
    assert_eq!(open.interrupted(), None);
    drop((open, complete));
    at_rest(&streams);
}

#[test]
fn a_silent_stream_is_told_and_a_busy_one_is_not() {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts {
        request_body: Duration::ZERO,
        idle: 60 * second,
    };
    let streams = streams(MIB, timeouts);
    let [mut silent, mut busy] = [
        StreamHandle::new(streams.clone()),
        StreamHandle::new(streams.clone()),
    ];
    silent.waits(false, Waker::noop());
    for n in 0..70 {
        busy.waits(n < 5, Waker::noop());
        streams.tick(n * second);
    }
    assert_eq!(
        (silent.interrupted(), busy.interrupted()),
        (Some(Interrupt::Idle), None)
    );
}

#[test]
fn a_stream_told_before_its_waker_is_there_wakes_itself() {
    let streams = unlimited(MIB);
    let mut old = StreamHandle::new(streams.clone());
    old.hold(MIB, Waker::noop()).unwrap();
    let mut new = StreamHandle::new(streams.clone());
    new.hold(64 * 1024, Waker::noop()).unwrap();
    let woken = Arc::new(Woken::default());
    old.waits(true, &woken.clone().into());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Hold(usize, usize),
    Wait(usize, bool),
    Leave(usize),
    Tick(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0_usize..6;
    prop::collection::vec(
        prop_oneof![
            5 => (who.clone(), prop_oneof![0_usize..3 * MIB, Just(0)]).prop_map(|(w, n)| Step::Hold(w, n)),
            2 => (who.clone(), any::<bool>()).prop_map(|(w, open)| Step::Wait(w, open)),
            2 => who.prop_map(Step::Leave),
            1 => (1_u32..40).prop_map(Step::Tick),
        ],
        0..60,
    )
}

proptest! {
    #[test]
    fn after_any_sequence_everything_is_given_back(steps in steps()) {
        let second = Duration::from_secs(1);
        let streams = streams(4 * MIB, Timeouts { request_body: 20 * second, idle: 30 * second });
        let new = || StreamHandle::new(streams.clone());
        let mut handles: Vec<StreamHandle> = (0..6).map(|_| new()).collect();
        let mut held = [0_usize; 6];
        let mut elapsed = 0;
        for step in steps {
            match step {
                Step::Hold(who, bytes) => match handles[who].hold(bytes, Waker::noop()) {
                    Ok(()) => held[who] = bytes,
                    // As the session does: it lets go, and says so.
                    Err(_) => {
                        handles[who].hold(0, Waker::noop()).unwrap();
                        held[who] = 0;
                    }
                },
                Step::Wait(who, open) => handles[who].waits(open, Waker::noop()),
                Step::Leave(who) => {
                    handles[who] = new();
                    held[who] = 0;
                }
                Step::Tick(by) => {
                    elapsed += by;
                    streams.tick(elapsed * second);
                }
            }
            let reserved = |n: &usize| if *n as u64 <= FREE { 0 } else { (*n as u64).next_multiple_of(BLOCK) };
            let sum: u64 = held.iter().map(reserved).sum();
            prop_assert_eq!(streams.budget().used(), sum);
            prop_assert!(sum <= 5 * MIB as u64, "{sum} bytes");
        }
        drop(handles);
        at_rest(&streams);
    }
}
