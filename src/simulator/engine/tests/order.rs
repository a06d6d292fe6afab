//! Who runs when: slots, queue, adapters.

use super::*;

#[test]
fn slots_are_taken_and_others_wait() {
    let mut d = Drive::new(ttft(config(2, 1), 3000));
    for i in 0..3 {
        d.submit(i, 0, job(5, 1)).unwrap();
    }
    d.until(300);
    assert_eq!(d.running_and_waiting(), (2, 1));
    d.until(10_000);
    d.assert_idle();
}

#[test]
fn a_full_queue_refuses() {
    let mut full = ttft(config(1, 1), 1000);
    full.max_waiting = 1;
    let mut d = Drive::new(full);
    let taken: Vec<bool> = (0..5)
        .map(|i| d.submit(i, 200 * i as u64, job(5, 1)).is_ok())
        .collect();
    assert_eq!(taken, [true, true, false, false, false]);
    assert!(
        Refused::QueueFull
            .to_string()
            .contains("waiting requests queue is full")
    );
    d.until(10_000);
    d.assert_idle();
}

#[test]
fn adapters_take_slots_and_the_newest_series_says_so() {
    let mut d = Drive::new(ttft(config(12, 2), 3000));
    for i in 0..1000 {
        d.submit(i, 0, with(&format!("l{}", i % 5))).unwrap();
    }
    d.until(2000);
    assert_eq!(d.running_and_waiting(), (12, 988));
    let (_, lora, _) = d.core.snapshot();
    let newest = lora.states().last().unwrap();
    assert_eq!(
        (newest.running.as_str(), newest.waiting.as_str()),
        ("l0,l1", "l0,l1,l2,l3,l4")
    );
    d.until(10_000_000);
    d.assert_idle();
    assert_eq!(d.ended.len(), 1000);
}

#[test]
fn a_long_queue_drains_steadily() {
    let mut d = Drive::new(ttft(config(1000, 2), 3000));
    for i in 0..2000 {
        d.submit(i, 0, with(&format!("l{}", i % 2))).unwrap();
    }
    assert_eq!(d.running_and_waiting(), (1000, 1000));
    d.until(3000);
    assert_eq!(d.running_and_waiting(), (1000, 0));
    for i in 2000..2500 {
        d.submit(i, 3500, with(&format!("l{}", i % 2))).unwrap();
    }
    let mut waiting = 1000;
    for ms in (3500..=9000).step_by(100) {
        d.until(ms);
        let (_, now) = d.running_and_waiting();
        assert!(now <= waiting, "at {ms}: {now} after {waiting}");
        waiting = now;
    }
    assert_eq!(d.ended.len(), 2500);
    d.assert_idle();
}

#[test]
fn series_of_adapters_follow_each_change() {
    let states = |jobs: &[(u64, &str)]| {
        let mut d = Drive::new(ttft(config(5, 1), 3000));
        for (i, (ms, adapter)) in jobs.iter().enumerate() {
            d.submit(i, *ms, with(adapter)).unwrap();
        }
        d.until(100_000);
        let (_, lora, _) = d.core.snapshot();
        let pair = |s: &crate::simulator::metrics::lora_info::State| format!("{}|{}", s.running, s.waiting);
        lora.states().map(pair).collect::<Vec<_>>()
    };
    // The third request shares the slot of the first.
    assert_eq!(
        states(&[(0, "l1"), (500, "l2"), (1000, "l1")]),
        ["l1|", "l1|l2", "|l2", "l2|", "|"]
    );
    assert_eq!(
        states(&[(0, "l1"), (0, "l2")]),
        ["l1|", "l1|l2", "|l2", "l2|", "|"]
    );
    assert_eq!(states(&[(0, "l1"), (4000, "l2")]), ["l1|", "l2|", "|"]);
}

