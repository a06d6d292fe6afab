//! `/debug/endpoints`: every endpoint of the pool with what the last scrape said and what was sent to it.

use serde_json::{Value, json};

use super::{DebugPages, Moment};
use crate::model::endpoint::Endpoint;

impl DebugPages {
    /// The page.
    pub(super) fn endpoints(&self) -> Value {
        let fleet = self.datastore.fleet();
        let sent: u64 = fleet.endpoints.iter().map(|e| e.traffic.requests()).sum();
        let moment = self.moment();
        let one = |e: &std::sync::Arc<Endpoint>| self.endpoint(e, sent, moment);
        json!({
            "pool": self.datastore.pool_name(),
            "synced": self.datastore.synced(),
            "generation": fleet.generation,
            "stale_after_seconds": self.stale_after.as_secs_f64(),
            "config_hash": self.config.load().hash,
            "decisions": self.decisions.made(),
            "endpoints": fleet.endpoints.iter().map(one).collect::<Vec<_>>(),
        })
    }

    fn endpoint(&self, endpoint: &Endpoint, sent: u64, moment: Moment) -> Value {
        let (spec, sample, traffic) = (&endpoint.spec, endpoint.sample(), &endpoint.traffic);
        let names = |set: &std::collections::HashSet<Box<str>>| {
            let mut names: Vec<String> = set.iter().map(|n| n.to_string()).collect();
            names.sort_unstable();
            names
        };
        let age = sample.updated.map(|at| moment.age(at));
        json!({
            "name": spec.name,
            "namespace": spec.namespace,
            "address": &*endpoint.authority,
            "metrics_address": endpoint.metrics_address().to_string(),
            "labels": spec.labels,
            "waiting": sample.waiting,
            "running": sample.running,
            "kv_usage": sample.kv_usage,
            "kv_block_size": sample.block_size,
            "kv_blocks": sample.num_blocks,
            "adapters": {
                "active": names(&sample.lora.active),
                "waiting": names(&sample.lora.waiting),
                "max": sample.lora.max,
            },
            "sample_age_seconds": age,
            "fresh": age.is_some_and(|a| a <= self.stale_after.as_secs_f64()),
            "standing": endpoint.health.standing().name(),
            "standing_reason": endpoint.health.reason(),
            "requests": traffic.requests(),
            "in_flight": traffic.in_flight(),
            "share": if sent == 0 { 0.0 } else { traffic.requests() as f64 / sent as f64 },
        })
    }
}
