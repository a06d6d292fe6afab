//! What is read off the running processes: CPU time, pages, cache counters.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::Duration;

/// How long an idle `epp` is watched.
const IDLE: Duration = Duration::from_secs(1);

/// CPU time of all threads of a process so far, to the nanosecond, by the scheduler's own accounting; else, where the
/// kernel does not keep that, in ticks of 10 ms. `None`: the process is gone.
pub fn cpu(pid: u32) -> Option<Duration> {
    schedstat(pid).or_else(|| ticks(pid))
}

fn schedstat(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanos += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanos))
}

fn ticks(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses, which may hold anything: user and system time are the 12th and 13th words.
    let mut words = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || words.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (next()? + next()?)))
}

/// Share of a core that the process uses while no request comes, 0 to 1 for one core.
pub async fn idle_cpu(pid: u32) -> Option<f64> {
    let before = cpu(pid)?;
    tokio::time::sleep(IDLE).await;
    Some(cpu(pid)?.saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64())
}

/// The page at `http://<address><path>`.
///
/// # Errors
/// It is not served; the text says where.
pub async fn page(address: SocketAddr, path: &str) -> Result<String, String> {
    let url = format!("http://{address}{path}");
    let get = async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()?;
        client.get(&url).send().await?.error_for_status()?.text().await
    };
    get.await.map_err(|e: reqwest::Error| format!("{url}: {e}"))
}

/// Prompt tokens that were looked up and found in the prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CacheCounters {
    /// Looked up.
    pub queries: f64,
    /// Found.
    pub hits: f64,
}

impl CacheCounters {
    /// From a metrics page; `None` if it does not count them.
    pub fn read(page: &str) -> Option<Self> {
        Some(CacheCounters {
            queries: sum(page, "vllm:prefix_cache_queries")?,
            hits: sum(page, "vllm:prefix_cache_hits")?,
        })
    }
}

impl AddAssign for CacheCounters {
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.hits += other.hits;
    }
}

/// Sum over the series of a counter, with or without the `_total` of OpenMetrics.
fn sum(page: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix("_total").unwrap_or(rest);
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        let (_, value) = rest.rsplit_once(' ').filter(|_| labelled)?;
        value.parse::<f64>().ok()
    };
    page.lines().filter_map(value).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_under_either_name_and_absent_ones_are_not_zero() {
        let page = "# TYPE vllm:prefix_cache_queries counter\nvllm:prefix_cache_queries_total{m=\"a b\"} 3\n\
                    vllm:prefix_cache_queries_total{m=\"c\"} 4\nvllm:prefix_cache_queries_created{m=\"c\"} 99\n\
                    vllm:prefix_cache_hits 5\n";
        let read = CacheCounters::read(page);
        assert_eq!(
            read,
            Some(CacheCounters {
                queries: 7.0,
                hits: 5.0
            })
        );
        assert_eq!(CacheCounters::read("vllm:prefix_cache_hits 5\n"), None);
    }

    #[test]
    fn a_process_that_computes_uses_cpu() {
        let own = std::process::id();
        let (by_schedstat, by_ticks) = (schedstat(own), ticks(own));
        assert!(by_ticks.is_some(), "every Linux has /proc/<pid>/stat");
        let before = cpu(own).unwrap();
        while cpu(own).unwrap() == before {
            std::hint::black_box(words());
        }
        assert!(by_schedstat.is_none_or(|t| t <= cpu(own).unwrap()));
    }

    fn words() -> usize {
        (0..10_000_u64).map(|n| n.to_string().len()).sum()
    }
}
