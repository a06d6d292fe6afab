//! `prefix-cache-scorer`: prefers endpoints that were sent the same beginning lately, and so have it in their
//! KV cache. Approximate: it remembers what was sent, not what the engine kept.

use std::sync::Arc;

use serde::Deserialize;

use crate::model::endpoint::Endpoint;
use crate::model::sample::Signals;
use crate::plugin::{
    Cycle, Decision, EndpointObserver, Mutation, ParamDoc, Params, ParamsError, PluginType, PreRequest,
    PrefixKey, PrefixMatch, ProfileDecision, Roles, Scorer,
};
use crate::prefix::{BlockHasher, DEFAULT_BUDGET, Holder, PrefixIndex};
use crate::telemetry::metrics::{Metrics, PrefixIndexGauge};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "prefix-cache-scorer",
    help: "Prefers endpoints that were recently sent prompts with the same beginning.",
    params: PARAMS,
    make: |context, params| {
        let settings = Settings::new(params)?;
        let plugin = Arc::new(PrefixCache {
            name: context.name.clone(),
            settings,
            hasher: BlockHasher::new(rand::random()),
            index: PrefixIndex::with_budget(settings.budget),
            size: context.metrics.prefix_index(),
            metrics: context.metrics.clone(),
        });
        Ok(Roles {
            scorer: Some(plugin.clone()),
            pre_request: Some(plugin.clone()),
            endpoint_observer: Some(plugin),
            ..Roles::default()
        })
    },
};

const PARAMS: &[ParamDoc] = &[
    ParamDoc {
        name: "autoTune",
        kind: "bool",
        default: "true",
        help: "Use the block size and the number of blocks the engine reports, where it does.",
    },
    ParamDoc {
        name: "blockSizeTokens",
        kind: "int",
        default: "16",
        help: "Tokens per block; a token counts as 4 bytes. 0 means the default.",
    },
    ParamDoc {
        name: "blockSize",
        kind: "int",
        default: "",
        help: "Deprecated, characters per block: ignored beside blockSizeTokens, refused alone.",
    },
    ParamDoc {
        name: "maxPrefixBlocksToMatch",
        kind: "int",
        default: "256",
        help: "Leading blocks of a prompt that are hashed and matched at most. 0 or less means the default.",
    },
    ParamDoc {
        name: "lruCapacityPerServer",
        kind: "int",
        default: "31250",
        help: "Blocks remembered per endpoint, where the engine reports no number. 0 or less means the default.",
    },
    ParamDoc {
        name: "maxIndexedBlocks",
        kind: "int",
        default: "5000000",
        help: "Blocks remembered for all endpoints together, some 80 bytes each; beyond, the endpoint with most loses its oldest. 0 or less means the default.",
    },
];

/// The profile whose target computes the prompt in disaggregated serving.
const PREFILL: &str = "prefill";
/// Bytes a token stands for.
const TOKEN_BYTES: usize = 4;

/// Parameters as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameters {
    auto_tune: Option<bool>,
    block_size_tokens: i64,
    block_size: i64,
    max_prefix_blocks_to_match: i64,
    lru_capacity_per_server: i64,
    max_indexed_blocks: i64,
}

/// Parameters made sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    auto_tune: bool,
    block_tokens: usize,
    max_blocks: usize,
    capacity: usize,
    budget: usize,
}

impl Settings {
    fn new(params: &Params) -> Result<Self, ParamsError> {
        let known: Vec<&str> = PARAMS.iter().map(|p| p.name).collect();
        let given: Parameters = params.decode(&known)?;
        let or = |value: i64, default| usize::try_from(value).ok().filter(|v| *v > 0).unwrap_or(default);
        if given.block_size_tokens < 0 {
            let n = given.block_size_tokens;
            return Err(ParamsError::one(format!(
                "blockSizeTokens must not be negative, got {n}"
            )));
        }
        if given.block_size > 0 && given.block_size_tokens == 0 {
            return Err(ParamsError::one(format!(
                "blockSize (characters) is deprecated and not used alone: set blockSizeTokens, e.g. {}",
                (given.block_size / 4).max(1)
            )));
        }
        Ok(Settings {
            auto_tune: given.auto_tune.unwrap_or(true),
            block_tokens: or(given.block_size_tokens, 16),
            max_blocks: or(given.max_prefix_blocks_to_match, 256),
            capacity: or(given.lru_capacity_per_server, 31_250),
            budget: or(given.max_indexed_blocks, DEFAULT_BUDGET),
        })
    }

