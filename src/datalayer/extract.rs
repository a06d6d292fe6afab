//! From readings of a page to the next sample of an endpoint. What the page does not say keeps its old value.

use std::collections::HashSet;
use std::time::Instant;

use crate::model::sample::{Lora, Sample};
use crate::wire::prometheus::{Hit, Labels, Readings};

use super::engine::Engine;

impl Engine {
    /// The sample after `previous`, taken at `now`; `None` when the page held nothing this engine reports.
    pub(super) fn extract(&self, readings: &Readings, previous: &Sample, now: Instant) -> Option<Sample> {
        let slots = &self.slots;
        let hit = |slot: Option<usize>| slot.and_then(|index| readings.get(index));
        let number = |slot| hit(slot).map(|h| h.value).filter(|v| v.is_finite());
        let (waiting, running) = (number(slots.waiting), number(slots.running));
        let (kv_usage, lora) = (number(slots.kv_usage), hit(slots.lora));
        let info = hit(slots.cache_info);
        let (size, blocks) = (number(slots.block_size), number(slots.num_blocks));
        let numbers = [waiting, running, kv_usage, size, blocks];
        if numbers.iter().all(Option::is_none) && lora.is_none() && info.is_none() {
            return None;
        }
        let from_info = |label: &str| info.and_then(|h| integer(h.labels(), label));
        Some(Sample {
            waiting: waiting.map_or(previous.waiting, whole),
            running: running.map_or(previous.running, whole),
            kv_usage: kv_usage.map_or(previous.kv_usage, |share| share.clamp(0.0, 1.0)),
            lora: match lora {
                Some(hit) => read_lora(hit, previous.lora.max),
                None => previous.lora.clone(),
            },
            block_size: size
                .map(whole)
                .or_else(|| from_info(&slots.block_size_label))
                .unwrap_or(previous.block_size),
            num_blocks: blocks
                .map(whole)
                .or_else(|| from_info(&slots.num_blocks_label))
                .unwrap_or(previous.num_blocks),
            updated: Some(now),
        })
    }
}

/// A count: the fraction is cut off, what does not fit is brought to the nearest `u32`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, which is what is wanted"
)]
fn whole(value: f64) -> u32 {
    value as u32
}

fn integer(labels: Labels<'_>, name: &str) -> Option<u32> {
    labels.get(name)?.text().trim().parse().ok()
}

fn read_lora(hit: &Hit, previous_max: u32) -> Lora {
    let adapters = |name| {
        let text = hit.labels().get(name).map(|value| value.text());
        names(text.as_deref().unwrap_or_default())
    };
    Lora::new(
        adapters("running_lora_adapters"),
        adapters("waiting_lora_adapters"),
        integer(hit.labels(), "max_lora").unwrap_or(previous_max),
    )
}

