//! How long things take: the formulas of simulator.md §6, in nanoseconds.

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

/// The latencies of a simulator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Formula.
    pub calculator: Calculator,
    /// Constant time to first token, and its deviation.
    pub time_to_first_token: (Duration, Duration),
    /// Time between tokens, and its deviation.
    pub inter_token: (Duration, Duration),
    /// Prefill: fixed part.
    pub prefill_overhead: Duration,
    /// Prefill: per token that is not cached, and the deviation of the whole.
    pub prefill_per_token: (Duration, Duration),
    /// Factor under full load, at least 1.
    pub load_factor: f64,
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

    /// Time to the first token of a prompt with `prompt` tokens, `cached` of them in the cache. The constant
    /// time shrinks with the cached share, so that a cache shows in it too.
    pub fn first_token(&self, rng: &mut impl Rng, load: f64, prompt: usize, cached: usize) -> Duration {
        let (mean, deviation) = self.time_to_first_token;
        let constant = match self.calculator {
            Calculator::Constant => true,
            Calculator::PerToken => false,
            Calculator::Default => !(mean.is_zero() && deviation.is_zero()),
        };
        let left = prompt.saturating_sub(cached);
        if constant {
            let share = if prompt == 0 {
                1.0
            } else {
                left as f64 / prompt as f64
            };
            return sample(rng, mean.mul_f64(load * share), deviation);
        }
        let (per_token, deviation) = self.prefill_per_token;
        sample(
            rng,
            self.prefill_overhead.mul_f64(load) + per_token.mul_f64(load * left as f64),
            deviation,
        )
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

    #[test]
    fn load_runs_from_one_to_the_factor() {
        let l = Latency {
            load_factor: 3.0,
            ..Latency::default()
        };
        let rows = [(0, 5, 1.0), (1, 5, 1.0), (3, 5, 2.0), (5, 5, 3.0), (1, 1, 1.0)];
        for (running, max, expected) in rows {
            assert!(
                (l.load(running, max) - expected).abs() < 1e-9,
                "{running} of {max}"
            );
        }
    }

    #[test]
    fn prefill_counts_only_what_is_not_cached() {
        let mut rng = SmallRng::seed_from_u64(1);
        let per_token = Latency {
            prefill_overhead: MS(10),
            prefill_per_token: (MS(1), MS(0)),
            ..Latency::default()
        };
        assert_eq!(per_token.first_token(&mut rng, 1.0, 100, 60), MS(50));
        let constant = Latency {
            time_to_first_token: (MS(100), MS(0)),
            ..per_token
        };
        assert_eq!(constant.first_token(&mut rng, 1.0, 100, 75), MS(25));
        let forced = Latency {
            calculator: Calculator::PerToken,
            ..constant
        };
        assert_eq!(forced.first_token(&mut rng, 2.0, 100, 60), MS(100));
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut rng = SmallRng::seed_from_u64(2);
        let l = Latency {
            inter_token: (MS(100), MS(300)),
            ..Latency::default()
        };
        for _ in 0..1000 {
            let d = l.next_token(&mut rng, 1.0);
            assert!(d >= MS(30) && d <= MS(170), "{d:?}");
        }
    }
}
