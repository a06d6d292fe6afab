//! When tokens come, and what the histograms say.

use super::*;
use crate::simulator::metrics::histogram::Histogram;

/// Buckets of which the one up to `bound` is the first that is filled.
fn lands_at(h: &Histogram, seconds: f64) -> bool {
    let first = h.cumulative().find(|(_, n)| *n > 0).map(|(bound, _)| bound);
    let expected = h.bounds().iter().copied().find(|b| seconds <= *b);
    first == expected
}

#[test]
fn prefill_and_decode_take_what_the_formulas_say() {
    let rows = [
        (0, 0, 100, 0, 0, false),
        (900, 0, 100, 0, 0, false),
        (1000, 0, 100, 0, 0, false),
        (0, 100, 100, 0, 0, false),
        (0, 0, 0, 1000, 0, true),
        (5000, 5000, 0, 1000, 0, true),
        (0, 0, 0, 0, 100, true),
    ];
    let span = |ms| (Duration::from_millis(ms), Duration::ZERO);
    for row in rows {
        let (first, per_token, itl, transfer, transfer_per, remote) = row;
        let (input, output) = (5, 8);
        let mut c = config(5, 1);
        c.latency.time_to_first_token = span(first);
        c.latency.prefill_per_token = span(per_token);
        c.latency.inter_token = span(itl);
        c.latency.transfer = span(transfer);
        c.latency.transfer_per_token = span(transfer_per);
        let mut d = Drive::new(c);
        let job = Job {
            remote_prefill: remote,
            ..job(input, output)
        };
        d.submit(0, 0, job).unwrap();
        d.until(1_000_000);
        let or = |constant: u64, per_token: u64| {
            if constant > 0 {
                constant
            } else {
                per_token * input as u64
            }
        };
        let prefill = if remote {
            or(transfer, transfer_per)
        } else {
            or(first, per_token)
        };
        let decode = itl * (output as u64 - 1);
        assert_eq!(d.ended, [(prefill + decode, 0)], "{row:?}");
        let stats = d.stats();
        let seconds = |ms: u64| ms as f64 / 1000.0;
        assert!(lands_at(&stats.prefill, seconds(prefill)), "{row:?}");
        assert!(lands_at(&stats.decode, seconds(decode)), "{row:?}");
        assert!(lands_at(&stats.inference, seconds(prefill + decode)), "{row:?}");
        assert!(lands_at(&stats.e2e, seconds(prefill + decode)), "{row:?}");
        assert_eq!(stats.queue.count(), 0);
        assert_eq!((stats.prompt_total, stats.generation_total), (Some(5), Some(8)));
        assert_eq!(stats.success["stop"], 1);
    }
}

#[test]
fn calculators_give_the_times_of_first_and_last_tokens() {
    use crate::simulator::latency::Calculator::{Constant, Default as Auto, PerToken};
    // calculator, ttft, itl, transfer, overhead, per token, remote -> first and last token
    let rows = [
        (Auto, 0, 0, 0, 1000, 50, false, (1250, 1250)),
        (Constant, 0, 0, 0, 500, 50, false, (0, 0)),
        (Constant, 1000, 0, 50, 500, 50, true, (50, 50)),
        (Constant, 0, 50, 50, 0, 0, true, (50, 250)),
        (PerToken, 50, 50, 20, 1000, 50, false, (1250, 1450)),
        (PerToken, 50, 50, 20, 1000, 50, true, (0, 200)),
    ];
    for row in rows {
        let (calculator, first, itl, transfer, overhead, per_token, remote, expected) = row;
        let span = |ms| (Duration::from_millis(ms), Duration::ZERO);
        let mut c = config(5, 1);
        c.latency.calculator = calculator;
        c.latency.time_to_first_token = span(first);
        c.latency.inter_token = span(itl);
        c.latency.transfer = span(transfer);
        c.latency.prefill_overhead = span(overhead).0;
        c.latency.prefill_per_token = span(per_token);
        let mut d = Drive::new(c);
        let job = Job {
            remote_prefill: remote,
            ..job(5, 5)
        };
        d.submit(0, 0, job).unwrap();
        if expected.0 > 0 {
            d.until(expected.0 - 1);
            assert_eq!(d.stats().ttft.count(), 0, "{row:?}");
        }
        d.until(expected.0);
        assert_eq!(d.stats().ttft.count(), 1, "{row:?}");
        d.until(100_000);
        assert_eq!(d.ended, [(expected.1, 0)], "{row:?}");
    }
}

