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

/// Threads that have ended no longer count, so that the sum can fall.
fn schedstat(pid: u32) -> Option<Duration> {
    let nanos = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks
        .filter_map(nanos)
        .reduce(|a, b| a + b)
        .map(Duration::from_nanos)
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

    /// Of a process with one thread: in this one other tests' threads end, and take their time with them.
    #[test]
    fn a_process_that_computes_uses_cpu() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(ticks(pid).is_some(), "every Linux has /proc/<pid>/stat");
        let before = cpu(pid).unwrap();
        while cpu(pid).unwrap() <= before {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(cpu(pid), None, "it is gone");
    }
}
