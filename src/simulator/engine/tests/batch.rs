//! Batch steps: one loop for all.

use super::*;

fn stepped(slots: usize, budget: usize) -> Config {
    let mut c = config(slots, 1);
    c.batch_tokens = Some(budget);
    c.latency.prefill_overhead = Duration::from_millis(5);
    c.latency.prefill_per_token = (Duration::from_millis(1), Duration::ZERO);
    c.latency.inter_token = (Duration::from_millis(10), Duration::ZERO);
    c
}

#[test]
fn alone_it_is_as_fast_as_by_the_formula() {
    let mut d = Drive::new(stepped(4, 1000));
    d.submit(0, 0, job(100, 5)).unwrap();
    d.until(10_000);
    assert_eq!(d.ended, [(105 + 4 * 10, 0)]);
    d.assert_idle();
}

#[test]
fn long_prompts_are_computed_in_pieces() {
    let mut d = Drive::new(stepped(4, 40));
    d.submit(0, 0, job(100, 1)).unwrap();
    d.until(44);
    assert_eq!(d.core.next_due(), Some(45 * MS), "5 and 40 in the first step");
    d.until(45);
    assert_eq!(d.core.next_due(), Some(85 * MS));
    d.until(10_000);
    assert_eq!(d.ended, [(105, 0)]);
}

#[test]
fn a_prompt_makes_those_who_decode_wait_and_they_it() {
    let mut d = Drive::new(stepped(4, 50));
    d.submit(0, 0, job(10, 20)).unwrap();
    d.until(15);
    // In the middle of the step from 15 to 25 ms a long prompt comes; its pieces share the steps after.
    d.submit(1, 20, job(98, 1)).unwrap();
    d.until(25);
    // 49 of its tokens beside one that decodes: 5 + 49 + 10.
    assert_eq!(d.core.next_due(), Some(89 * MS));
    d.until(89);
    assert_eq!(d.core.next_due(), Some((89 + 49 + 10) * MS));
    d.until(148);
    assert_eq!(d.ended, [(148, 1)]);
    assert_eq!(d.stats().inter_token.up_to(0.075), 3, "10, 64 and 59 ms");
    d.until(10_000);
    d.assert_idle();
}

#[test]
fn a_transferred_prompt_takes_no_budget() {
    let mut c = stepped(4, 50);
    c.latency.transfer = (Duration::from_millis(30), Duration::ZERO);
    let mut d = Drive::new(c);
    let remote = Job {
        remote_prefill: true,
        ..job(1000, 2)
    };
    d.submit(0, 0, remote).unwrap();
    d.until(10_000);
    // One token of its prompt gives it a place in a step.
    assert_eq!(d.ended, [(30 + 1 + 10, 0)]);
    d.assert_idle();
}

#[test]
fn who_leaves_or_waits_does_not_stop_the_loop() {
    let mut c = stepped(1, 50);
    c.cache = true;
    c.labels.cache = (4, 8);
    let mut d = Drive::new(c);
    for i in 0..4 {
        d.submit(i, 0, job(10, 3)).unwrap();
    }
    d.cancel(0, 7);
    d.cancel(2, 8);
    d.until(10_000);
    assert_eq!(d.ended.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 3]);
    d.assert_idle();
}
