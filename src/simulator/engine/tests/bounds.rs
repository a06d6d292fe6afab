//! Whatever happens, nothing is leaked and nobody is lost.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Ask {
    adapter: u8,
    prompt: usize,
    output: usize,
    blocks: u64,
    cancel_after: Option<u64>,
    gap: u64,
    threshold: bool,
    remote: bool,
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let one = (
        0u8..4,
        0usize..30,
        0usize..12,
        0u64..6,
        prop::option::weighted(0.3, 0u64..80),
        0u64..30,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
    );
    let ask = one.prop_map(
        |(adapter, prompt, output, blocks, cancel_after, gap, threshold, remote)| Ask {
            adapter,
            prompt,
            output,
            blocks: blocks * 3,
            cancel_after,
            gap,
            threshold,
            remote,
        },
    );
    prop::collection::vec(ask, 1..50)
}

proptest! {
    #[test]
    fn all_gauges_are_zero_after_any_mix(
        asks in asks(),
        slots in 1usize..5,
        waiting in 1usize..6,
        loras in 1usize..3,
        blocks in 1usize..12,
        cache in any::<bool>(),
        steps in prop::option::of(1usize..40),
    ) {
        let mut c = config(slots, loras);
        c.max_waiting = waiting;
        c.cache = cache;
        c.labels.cache = (4, blocks);
        c.batch_tokens = steps;
        c.lora_load = Duration::from_millis(3);
        c.latency.prefill_per_token = (Duration::from_millis(1), Duration::from_micros(200));
        c.latency.inter_token = (Duration::from_millis(7), Duration::from_millis(2));
        c.latency.transfer = (Duration::from_millis(4), Duration::ZERO);
        let mut d = Drive::new(c);
        let (mut now, mut taken, mut cancelled) = (0, 0, 0);
        let mut leaving: Vec<(u64, usize)> = Vec::new();
        for (name, ask) in asks.iter().enumerate() {
            now += ask.gap;
            leaving.sort_unstable();
            while leaving.first().is_some_and(|(at, _)| *at <= now) {
                let (at, name) = leaving.remove(0);
                d.until(at);
                if d.open.contains_key(&name) {
                    d.cancel(name, at);
                    cancelled += 1;
                }
            }
            let total = ask.prompt + ask.output;
            let job = Job {
                adapter: (ask.adapter > 0).then(|| Arc::from(format!("l{}", ask.adapter))),
                blocks: (ask.blocks..ask.blocks + (total / 4) as u64).collect(),
                cache_hit_threshold: ask.threshold.then_some(0.5),
                remote_prefill: ask.remote,
                seed: name as u64,
                ..job(ask.prompt, ask.output)
            };
            if d.submit(name, now, job).is_ok() {
                taken += 1;
                if let Some(after) = ask.cancel_after {
                    leaving.push((now + after, name));
                }
            }
            let counts = d.core.counts();
            prop_assert!(counts.running <= slots && counts.waiting <= waiting + slots);
            prop_assert!(counts.running_adapters.len() <= loras);
            prop_assert!(counts.blocks <= blocks);
        }
        d.until(now + 10_000_000);
        prop_assert_eq!(d.ended.len() + cancelled, taken);
        let succeeded: u64 = d.stats().success.values().sum();
        prop_assert_eq!(succeeded as usize, d.ended.len());
        prop_assert!(d.open.is_empty());
        d.assert_idle();
        prop_assert_eq!(d.core.counts(), crate::simulator::engine::Counts::default());
    }
}
