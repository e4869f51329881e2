//! How much memory this process may take and does: the files of its control group (version 2 or 1) and `/proc`.
//!
//! Where there are none of them the question has no answer, and nothing is done about memory.

use std::fs;
use std::path::Path;

/// Version 1 says "no limit" with a number that is larger than any memory.
const NO_LIMIT: u64 = 1 << 60;

/// The memory that this process may take: the least limit of its control groups, or the machine's memory.
#[must_use]
pub fn limit() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib_after(&text, "MemTotal:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = limit_below(Path::new("/sys/fs/cgroup"), &groups);
    match (group, machine) {
        (Some(group), Some(machine)) => Some(group.min(machine)),
        (group, machine) => group.or(machine),
    }
}

/// The memory that this process takes: what is resident, and what the kernel holds for sockets where its group tells.
#[must_use]
pub fn used() -> Option<u64> {
    let resident = kib_after(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(resident + sockets_below(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(0))
}

/// The least limit of the groups that `groups` (as in /proc/self/cgroup) names, and of those that they are in.
fn limit_below(root: &Path, groups: &str) -> Option<u64> {
    let unified =
        groups.lines().find_map(|line| line.strip_prefix("0::")).map(|group| (root.to_owned(), group, "memory.max"));
    let memory = groups.lines().find_map(|line| line.split_once(":memory:"));
    let memory = memory.map(|(_, group)| (root.join("memory"), group, "memory.limit_in_bytes"));
    let limits = unified.into_iter().chain(memory).flat_map(|(root, group, file)| {
        // Within a container the group's own path may not be there; its root then is the group.
        let below = Path::new(group.trim_start_matches('/')).ancestors().map(move |group| root.join(group).join(file));
        below.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).collect::<Vec<_>>()
    });
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

/// What the kernel holds for the sockets of the group, by version 2. The root group tells of the whole machine, so not it.
fn sockets_below(root: &Path, groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    let root = root.join(group);
    // Only groups below the root have this file.
    root.join("memory.max").exists().then_some(())?;
    let text = fs::read_to_string(root.join("memory.stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("sock "))?.trim().parse().ok()
}

fn kib_after(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts_in_both_versions() {
        let dir = tempfile::TempDir::new().unwrap();
        let write = |file: &str, text: &str| {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("system.slice/memory.max", "4096\n");
        write("system.slice/tidegate.service/memory.max", "max\n");
        write("system.slice/tidegate.service/memory.stat", "anon 1\nsock 77\nshmem 3\n");
        write("memory/box/memory.limit_in_bytes", "8192\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        for (groups, expected) in [
            ("0::/system.slice/tidegate.service\n", Some(4096)),
            ("0::/elsewhere\n", None),
            ("3:cpu:/\n4:memory:/box/inner\n0::/\n", Some(8192)),
            ("4:memory:/\n", None),
            ("", None),
        ] {
            assert_eq!(limit_below(dir.path(), groups), expected, "{groups}");
        }
        assert_eq!(sockets_below(dir.path(), "0::/system.slice/tidegate.service\n"), Some(77));
        assert_eq!(sockets_below(dir.path(), "0::/\n"), None);
    }

    #[test]
    fn this_process_takes_something_and_may_take_more() {
        assert!(used().unwrap() > 100_000);
        assert!(limit().unwrap() > used().unwrap());
    }
}
