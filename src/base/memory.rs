//! How much memory this process may use: the limit of its control group, else what the machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// The limit in bytes: the smallest one of the control groups (version 2 or 1) this process is in and of the machine's
/// memory. `None` where nothing tells.
pub fn limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// [`limit`] by the files below `root`.
fn limit_below(root: &Path) -> Option<u64> {
    let group = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = group.lines().flat_map(|line| limits_of(root, line));
    limits.chain(machine(root)).min()
}

/// The limits along the path of one line of `/proc/self/cgroup`: `number:controllers:path`.
fn limits_of(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|c| c == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    // Inside a container the path may be that of the host, of which only the root is mounted.
    let mount = root.join(mount);
    let mut folder: PathBuf = mount.join(path.trim_start_matches('/'));
    let mut limits = Vec::new();
    while folder.starts_with(&mount) {
        let written = fs::read_to_string(folder.join(file)).ok();
        // `max` is no number: no limit.
        limits.extend(written.and_then(|text| text.trim().parse::<u64>().ok()));
        if !folder.pop() {
            break;
        }
    }
    limits
}

fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        limit_below(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:        8 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let v2 = ("proc/self/cgroup", "0::/pods/one\n");
        let rows: [(&[(&str, &str)], Option<u64>); 7] = [
            (&[], None),
            (&[MACHINE], Some(8192)),
            (
                &[MACHINE, v2, ("sys/fs/cgroup/pods/one/memory.max", "max\n")],
                Some(8192),
            ),
            (
                &[MACHINE, v2, ("sys/fs/cgroup/pods/one/memory.max", "1000\n")],
                Some(1000),
            ),
            (
                &[
                    MACHINE,
                    v2,
                    ("sys/fs/cgroup/pods/one/memory.max", "1000\n"),
                    ("sys/fs/cgroup/pods/memory.max", "900\n"),
                ],
                Some(900),
            ),
            // In a container: the path is the host's, the root is ours.
            (&[MACHINE, v2, ("sys/fs/cgroup/memory.max", "700\n")], Some(700)),
            (
                &[
                    MACHINE,
                    ("proc/self/cgroup", "5:cpu,memory:/a\n4:pids:/b\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "600\n"),
                ],
                Some(600),
            ),
        ];
        for (files, expected) in rows {
            assert_eq!(machine_with(files), expected, "{files:?}");
        }
    }

    #[test]
    fn this_machine_tells() {
        assert!(limit().is_some_and(|l| l > 1 << 20));
    }
}
