//! Why the winner won, and what would have made the runner-up win: arithmetic over one profile's scores, pure.

use crate::plugin::ProfileDecision;

/// What told winner and runner-up apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// There was one candidate.
    OnlyCandidate,
    /// The winner's total is higher.
    Score,
    /// Equal totals: chance.
    Tie,
    /// The picker took a candidate whose total is lower, as pickers that draw by chance do.
    Picker,
}

impl DecidedBy {
    /// As the page says it.
    pub fn name(self) -> &'static str {
        match self {
            DecidedBy::OnlyCandidate => "only candidate",
            DecidedBy::Score => "score",
            DecidedBy::Tie => "tie",
            DecidedBy::Picker => "picker",
        }
    }
}

/// One scorer's part in the difference between winner and runner-up. Positions are those of the candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flip {
    /// Winner's weighted score less the runner-up's.
    pub lead: f32,
    /// Who has the highest total without this scorer.
    pub winner_without: usize,
    /// Weight of this scorer at which both totals are equal; `None` if no weight from 0 on does that.
    pub weight: Option<f32>,
    /// Raw score with which the runner-up would have drawn level; `None` if none in 0..=1 does.
    pub runner_up_raw: Option<f32>,
    /// Raw score at which the winner would have fallen level; `None` if none in 0..=1 does.
    pub winner_raw: Option<f32>,
}

/// Winner and runner-up of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Position of the first endpoint picked.
    pub winner: usize,
    /// Position of the best other candidate.
    pub runner_up: Option<usize>,
    /// Winner's total less the runner-up's.
    pub margin: f32,
    /// What told them apart.
    pub decided_by: DecidedBy,
    /// One per scorer; empty without a runner-up.
    pub flips: Vec<Flip>,
}

/// Compares winner and runner-up of `profile`, whose scorers have `weights`; `None` where nothing was picked.
pub fn compare(profile: &ProfileDecision, weights: &[f32]) -> Option<Comparison> {
    let first = profile.picked.first()?;
    let winner = profile.candidates.iter().position(|c| c == first)?;
    let totals = &profile.totals;
    let top = *totals.get(winner)?;
    let runner_up = best(totals, |i| i != winner);
    let margin = runner_up.map_or(0.0, |r| top - totals[r]);
    let decided_by = match runner_up {
        None => DecidedBy::OnlyCandidate,
        Some(_) if margin > 0.0 => DecidedBy::Score,
        Some(_) if margin < 0.0 => DecidedBy::Picker,
        Some(_) => DecidedBy::Tie,
    };
    let flips = runner_up.map_or_else(Vec::new, |other| {
        let scorers = weights.iter().enumerate();
        scorers
            .filter_map(|(scorer, weight)| flip(profile, scorer, *weight, (winner, other, margin)))
            .collect()
    });
    Some(Comparison {
        winner,
        runner_up,
        margin,
        decided_by,
        flips,
    })
}

fn flip(
    profile: &ProfileDecision,
    scorer: usize,
    weight: f32,
    (winner, other, margin): (usize, usize, f32),
) -> Option<Flip> {
    let raw = profile.scores(scorer);
    let (high, low) = (*raw.get(winner)?, *raw.get(other)?);
    let without: Vec<f32> = profile
        .totals
        .iter()
        .zip(raw)
        .map(|(t, r)| t - r * weight)
        .collect();
    let best_without = best(&without, |_| true)?;
    // Equal is no reason to say that another would have won.
    let stays = without[winner] >= without[best_without];
    let share = |raw: f32| Some(raw).filter(|r| (0.0..=1.0).contains(r));
    let needed = margin / weight;
    Some(Flip {
        lead: (high - low) * weight,
        winner_without: if stays { winner } else { best_without },
        weight: Some(weight - margin / (high - low)).filter(|w| w.is_finite() && *w >= 0.0),
        runner_up_raw: share(low + needed),
        winner_raw: share(high - needed),
    })
}

/// Position of the highest total among those `allowed`; the first of equals.
fn best(totals: &[f32], allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let mut found: Option<usize> = None;
    for (i, total) in totals.iter().enumerate().filter(|(i, _)| allowed(*i)) {
        if found.is_none_or(|f| *total > totals[f]) {
            found = Some(i);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates 5, 6, 7; two scorers.
    fn profile(raw: [[f32; 3]; 2], weights: [f32; 2], picked: u32) -> ProfileDecision {
        let mut decided = ProfileDecision::default();
        decided.candidates.extend([5, 6, 7]);
        let total = |i: usize| raw[0][i] * weights[0] + raw[1][i] * weights[1];
        decided.totals.extend((0..3).map(total));
        decided.raw = raw.concat();
        decided.picked.push(picked);
        decided
    }

    #[test]
    fn a_flip_puts_both_on_one_level() {
        let (raw, weights) = ([[1.0, 0.5, 0.0], [0.25, 0.75, 0.0]], [2.0, 1.0]);
        let found = compare(&profile(raw, weights, 5), &weights).unwrap();
        assert_eq!((found.winner, found.runner_up), (0, Some(1)));
        assert_eq!((found.margin, found.decided_by), (0.5, DecidedBy::Score));
        let first = Flip {
            lead: 1.0,
            winner_without: 1,
            weight: Some(1.0),
            runner_up_raw: Some(0.75),
            winner_raw: Some(0.75),
        };
        let second = Flip {
            lead: -0.5,
            winner_without: 0,
            weight: Some(2.0),
            runner_up_raw: None,
            winner_raw: None,
        };
        assert_eq!(found.flips, [first, second]);
        // Each said weight and score does what it says.
        for (weights, raw) in [
            ([1.0, 1.0], raw),
            ([2.0, 2.0], raw),
            (weights, [[1.0, 0.75, 0.0], raw[1]]),
        ] {
            let level = compare(&profile(raw, weights, 5), &weights).unwrap();
            assert_eq!(level.decided_by, DecidedBy::Tie);
        }
    }

    #[test]
    fn chance_and_single_candidates_are_told() {
        let (raw, weights) = ([[1.0, 0.5, 0.0], [0.0; 3]], [1.0, 0.0]);
        let drawn = compare(&profile(raw, weights, 7), &weights).unwrap();
        assert_eq!((drawn.winner, drawn.runner_up), (2, Some(0)));
        assert_eq!(drawn.decided_by, DecidedBy::Picker);
        // A scorer of weight 0 can only decide with another weight.
        assert_eq!(drawn.flips[1].weight, None);
        let mut alone = ProfileDecision::default();
        alone.candidates.push(3);
        alone.totals.push(0.0);
        alone.picked.push(3);
        let alone = compare(&alone, &[]).unwrap();
        assert_eq!(
            (alone.decided_by, alone.runner_up),
            (DecidedBy::OnlyCandidate, None)
        );
        assert_eq!(compare(&ProfileDecision::default(), &[]), None);
    }
}
