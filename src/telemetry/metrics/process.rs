//! `process_*`, read from `/proc/self` when a page is asked for. Where there is no `/proc` the metrics are
//! absent.

use std::fmt;
use std::fs;

use super::catalogue;
use super::page::{Page, Value};

/// Ticks per second in `/proc/<pid>/stat`: the kernel's `USER_HZ`, 100 on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what can be read.
pub(super) fn write(page: &mut Page) -> fmt::Result {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&stat) {
        page.one(&catalogue::PROCESS_CPU, Value::Total(seconds))?;
    }
    if let Some(bytes) = status_bytes(&status, "VmRSS:") {
        page.one(&catalogue::PROCESS_RESIDENT, Value::Level(bytes))?;
    }
    if let Some(bytes) = status_bytes(&status, "VmSize:") {
        page.one(&catalogue::PROCESS_VIRTUAL, Value::Level(bytes))?;
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.one(&catalogue::PROCESS_OPEN_FDS, Value::Level(open.count() as i64))?;
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(limit) = limit(&limits, "Max open files") {
        page.one(&catalogue::PROCESS_MAX_FDS, Value::Level(limit))?;
    }
    if let Some(limit) = limit(&limits, "Max address space") {
        page.one(&catalogue::PROCESS_VIRTUAL_MAX, Value::Level(limit))?;
    }
    let network = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    for (name, spec) in [
        ("InOctets", &catalogue::PROCESS_RECEIVED),
        ("OutOctets", &catalogue::PROCESS_SENT),
    ] {
        if let Some(bytes) = network_bytes(&network, name) {
            page.one(spec, Value::Count(bytes))?;
        }
    }
    let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();
    if let Some(start) = start_time(&stat, &kernel) {
        page.one(&catalogue::PROCESS_START, Value::Ratio(start))?;
    }
    Ok(())
}

/// Field `n` of a stat line, counted from 1 as in proc(5). The second, the command, may itself hold spaces
/// and brackets, so counting starts after its last bracket.
fn stat_field(stat: &str, n: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(n.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str, kernel: &str) -> Option<f64> {
    let boot: f64 = kernel
        .lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn status_bytes(status: &str, key: &str) -> Option<i64> {
    let value = status.lines().find_map(|l| l.strip_prefix(key))?;
    let kib: i64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The soft limit called `name`; -1 where there is none, as the Go client says it.
fn limit(limits: &str, name: &str) -> Option<i64> {
    let row = limits.lines().find_map(|l| l.strip_prefix(name))?;
    match row.split_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

/// A column of the two `IpExt:` lines, names above values.
fn network_bytes(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|l| l.strip_prefix("IpExt:"));
    let at = lines.next()?.split_whitespace().position(|n| n == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 250 150 0 0 20 0 4 0 1000 9 9 9";

    #[test]
    fn the_command_of_a_process_may_hold_brackets() {
        assert_eq!(cpu_seconds(STAT), Some(4.0));
        assert_eq!(
            start_time(STAT, "cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_010.0)
        );
    }

    #[test]
    fn a_page_that_reads_otherwise_gives_nothing() {
        for bad in ["", "42", "42 (x)", "42 (x) S a b"] {
            assert_eq!(cpu_seconds(bad), None, "{bad:?}");
        }
        assert_eq!(status_bytes("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12 * 1024));
        assert_eq!(status_bytes("VmRSS:\t  12 MB\n", "VmRSS:"), None);
        let files = |text: &str| limit(text, "Max open files");
        assert_eq!(files("Max open files   1024   4096   files"), Some(1024));
        assert_eq!(files("Max open files   unlimited   unlimited   files"), Some(-1));
        assert_eq!(files("Max open files   many   many   files"), None);
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets\nIpExt: 3 4\n";
        assert_eq!(network_bytes(netstat, "InOctets"), Some(4));
        assert_eq!(network_bytes(netstat, "A"), None);
        assert_eq!(network_bytes("IpExt: InOctets\n", "InOctets"), None);
    }
}
