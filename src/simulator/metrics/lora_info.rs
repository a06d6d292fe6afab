//! `vllm:lora_requests_info`: which adapters run and wait, one series a state, the newest with the greatest value.
//! The reference keeps every state it has ever had; here the latest ones are kept, in bounded memory.

use std::collections::VecDeque;

/// States kept at most.
const STATES: usize = 64;

/// Bytes of names kept at most, the newest state aside.
const BYTES: usize = 64 << 10;

/// One state.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Adapters requests run with, joined by commas.
    pub running: String,
    /// Adapters requests wait for.
    pub waiting: String,
    /// Unix seconds.
    pub time: f64,
}

/// The latest states, oldest first; no two have the same names.
#[derive(Clone, Debug, Default)]
pub struct LoraInfo {
    states: VecDeque<State>,
    bytes: usize,
}

impl State {
    fn size(&self) -> usize {
        self.running.len() + self.waiting.len()
    }
}

impl LoraInfo {
    /// Adds the state now. Times ascend even where the clock does not.
    pub fn record(&mut self, running: String, waiting: String, now: f64) {
        let time = self.states.back().map_or(now, |s| now.max(s.time + 1e-6));
        let same = |s: &State| s.running == running && s.waiting == waiting;
        if let Some(known) = self.states.iter().position(same)
            && let Some(mut state) = self.states.remove(known)
        {
            state.time = time;
            self.states.push_back(state);
            return;
        }
        let state = State {
            running,
            waiting,
            time,
        };
        self.bytes += state.size();
        self.states.push_back(state);
        while self.states.len() > STATES || (self.bytes > BYTES && self.states.len() > 1) {
            let Some(oldest) = self.states.pop_front() else {
                break;
            };
            self.bytes -= oldest.size();
        }
    }

    /// The states, oldest first.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.states.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_series_and_the_newest_the_greatest_time() {
        let mut info = LoraInfo::default();
        for (running, now) in [("", 1.0), ("a", 2.0), ("", 2.0), ("b", 1.0)] {
            info.record(running.to_owned(), String::new(), now);
        }
        let states: Vec<_> = info.states().map(|s| s.running.as_str()).collect();
        assert_eq!(states, ["a", "", "b"]);
        let times: Vec<_> = info.states().map(|s| s.time).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut info = LoraInfo::default();
        for i in 0..200 {
            info.record(format!("{i}"), String::new(), f64::from(i));
        }
        assert_eq!(info.states().count(), STATES);
        info.record("x".repeat(BYTES + 1), String::new(), 500.0);
        assert_eq!(info.states().count(), 1);
    }
}
