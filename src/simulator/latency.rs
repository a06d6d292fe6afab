//! How long things take: the formulas of simulator.md §6, in nanoseconds. Called by the engine.

use std::time::Duration;

use rand::Rng;

use super::text::normal;

/// Which formula gives the time to first token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calculator {
    /// Constant where `time_to_first_token` is set, else per token.
    #[default]
    Default,
    /// Always constant.
    Constant,
    /// Always per token.
    PerToken,
}

/// A mean and its standard deviation.
pub type Spread = (Duration, Duration);

/// The latencies of a simulator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Formula.
    pub calculator: Calculator,
    /// Constant time to first token.
    pub time_to_first_token: Spread,
    /// Time between tokens.
    pub inter_token: Spread,
    /// Prefill: fixed part.
    pub prefill_overhead: Duration,
    /// Prefill: per token that is not cached, and the deviation of the whole.
    pub prefill_per_token: Spread,
    /// Transfer of a cache computed elsewhere: constant.
    pub transfer: Spread,
    /// The same per token, and the deviation of the whole.
    pub transfer_per_token: Spread,
    /// Factor under full load, at least 1.
    pub load_factor: f64,
}

/// Is anything of it set?
fn set((mean, deviation): Spread) -> bool {
    !(mean.is_zero() && deviation.is_zero())
}

impl Latency {
    /// The factor with `running` of `max` requests: 1 alone, `load_factor` when full.
    pub fn load(&self, running: usize, max: usize) -> f64 {
        if max <= 1 {
            return 1.0;
        }
        let others = running.max(1) - 1;
        1.0 + (self.load_factor.max(1.0) - 1.0) * others as f64 / (max - 1) as f64
    }

    /// Time to the first token of a prompt with `prompt` tokens, `cached` of them in the cache; `remote`: the
    /// prompt was computed elsewhere and is transferred, which no load slows down.
    pub fn first_token(
        &self,
        rng: &mut impl Rng,
        load: f64,
        prompt: usize,
        cached: usize,
        remote: bool,
    ) -> Duration {
        let constant = |given: Spread| match self.calculator {
            Calculator::Constant => true,
            Calculator::PerToken => false,
            Calculator::Default => set(given),
        };
        if remote {
            if constant(self.transfer) {
                return sample(rng, self.transfer.0, self.transfer.1);
            }
            let (per_token, deviation) = self.transfer_per_token;
            return sample(rng, per_token.mul_f64(prompt as f64), deviation);
        }
        if constant(self.time_to_first_token) {
            let (mean, deviation) = self.time_to_first_token;
            return sample(rng, mean.mul_f64(load), deviation);
        }
        self.prefill(rng, load, prompt.saturating_sub(cached), true)
    }

    /// Time to compute `tokens` of a prompt; `begins`: with the fixed part.
    pub fn prefill(&self, rng: &mut impl Rng, load: f64, tokens: usize, begins: bool) -> Duration {
        let overhead = if begins {
            self.prefill_overhead
        } else {
            Duration::ZERO
        };
        let (per_token, deviation) = self.prefill_per_token;
        let mean = overhead.mul_f64(load) + per_token.mul_f64(load * tokens as f64);
        sample(rng, mean, deviation)
    }

    /// Time between two tokens.
    pub fn next_token(&self, rng: &mut impl Rng, load: f64) -> Duration {
        sample(rng, self.inter_token.0.mul_f64(load), self.inter_token.1)
    }
}

