//! A histogram that is counted under its owner's lock.

/// Observations by bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: Box<[f64]>,
    /// One a bound, and one for what is over the last.
    counts: Box<[u64]>,
    sum: f64,
}

impl Histogram {
    /// No observations; `bounds` ascending.
    pub fn new(bounds: impl Into<Vec<f64>>) -> Self {
        let bounds: Vec<f64> = bounds.into();
        Histogram {
            counts: vec![0; bounds.len() + 1].into(),
            bounds: bounds.into(),
            sum: 0.0,
        }
    }

    /// Counts an observation.
    pub fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    /// Counts `n` observations at bound `at`; past the last bound: just over it.
    pub fn observe_at(&mut self, at: usize, n: u64) {
        let at = at.min(self.bounds.len());
        let value = match self.bounds.get(at) {
            Some(bound) => *bound,
            None => self.bounds.last().map_or(1.0, |last| last + 1.0),
        };
        self.counts[at] += n;
        self.sum += value * n as f64;
    }

    /// Its bounds.
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// Sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Observations up to each bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut so_far = 0;
        let counted = self.bounds.iter().zip(&self.counts);
        counted.map(move |(bound, n)| {
            so_far += n;
            (*bound, so_far)
        })
    }

    /// Observations up to `bound`, which must be one of the bounds.
    #[cfg(test)]
    pub fn up_to(&self, bound: f64) -> u64 {
        self.cumulative().find(|(b, _)| *b == bound).unwrap().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_are_counted_up_to_and_with_their_bound() {
        let mut h = Histogram::new([1.0, 2.0]);
        [0.5, 1.0, 1.5, 9.0].into_iter().for_each(|v| h.observe(v));
        assert_eq!(h.cumulative().collect::<Vec<_>>(), [(1.0, 2), (2.0, 3)]);
        assert_eq!((h.count(), h.sum()), (4, 12.0));
        h.observe_at(2, 2);
        assert_eq!((h.count(), h.sum()), (6, 18.0));
    }
}