    /// What an engine reports, where it does and may be used.
    fn tuned(&self, reported: u32, configured: usize) -> usize {
        if self.auto_tune && reported > 0 {
            reported as usize
        } else {
            configured
        }
    }

    fn key(&self, signals: &[Signals]) -> PrefixKey {
        let tokens = self.tuned(agreed_block_size(signals), self.block_tokens);
        PrefixKey {
            block_bytes: tokens.saturating_mul(TOKEN_BYTES),
            max_blocks: self.max_blocks,
        }
    }
}

/// The block size that more than half of the endpoints report, of those that report one; 0 when there is none. One endpoint
/// cannot choose the block size of the pool.
fn agreed_block_size(signals: &[Signals]) -> u32 {
    let first = signals.first().map_or(0, |s| s.block_size);
    if signals.iter().all(|s| s.block_size == first) {
        return first;
    }
    let reported = || signals.iter().map(|s| s.block_size).filter(|size| *size > 0);
    // Boyer and Moore: if one has the majority, it is the one that is left.
    let (mut left, mut lead) = (0, 0_usize);
    for size in reported() {
        match (lead, size == left) {
            (0, _) => (left, lead) = (size, 1),
            (_, true) => lead += 1,
            (_, false) => lead -= 1,
        }
    }
    let votes = reported().filter(|size| *size == left).count();
    if votes * 2 > reported().count() { left } else { 0 }
}

/// Scores by the share of the prompt's blocks an endpoint holds.
pub struct PrefixCache {
    name: Arc<str>,
    settings: Settings,
    hasher: BlockHasher,
    index: PrefixIndex,
    size: Arc<PrefixIndexGauge>,
    metrics: Arc<Metrics>,
}

impl Scorer for PrefixCache {
    fn score(&self, cycle: &Cycle<'_>, candidates: &[u32], out: &mut [f32]) {
        if candidates.is_empty() {
            return;
        }
        let mut state = cycle.prefix.borrow_mut();
        let found = state.entry(&self.name);
        // Once per request, for every profile.
        if found.key.is_none() {
            self.look_up(cycle, self.settings.key(cycle.signals), found);
        }
        if found.hashes.is_empty() {
            return;
        }
        let total = found.hashes.len() as f32;
        for (score, c) in out.iter_mut().zip(candidates) {
            *score = found.matched[*c as usize] as f32 / total;
        }
    }
}

impl PrefixCache {
    fn look_up(&self, cycle: &Cycle<'_>, key: PrefixKey, found: &mut PrefixMatch) {
        let request = cycle.request;
        self.hasher.blocks(
            &request.target_model,
            &request.prompt,
            key.block_bytes,
            key.max_blocks,
            &mut found.hashes,
        );
        let holders = cycle.endpoints.iter().map(|e| holder(e));
        self.index
            .matches(&found.hashes, holders, &mut found.by_slot, &mut found.matched);
        found.key = Some(key);
    }

    fn record(&self, cycle: &Cycle<'_>, target: u32, hashes: &[u64]) {
        let (endpoint, signals) = (&cycle.endpoints[target as usize], &cycle.signals[target as usize]);
        let capacity = self.settings.tuned(signals.num_blocks, self.settings.capacity);
        if !self.index.record(holder(endpoint), capacity, hashes) {
            self.metrics.prefix_updates_dropped(1);
        }
    }

    fn report_size(&self) {
        self.size.set(self.index.blocks() as u64);
    }
}

impl PreRequest for PrefixCache {
    /// Records the prompt for the destination before the engine has computed it, and for the prefill target.
    fn pre_request(&self, cycle: &Cycle<'_>, decision: &Decision, _: &mut Mutation) {
        let state = cycle.prefix.borrow();
        let (Some(found), Some(target)) = (state.get(&self.name), decision.targets().first()) else {
            return;
        };
        self.record(cycle, *target, &found.hashes);
        let prefill = decision.profile(PREFILL).and_then(first_target);
        if let Some(prefill) = prefill.filter(|p| p != target) {
            self.record(cycle, prefill, &found.hashes);
        }
        let matched = found.matched.get(*target as usize).copied().unwrap_or(0);
        let total = u32::try_from(found.hashes.len()).unwrap_or(u32::MAX);
        let block_bytes = found.key.map_or(0, |k| k.block_bytes as u64);
        self.metrics
            .prefix_match(matched, total, u64::from(matched) * block_bytes);
        self.report_size();
    }
}