/// Requests as (name, milliseconds, adapter).
type Jobs<'a> = &'a [(usize, u64, &'a str)];

fn groups(slots: usize, loras: usize, ms: u64, jobs: Jobs) -> Vec<Vec<usize>> {
    let mut d = Drive::new(ttft(config(slots, loras), ms));
    for (name, at, adapter) in jobs {
        d.submit(*name, *at, with(adapter)).unwrap();
    }
    d.until(1_000_000);
    d.assert_idle();
    d.groups()
}

#[test]
fn requests_with_one_adapter_end_before_those_with_the_other() {
    let jobs = [(0, 0, "l1"), (1, 0, "l2"), (2, 0, "l1"), (3, 0, "l2")];
    assert_eq!(groups(5, 1, 1000, &jobs), [vec![0, 2], vec![1, 3]]);
    assert_eq!(groups(1, 1, 1000, &jobs), [[0], [2], [1], [3]]);
}

#[test]
fn late_requests_share_a_loaded_adapter() {
    let mut jobs: Vec<(usize, u64, &str)> = (0..3).map(|i| (i, 0, "l1")).collect();
    jobs.extend((4..8).map(|i| (i, 100, "l2")));
    jobs.push((3, 500, "l1"));
    assert_eq!(
        groups(5, 1, 1000, &jobs),
        [vec![0, 1, 2], vec![3], vec![4, 5, 6, 7]]
    );
    let one_by_one = groups(1, 5, 1000, &jobs).concat();
    assert_eq!(one_by_one, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        groups(2, 1, 1000, &jobs),
        [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7]]
    );
    let five = groups(5, 5, 1000, &jobs);
    assert_eq!((five[0].clone(), five[1].clone()), (vec![0, 1, 2], vec![4, 5]));
}

#[test]
fn the_queue_is_served_by_loaded_adapter_then_by_arrival() {
    let names = |adapters: &[&'static str], step: u64| -> Vec<(usize, u64, &'static str)> {
        let numbered = adapters.iter().enumerate();
        numbered.map(|(i, a)| (i, i as u64 * step, *a)).collect()
    };
    let jobs = names(&["l1", "l1", "l2", "l3", "l4", "l1", "l2", "l3", "l4"], 100);
    assert_eq!(groups(1, 1, 500, &jobs).concat(), [0, 1, 5, 2, 6, 3, 7, 4, 8]);
    let jobs = names(&["l1", "l1", "l2", "l3", "l4", "l2", "l3", "l4"], 0);
    assert_eq!(groups(2, 1, 500, &jobs), [[0, 1], [2, 5], [3, 6], [4, 7]]);
    let jobs = names(
        &["l1", "l1", "l2", "l3", "l4", "l5", "l1", "l2", "l3", "l4", "l5"],
        100,
    );
    for slots in [4, 5] {
        let order = groups(slots, 3, 1000, &jobs);
        assert_eq!(
            order.concat()[..7],
            [0, 1, 2, 3, 6, 7, 8],
            "{slots} slots: {order:?}"
        );
        assert_eq!(order.concat()[7..], [4, 9, 5, 10], "{slots} slots: {order:?}");
    }
    assert_eq!(
        groups(5, 5, 1000, &jobs).concat(),
        [0, 1, 2, 3, 4, 6, 7, 8, 9, 5, 10]
    );
}

#[test]
fn nobody_waits_for_ever_behind_a_loaded_adapter() {
    let mut d = Drive::new(ttft(config(2, 1), 100));
    d.submit(0, 0, with("busy")).unwrap();
    d.submit(1, 0, with("other")).unwrap();
    // A stream of requests that never lets the adapter become idle.
    for i in 2..1000 {
        d.submit(i, i as u64 * 50, with("busy")).unwrap();
    }
    let at = d.ended.iter().position(|(_, name)| *name == 1).unwrap();
    assert!(at < 100, "it ended as number {at}");
    d.until(1_000_000);
    d.assert_idle();
    assert_eq!(d.ended.len(), 1000);
}

#[test]
fn an_adapter_that_is_not_in_memory_takes_time_to_load() {
    let ends = |in_memory: usize| {
        let mut slow = ttft(config(1, 1), 100);
        slow.lora_load = Duration::from_millis(1000);
        slow.max_cpu_loras = in_memory;
        let mut d = Drive::new(slow);
        for (i, adapter) in ["a", "b", "a", ""].into_iter().enumerate() {
            d.submit(i, i as u64 * 5000, with(adapter)).unwrap();
        }
        d.until(100_000);
        d.ended.iter().map(|(ms, _)| *ms).collect::<Vec<_>>()
    };
    assert_eq!(ends(1), [1100, 6100, 11_100, 15_100]);
    assert_eq!(ends(2), [1100, 6100, 10_100, 15_100]);
}

#[test]
fn a_client_that_leaves_makes_room_at_once() {
    let mut d = Drive::new(ttft(config(1, 1), 1000));
    for i in 0..4 {
        d.submit(i, 0, job(5, 1)).unwrap();
    }
    d.cancel(1, 100);
    d.cancel(0, 200);
    assert_eq!(d.running_and_waiting(), (1, 1));
    d.until(10_000);
    assert_eq!(d.ended, [(1200, 2), (2200, 3)]);
    d.assert_idle();
}
