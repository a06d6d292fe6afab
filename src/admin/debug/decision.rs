//! One recorded decision as JSON: filters, candidates with every score and the age of what it was made from, the
//! runner-up and what would have flipped it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Moment;
use super::flip::{self, Comparison};
use crate::model::endpoint::Endpoint;
use crate::model::exchange::End;
use crate::model::sample::Signals;
use crate::plugin::ProfileDecision;
use crate::requestcontrol::plan::{Part, PlannedProfile};
use crate::requestcontrol::record::{Ended, Record};

/// The decision, with at most `most` candidates of each profile.
pub fn explained(record: &Record, most: usize, moment: Moment) -> Value {
    let at = record.at.unwrap_or(moment.now);
    json!({
        "sequence": record.sequence,
        "unix_milliseconds": moment.unix_ms(at),
        "age_seconds": moment.age(at),
        "seed": record.seed.to_string(),
        "request_id": record.request_id,
        "model": record.incoming_model,
        "target_model": record.target_model,
        "priority": record.priority,
        "endpoints": record.endpoints().len(),
        "subset_hint": record.hinted,
        "unreachable": unreachable(record, most),
        "outcome": outcome(record),
        "response": record.ended.as_ref().map(ended),
        "profiles": profiles(record, most),
    })
}

/// The endpoints that no profile started with, because they could not be reached.
fn unreachable(record: &Record, most: usize) -> Value {
    let avoided = &record.decision.avoided;
    let named = avoided
        .iter()
        .filter_map(|i| record.endpoints().get(*i as usize))
        .map(name);
    json!({"count": avoided.len(), "endpoints": named.take(most).collect::<Vec<_>>()})
}

fn outcome(record: &Record) -> Value {
    match (&record.rejected, &record.target) {
        (Some(error), _) => json!({
            "rejected": error.code.name(),
            "http_status": error.code.http_status(),
            "message": error.message,
            "reason": error.reason.map(|r| r.name()),
        }),
        (None, Some(target)) => json!({
            "endpoint": target.spec.name,
            "address": &*target.authority,
            "how": if record.scheduled { "scheduled" } else { "no body: any endpoint, by chance" },
        }),
        (None, None) => Value::Null,
    }
}

fn ended(ended: &Ended) -> Value {
    json!({
        "end": match ended.end {
            End::Natural => "natural",
            End::Disconnected => "disconnected",
            End::Error => "error",
        },
        "error": ended.error,
        "seconds": ended.took.as_secs_f64(),
        "usage": ended.usage.map(|u| json!({
            "prompt_tokens": u.prompt, "completion_tokens": u.completion, "cached_tokens": u.cached,
        })),
    })
}

fn profiles(record: &Record, most: usize) -> Vec<Value> {
    let Some(plan) = record.plan.as_ref().filter(|_| record.scheduled) else {
        return Vec::new();
    };
    let ran = record.decision.profiles.iter().zip(&plan.profiles).enumerate();
    ran.filter(|(_, (decided, _))| decided.ran)
        .map(|(i, (decided, planned))| {
            let view = View {
                record,
                decided,
                planned,
                most,
            };
            view.json(i == record.decision.primary)
        })
        .collect()
}

/// One profile of one decision.
struct View<'a> {
    record: &'a Record,
    decided: &'a ProfileDecision,
    planned: &'a PlannedProfile,
    most: usize,
}

