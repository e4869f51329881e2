//! What the kernel knows of this process, from `/proc`, in the names that every Prometheus client library uses.
//!
//! Where there is no `/proc`, or not in the form that we know, the value is left out.

use std::fs;

/// The kernel's clock ticks per second as user space sees them: 100 on every architecture that Rust's std runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_bytes: Option<u64>,
    /// How many there may be.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// When it was started, in seconds since 1970.
    pub start_seconds: Option<f64>,
}

impl Process {
    /// Reads `/proc`.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
            &text("/proc/stat"),
        )
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        // The second field is the program's name in brackets and may hold anything; the third follows the last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
        // proc(5) counts from 1 and our list begins with the third field.
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let kib = |name: &str| value_after(status, name).and_then(|value| value.checked_mul(1024));
        let boot = value_after(system, "btime").and_then(|value| u32::try_from(value).ok()).map(f64::from);
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: kib("VmRSS:"),
            virtual_bytes: kib("VmSize:"),
            max_fds: value_after(limits, "Max open files"),
            threads: value_after(status, "Threads:"),
            start_seconds: ticks(22).zip(boot).map(|(since, boot)| boot + since / TICKS_PER_SECOND),
        }
    }
}

/// The open file descriptors: costs a little for each of them.
#[must_use]
pub fn open_fds() -> Option<u64> {
    // The directory that we read is itself one open descriptor.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u64::try_from(count).ok()
}

/// The number after `name` at the beginning of a line.
fn value_after(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes_whatever_the_program_is_called() {
        let stat = "1234 (tide) gate 7) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 360000 1000 200";
        let status = "Name:\ttidegate\nVmSize:\t  2048 kB\nVmRSS:\t   512 kB\nThreads:\t4\n";
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024      524288     files\n";
        let found = Process::parse(stat, status, limits, "cpu 1 2 3\nbtime 1700000000\n");
        assert_eq!(found.cpu_seconds, Some(3.0));
        assert_eq!(found.resident_bytes, Some(512 * 1024));
        assert_eq!(found.virtual_bytes, Some(2 * 1024 * 1024));
        assert_eq!(found.max_fds, Some(1024));
        assert_eq!(found.threads, Some(4));
        assert_eq!(found.start_seconds, Some(1_700_003_600.0));
        assert_eq!(Process::parse("", "", "", ""), Process::default());
        assert_eq!(Process::parse("1 (x", "VmRSS: many kB", "Max open files unlimited", "btime"), Process::default());
    }

    #[test]
    fn this_process_can_be_read() {
        let found = Process::read();
        if cfg!(target_os = "linux") {
            assert!(found.resident_bytes.is_some_and(|bytes| bytes > 0));
            assert!(open_fds().is_some_and(|fds| fds > 0));
            assert!(found.start_seconds.is_some_and(|start| start > 1e9));
        }
    }
}