/// A normal draw, kept within 0.3 to 1.7 of the mean.
fn sample(rng: &mut impl Rng, mean: Duration, deviation: Duration) -> Duration {
    if deviation.is_zero() {
        return mean;
    }
    let m = mean.as_secs_f64();
    let x = m + normal(rng) * deviation.as_secs_f64();
    Duration::from_secs_f64(x.clamp(0.3 * m, 1.7 * m))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn rng() -> SmallRng {
        SmallRng::seed_from_u64(1)
    }

    #[test]
    fn load_follows_the_formula() {
        let ttft = |factor, max, running| {
            let l = Latency {
                load_factor: factor,
                time_to_first_token: (MS(42), MS(0)),
                ..Latency::default()
            };
            let time = l.first_token(&mut rng(), l.load(running, max), 1, 0, false);
            time.as_secs_f64() * 1000.0
        };
        let full = |factor: f64, max| (factor, max, max, 42.0 * factor);
        let half = |factor: f64, max: usize, running: usize| {
            let load = 1.0 + (factor - 1.0) * (running - 1) as f64 / (max - 1) as f64;
            (factor, max, running, 42.0 * load)
        };
        let rows = [
            (1.0, 200, 100, 42.0),
            (100.0, 1, 1, 42.0),
            (3.0, 5, 0, 42.0),
            full(1.5, 70),
            full(2.0, 2),
            full(100.0, 150),
            full(20_000.0, 310),
            half(1.5, 70, 35),
            half(2.0, 2, 1),
            half(100.0, 150, 75),
            half(20_000.0, 310, 155),
        ];
        for (factor, max, running, expected) in rows {
            let got = ttft(factor, max, running);
            assert!((got - expected).abs() < 1e-3, "{factor} {max} {running}: {got}");
        }
    }

    #[test]
    fn the_calculator_chooses_between_constant_and_per_token() {
        use Calculator::{Constant, Default as Auto, PerToken};
        // calculator, ttft, transfer, overhead, per token, transfer per token, prompt, remote -> time
        let rows = [
            (Auto, 0, 0, 1000, 50, 0, 5, false, 1250),
            (Constant, 0, 0, 500, 50, 0, 5, false, 0),
            (Constant, 1000, 0, 500, 50, 0, 5, true, 0),
            (Auto, 0, 50, 0, 0, 0, 5, true, 50),
            (PerToken, 50, 20, 1000, 50, 0, 5, false, 1250),
            (PerToken, 50, 20, 1000, 50, 0, 5, true, 0),
            (Auto, 1000, 0, 100, 200, 0, 128, false, 1000),
            (Auto, 0, 200, 0, 0, 100, 128, true, 200),
            (Auto, 0, 0, 0, 0, 100, 128, true, 12_800),
        ];
        for (calculator, ttft, transfer, overhead, per, transfer_per, prompt, remote, expected) in rows {
            let l = Latency {
                calculator,
                time_to_first_token: (MS(ttft), MS(0)),
                transfer: (MS(transfer), MS(0)),
                prefill_overhead: MS(overhead),
                prefill_per_token: (MS(per), MS(0)),
                transfer_per_token: (MS(transfer_per), MS(0)),
                load_factor: 1.0,
                ..Latency::default()
            };
            let got = l.first_token(&mut rng(), 1.0, prompt, 0, remote);
            assert_eq!(got, MS(expected), "{calculator:?} {ttft} {overhead} {remote}");
        }
    }

    #[test]
    fn no_load_slows_a_transfer() {
        let l = Latency {
            transfer: (MS(200), MS(0)),
            ..Latency::default()
        };
        assert_eq!(l.first_token(&mut rng(), 9.0, 10, 0, true), MS(200));
    }

    #[test]
    fn prefill_counts_only_what_is_not_cached_and_stays_within_its_bounds() {
        let rows = [
            (100, 50, 10, 1, 0),
            (200, 1000, 150, 512, 0),
            (2000, 3000, 800, 1024, 1008),
            (150, 200, 70, 20_000, 1024),
        ];
        let mut rng = rng();
        for (overhead, per_token, deviation, tokens, cached) in rows {
            let mut l = Latency {
                prefill_overhead: MS(overhead),
                prefill_per_token: (MS(per_token), MS(deviation)),
                ..Latency::default()
            };
            let mean = MS(overhead + (tokens - cached) * per_token);
            for _ in 0..100 {
                let got = l.first_token(&mut rng, 1.0, tokens as usize, cached as usize, false);
                let most = mean.mul_f64(1.7) + Duration::from_nanos(1);
                assert!(got >= mean.mul_f64(0.3) - Duration::from_nanos(1) && got <= most);
            }
            l.prefill_per_token.1 = Duration::ZERO;
            assert_eq!(
                l.first_token(&mut rng, 1.0, tokens as usize, cached as usize, false),
                mean
            );
        }
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut rng = rng();
        let l = Latency {
            inter_token: (MS(1000), MS(300)),
            ..Latency::default()
        };
        for _ in 0..2000 {
            let d = l.next_token(&mut rng, 1.0);
            assert!(d >= MS(300) && d <= MS(1700), "{d:?}");
        }
    }
}