impl EndpointObserver for PrefixCache {
    fn endpoint_removed(&self, endpoint: &Endpoint) {
        self.index.remove(holder(endpoint));
        self.report_size();
    }
}

fn first_target(profile: &ProfileDecision) -> Option<u32> {
    profile.picked.first().copied()
}

fn holder(endpoint: &Endpoint) -> Holder {
    Holder {
        slot: endpoint.slot,
        id: endpoint.id,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::plugin::ProfileName;
    use crate::scheduling::fixture::{Fixture, make, params};

    /// A decision of profiles with one target each; the first is primary.
    fn decision(profiles: &[(&str, u32)]) -> Decision {
        let mut decision = Decision::default();
        let names: Vec<ProfileName> = profiles.iter().map(|(n, _)| (*n).into()).collect();
        decision.reset(0, &names.into());
        for (p, (_, target)) in decision.profiles.iter_mut().zip(profiles) {
            p.ran = true;
            p.picked.push(*target);
        }
        decision
    }

    /// Scores a request as one cycle, then records it for `targets`.
    fn serve(roles: &Roles, fixture: &mut Fixture, targets: &[(&str, u32)]) -> Vec<f32> {
        fixture.prefix = RefCell::default();
        let scores = fixture.score(&**roles.scorer.as_ref().unwrap());
        let pre_request = roles.pre_request.as_ref().unwrap();
        pre_request.pre_request(&fixture.cycle(), &decision(targets), &mut Mutation::default());
        scores
    }

    #[test]
    fn the_score_is_the_share_of_whole_blocks_sent_before() {
        let roles = make(&TYPE, r#"{"blockSizeTokens": 1}"#);
        let mut f = Fixture::idle(2).with_prompt(b"aaaabbbbccccdd");
        assert_eq!(serve(&roles, &mut f, &[("p", 1)]), [0.0, 0.0]);
        assert_eq!(serve(&roles, &mut f, &[("p", 1)]), [0.0, 1.0]);
        let mut longer = Fixture::idle(2).with_prompt(b"aaaabbbbccccddddeeee");
        assert_eq!(serve(&roles, &mut longer, &[("p", 0)]), [0.0, 0.6]);
        assert_eq!(serve(&roles, &mut f, &[("p", 1)]), [1.0, 1.0]);
        let mut other_model = Fixture::idle(2).with_prompt(b"aaaabbbbccccdd");
        other_model.request.target_model = "n".into();
        assert_eq!(serve(&roles, &mut other_model, &[("p", 1)]), [0.0, 0.0]);
        let mut short = Fixture::idle(2).with_prompt(b"aaa");
        assert_eq!(serve(&roles, &mut short, &[("p", 1)]), [0.0, 0.0]);
    }

    #[test]
    fn the_target_of_a_profile_named_prefill_is_recorded_too() {
        let roles = make(&TYPE, r#"{"blockSizeTokens": 1}"#);
        let mut f = Fixture::idle(3).with_prompt(b"aaaa");
        serve(&roles, &mut f, &[("decode", 0), ("prefill", 2)]);
        assert_eq!(
            serve(&roles, &mut f, &[("decode", 0), ("encode", 1)]),
            [1.0, 0.0, 1.0]
        );
        assert_eq!(serve(&roles, &mut f, &[("decode", 0)]), [1.0, 0.0, 1.0]);
    }

    #[test]
    fn a_removed_endpoint_is_forgotten() {
        let roles = make(&TYPE, r#"{"blockSizeTokens": 1}"#);
        let mut f = Fixture::idle(1).with_prompt(b"aaaa");
        serve(&roles, &mut f, &[("p", 0)]);
        let observer = roles.endpoint_observer.as_ref().unwrap();
        observer.endpoint_removed(&f.endpoints[0]);
        assert_eq!(serve(&roles, &mut f, &[("p", 0)]), [0.0]);
    }

    #[test]
    fn the_prompt_is_hashed_once_for_all_profiles_of_a_request() {
        let roles = make(&TYPE, r#"{"blockSizeTokens": 1}"#);
        let mut f = Fixture::idle(2).with_prompt(b"aaaabbbb");
        f.signals.iter_mut().for_each(|s| s.block_size = 1);
        let scorer = roles.scorer.as_ref().unwrap();
        scorer.score(&f.cycle(), &[0], &mut [0.0]);
        scorer.score(&f.cycle(), &[1], &mut [0.0]);
        let state = f.prefix.borrow();
        let found = state.get("prefix-cache-scorer").unwrap();
        assert_eq!(found.key.unwrap().block_bytes, 4);
        assert_eq!((found.hashes.len(), found.matched.len()), (2, 2));
    }

    #[test]
    fn the_block_size_is_that_of_most_endpoints_where_tuning_is_on() {
        let rows: [(&str, &[u32], usize); 11] = [
            ("{}", &[0], 64),
            ("{}", &[32], 128),
            (r#"{"blockSizeTokens": 8}"#, &[0, 0], 32),
            (r#"{"autoTune": false}"#, &[32, 32], 64),
            ("{}", &[u32::MAX], u32::MAX as usize * 4),
            // One that says something else changes nothing, wherever it is in the list.
            ("{}", &[u32::MAX, 32, 32, 32], 128),
            ("{}", &[32, 32, 1, 32], 128),
            ("{}", &[1, 32, 32, 2], 64),
            // Who says nothing does not vote.
            ("{}", &[0, 0, 0, 32], 128),
            // No majority: what is configured.
            ("{}", &[32, 8], 64),
            ("{}", &[], 64),
        ];
        for (json, reported, bytes) in rows {
            let signals = |block_size: &u32| Signals {
                block_size: *block_size,
                ..Signals::default()
            };
            let signals: Vec<Signals> = reported.iter().map(signals).collect();
            let key = Settings::new(&params(json)).unwrap().key(&signals);
            let got = (key.block_bytes, key.max_blocks);
            assert_eq!(got, (bytes, 256), "{json} {reported:?}");
        }
    }

    #[test]
    fn the_capacity_is_what_the_engine_reports_first() {
        let roles = make(&TYPE, r#"{"blockSizeTokens": 1}"#);
        let mut f = Fixture::idle(1).with_prompt(b"aaaabbbbcccc");
        f.signals[0].num_blocks = 2;
        serve(&roles, &mut f, &[("p", 0)]);
        f.signals[0].num_blocks = 100;
        let scores = serve(&roles, &mut f, &[("p", 0)]);
        assert_eq!(scores, [2.0 / 3.0]);
        assert_eq!(serve(&roles, &mut f, &[("p", 0)]), scores);
    }

    #[test]
    fn parameters_have_defaults_and_limits() {
        let settings = |auto_tune, block_tokens, max_blocks, capacity| Settings {
            auto_tune,
            block_tokens,
            max_blocks,
            capacity,
            budget: DEFAULT_BUDGET,
        };
        for (json, expected) in [
            ("{}", settings(true, 16, 256, 31_250)),
            (
                r#"{"autoTune": false, "blockSizeTokens": 0}"#,
                settings(false, 16, 256, 31_250),
            ),
            (
                r#"{"blockSize": 256, "blockSizeTokens": 64, "maxPrefixBlocksToMatch": 9, "lruCapacityPerServer": 7}"#,
                settings(true, 64, 9, 7),
            ),
            (
                r#"{"maxprefixblockstomatch": 64, "AUTOTUNE": false}"#,
                settings(false, 16, 64, 31_250),
            ),
            (
                r#"{"maxPrefixBlocksToMatch": -1, "lruCapacityPerServer": 0}"#,
                settings(true, 16, 256, 31_250),
            ),
        ] {
            assert_eq!(Settings::new(&params(json)), Ok(expected), "{json}");
        }
        for (json, error) in [
            (r#"{"blockSize": 256}"#, "set blockSizeTokens, e.g. 64"),
            (r#"{"blockSizeTokens": -1}"#, "must not be negative"),
            (r#"{"blocksiz": 1}"#, "did you mean \"blockSize\"?"),
            (r#"{"BlockSize": 64}"#, "set blockSizeTokens, e.g. 16"),
            (
                r#"{"autoTune": true, "autotune": false}"#,
                "\"autoTune\" is given twice",
            ),
            (r#"{"autoTune": 1}"#, "expected a boolean"),
        ] {
            let said = Settings::new(&params(json)).unwrap_err().to_string();
            assert!(said.contains(error), "{json}: {said}");
        }
    }
}