fn names(list: &str) -> HashSet<Box<str>> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::engine::Engines;
    use super::*;
    use crate::wire::prometheus::scan;

    fn read(engine: &str, page: &str, previous: &Sample) -> Option<Sample> {
        let labels = BTreeMap::from([("llm-d.ai/engine-type".to_owned(), engine.to_owned())]);
        let engines = Engines::default();
        let engine = engines.of(&labels);
        let mut readings = Readings::default();
        scan(page.as_bytes(), &engine.wanted, &mut readings);
        engine.extract(&readings, previous, Instant::now())
    }

    fn adapters(set: &HashSet<Box<str>>) -> Vec<&str> {
        let mut names: Vec<&str> = set.iter().map(|n| &**n).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn each_engine_reports_its_load_and_its_cache() {
        let rows = [
            (
                "vllm",
                "vllm:num_requests_waiting{m=\"x\"} 3\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.5\n\
                 vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1\n",
            ),
            (
                "sglang",
                "sglang:num_queue_reqs 3\nsglang:num_running_reqs 4\nsglang:token_usage 0.5\n\
                 sglang:cache_config_info{page_size=\"16\",num_pages=\"100\"} 1\n",
            ),
            (
                "trtllm-serve",
                "trtllm_num_requests_waiting 3\ntrtllm_num_requests_running 4\n\
                 trtllm_kv_cache_utilization 0.5\ntrtllm_kv_cache_tokens_per_block 16\n\
                 trtllm_kv_cache_max_blocks 100\n",
            ),
            (
                "triton-tensorrt-llm",
                "nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\"} 3\n\
                 nv_trt_llm_request_metrics{model=\"m\",request_type=\"scheduled\"} 4\n\
                 nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"} 0.5\n\
                 nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\"} 16\n\
                 nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 100\n",
            ),
        ];
        for (engine, page) in rows {
            let s = read(engine, page, &Sample::default()).unwrap();
            let seen = (s.waiting, s.running, s.kv_usage, s.block_size, s.num_blocks);
            assert_eq!(seen, (3, 4, 0.5, 16, 100), "{engine}");
        }
        let page = "nv_inference_pending_request_count 3\nnv_inference_exec_count 4\n";
        let s = read("triton", page, &Sample::default()).unwrap();
        assert_eq!((s.waiting, s.running), (3, 4));
    }

    #[test]
    fn what_the_page_does_not_say_keeps_its_value_and_its_age_only_if_nothing_is_said() {
        let old = Sample {
            waiting: 7,
            running: 8,
            kv_usage: 0.75,
            lora: Lora::new(names("a"), names("b"), 4),
            block_size: 16,
            num_blocks: 100,
            updated: None,
        };
        for page in ["", "<html>", "other 1\n", "vllm:num_requests_waiting NaN\n"] {
            assert_eq!(read("vllm", page, &old), None, "{page:?}");
        }
        let new = read("vllm", "vllm:num_requests_waiting 2.9\n", &old).unwrap();
        assert!(new.updated.is_some());
        let want = Sample {
            waiting: 2,
            updated: new.updated,
            ..old.clone()
        };
        assert_eq!(new, want);
        let info = "vllm:cache_config_info{block_size=\"None\",num_gpu_blocks=\"5\"} 1\n";
        let new = read("vllm", info, &old).unwrap();
        assert_eq!((new.block_size, new.num_blocks), (16, 5));
    }

    #[test]
    fn counts_are_cut_to_what_a_count_can_be() {
        for (text, want) in [("-3", 0), ("1e99", u32::MAX), ("2.99", 2)] {
            let page = format!("vllm:num_requests_running {text}\n");
            assert_eq!(read("vllm", &page, &Sample::default()).unwrap().running, want);
        }
    }

    #[test]
    fn a_share_is_cut_to_what_a_share_can_be() {
        for (text, want) in [
            ("-1e39", 0.0),
            ("-0.1", 0.0),
            ("0.5", 0.5),
            ("1.5", 1.0),
            ("1e308", 1.0),
        ] {
            let page = format!("vllm:kv_cache_usage_perc {text}\n");
            assert_eq!(read("vllm", &page, &Sample::default()).unwrap().kv_usage, want);
        }
    }

    #[test]
    fn the_newest_lora_series_counts_and_empty_ones_clear() {
        let series = |running: &str, waiting: &str, max: &str, at: &str| {
            format!(
                "vllm:lora_requests_info{{max_lora=\"{max}\",running_lora_adapters=\"{running}\",\
                 waiting_lora_adapters=\"{waiting}\"}} {at}\n"
            )
        };
        let page = series("a", "", "2", "1") + &series(" b , c,", "c, d", "4", "1.7e9");
        let s = read("vllm", &page, &Sample::default()).unwrap();
        assert_eq!(adapters(&s.lora.active), ["b", "c"]);
        assert_eq!(adapters(&s.lora.waiting), ["c", "d"]);
        assert_eq!((s.lora.max, s.lora.distinct), (4, 3));
        let page = series("", "", "", "1.8e9") + &series("", "", "", "1.7e9");
        let s = read("vllm", &page, &s).unwrap();
        assert_eq!(s.lora, Lora::new(HashSet::new(), HashSet::new(), 4));
    }
}