#[test]
fn histograms_of_tokens_have_every_gap() {
    let mut c = ttft(config(5, 1), 200);
    c.latency.inter_token = (Duration::from_millis(100), Duration::ZERO);
    let mut d = Drive::new(c);
    d.submit(0, 0, job(5, 5)).unwrap();
    d.until(10_000);
    let s = d.stats();
    assert_eq!((s.ttft.up_to(0.1), s.ttft.count()), (0, 1));
    assert_eq!((s.inter_token.up_to(0.075), s.inter_token.count()), (0, 4));
    assert_eq!((s.request_tpot.up_to(0.075), s.request_tpot.count()), (0, 1));
}

#[test]
fn the_time_to_the_first_token_includes_the_queue_unless_sampled() {
    for (sampled, up_to_one) in [(false, 0), (true, 2)] {
        let mut c = ttft(config(1, 1), 700);
        c.sampled_ttft = sampled;
        let mut d = Drive::new(c);
        d.submit(0, 100, job(5, 1)).unwrap();
        d.submit(1, 100, job(5, 1)).unwrap();
        d.until(10_000);
        let s = d.stats();
        assert_eq!(s.ttft.count(), 2);
        assert_eq!(s.ttft.up_to(1.0), if sampled { up_to_one } else { 1 });
        assert_eq!(s.ttft.up_to(2.5), 2);
    }
}

#[test]
fn time_in_the_queue_is_not_inference() {
    let mut d = Drive::new(ttft(config(1, 1), 1200));
    d.submit(0, 0, job(5, 1)).unwrap();
    d.submit(1, 0, job(5, 1)).unwrap();
    d.until(10_000);
    let s = d.stats();
    assert_eq!((s.inference.up_to(1.0), s.inference.up_to(1.5)), (0, 2));
    assert_eq!(
        (s.queue.up_to(1.0), s.queue.up_to(1.5), s.queue.count()),
        (0, 1, 1)
    );
}

#[test]
fn tokens_come_at_absolute_times_however_late_the_engine_is() {
    let mut c = ttft(config(1, 1), 100);
    c.latency.inter_token = (Duration::from_millis(10), Duration::ZERO);
    let mut core = Core::new(c, None, Duration::ZERO);
    let (_, _cell) = core.submit(job(5, 10), 0, 0).unwrap();
    // 3 ms late for the first one: the second is due where it would have been.
    core.advance(103 * MS, 100);
    assert_eq!(core.next_due(), Some(110 * MS));
    // Late for five: they come at once.
    assert!(!core.advance(155 * MS, 100));
    assert_eq!(core.next_due(), Some(160 * MS));
}

#[test]
fn changed_latencies_hold_for_all_that_is_drawn_from_then_on() {
    let mut c = ttft(config(2, 1), 100);
    c.latency.inter_token = (Duration::from_millis(10), Duration::ZERO);
    let mut d = Drive::new(c);
    d.submit(0, 0, job(5, 3)).unwrap();
    d.until(100);
    // Its second token is on its way for 110 ms; the third is drawn then.
    let mut latency = ttft(config(2, 1), 500).latency;
    latency.inter_token = (Duration::from_millis(1000), Duration::ZERO);
    d.core.set_latency(latency);
    d.submit(1, 200, job(5, 1)).unwrap();
    d.until(100_000);
    assert_eq!(d.ended, [(700, 1), (1110, 0)]);
}

#[test]
fn load_is_that_of_the_moment_of_each_token() {
    let mut c = config(2, 1);
    c.latency.inter_token = (Duration::from_millis(100), Duration::ZERO);
    c.latency.load_factor = 3.0;
    let mut d = Drive::new(c);
    d.submit(0, 0, job(5, 3)).unwrap();
    // Alone until 50 ms: its second token stays at 100 ms; with two the third comes 300 ms later.
    d.submit(1, 50, job(5, 10)).unwrap();
    d.until(100_000);
    assert_eq!(d.ended[0], (400, 0));
}

#[test]
fn an_empty_answer_waits_for_its_prompt() {
    let mut d = Drive::new(ttft(config(1, 1), 1000));
    d.submit(1, 0, job(0, 0)).unwrap();
    d.until(5000);
    assert_eq!(d.ended, [(1000, 1)]);
    assert_eq!(d.stats().ttft.count(), 0);
    d.assert_idle();
}