impl View<'_> {
    fn json(&self, primary: bool) -> Value {
        let weights: Vec<f32> = self.planned.scorers.iter().map(|(_, w)| *w).collect();
        let compared = flip::compare(self.decided, &weights);
        let mut order: Vec<usize> = (0..self.decided.candidates.len()).collect();
        let total = |i: &usize| self.decided.totals.get(*i).copied().unwrap_or(0.0);
        order.sort_by(|a, b| total(b).total_cmp(&total(a)));
        let shown = |i: &usize| self.candidate(*i);
        json!({
            "name": &*self.planned.name,
            "primary": primary,
            "picker": part(&self.planned.picker),
            "picked": self.names(&self.decided.picked),
            "filters": self.filters(),
            "candidates": order.iter().take(self.most).map(shown).collect::<Vec<_>>(),
            "candidates_left": self.decided.candidates.len(),
            "comparison": compared.as_ref().map(|c| self.comparison(c)),
        })
    }

    fn filters(&self) -> Vec<Value> {
        let verdicts = self.decided.verdicts.iter();
        verdicts
            .filter_map(|verdict| {
                let removed = self.decided.removed.get(verdict.removed.clone())?;
                let mut shown = part(self.planned.filters.get(verdict.filter)?);
                shown["removed_count"] = json!(removed.len());
                shown["removed"] = json!(self.names(&removed[..removed.len().min(self.most)]));
                Some(shown)
            })
            .collect()
    }

    fn candidate(&self, at: usize) -> Value {
        let index = self.decided.candidates[at] as usize;
        let endpoint = self.record.endpoints().get(index);
        let scorers = self.planned.scorers.iter().enumerate();
        let scores: Vec<Value> = scorers
            .filter_map(|(i, (scorer, weight))| {
                let raw = *self.decided.scores(i).get(at)?;
                Some(json!({
                    "scorer": &*scorer.name, "raw": raw, "weight": weight, "weighted": raw * weight,
                }))
            })
            .collect();
        let picked = self.decided.picked.iter().position(|p| *p as usize == index);
        json!({
            "endpoint": endpoint.map(|e| &e.spec.name),
            "address": endpoint.map(|e| &*e.authority),
            "total": self.decided.totals.get(at),
            "picked": picked.map(|p| p + 1),
            "scores": scores,
            "signals": self.record.signals.get(index).map(|s| self.signals(s)),
        })
    }

    fn signals(&self, s: &Signals) -> Value {
        let at = self.record.at;
        let age = at
            .zip(s.updated)
            .map(|(now, then)| now.saturating_duration_since(then));
        json!({
            "waiting": s.waiting,
            "running": s.running,
            "kv_usage": s.kv_usage,
            "adapters": s.adapters,
            "max_adapters": s.max_adapters,
            "adapter_active": s.adapter_active,
            "adapter_waiting": s.adapter_waiting,
            "age_seconds": age.map(|a| a.as_secs_f64()),
        })
    }

    fn comparison(&self, c: &Comparison) -> Value {
        let flips = c
            .flips
            .iter()
            .zip(&self.planned.scorers)
            .map(|(flip, (scorer, weight))| {
                json!({
                    "scorer": &*scorer.name,
                    "lead": flip.lead,
                    "weight": weight,
                    "winner_without": self.name(flip.winner_without),
                    "level_at_weight": flip.weight,
                    "level_at_runner_up_raw": flip.runner_up_raw,
                    "level_at_winner_raw": flip.winner_raw,
                })
            });
        json!({
            "decided_by": c.decided_by.name(),
            "winner": self.name(c.winner),
            "runner_up": c.runner_up.and_then(|r| self.name(r)),
            "margin": c.margin,
            "flips": flips.collect::<Vec<_>>(),
        })
    }

    /// Name of the candidate at position `at`.
    fn name(&self, at: usize) -> Option<&str> {
        let index = *self.decided.candidates.get(at)? as usize;
        self.record.endpoints().get(index).map(name)
    }

    fn names(&self, indices: &[u32]) -> Vec<&str> {
        let endpoints = self.record.endpoints();
        indices
            .iter()
            .filter_map(|i| endpoints.get(*i as usize))
            .map(name)
            .collect()
    }
}

fn name(endpoint: &Arc<Endpoint>) -> &str {
    &endpoint.spec.name
}

fn part(part: &Part) -> Value {
    json!({"name": &*part.name, "type": part.type_name})
}
