//! How many client connections the process has file descriptors for: each takes one, and origins, files and the admin socket
//! need theirs too.
//!
//! Without a descriptor nothing can be accepted, not even to be closed: the kernel's line fills up, and nobody hears anything.
//! So what is too much is accepted and closed while there are still some left.

use crate::telemetry::metrics::process;
use crate::telemetry::metrics::process::Process;
use rustix::process::Resource;
use rustix::process::Rlimit;
use std::sync::LazyLock;

/// Raises the limit of open files to what the system allows: the usual soft limit of 1,024 is for programs that use select(2).
pub fn raise() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where that is not allowed, what there is has to do.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The client connections for which there is room. Read once, at the first question: what is open then stays open.
#[must_use]
pub fn for_clients() -> usize {
    static ROOM: LazyLock<usize> = LazyLock::new(|| room(Process::read().max_fds, process::open_fds()));
    *ROOM
}

/// A quarter of what is left is for all but clients.
fn room(most: Option<u64>, open: Option<u64>) -> usize {
    let Some(most) = most else { return usize::MAX };
    let left = most.saturating_sub(open.unwrap_or(0));
    usize::try_from(left - left / 4).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_three_quarters_of_what_is_left() {
        for (most, open, expected) in [
            (Some(1024), Some(24), 750),
            (Some(64), Some(24), 30),
            (Some(10), Some(20), 1),
            (Some(u64::MAX), Some(20), usize::MAX - usize::MAX / 4 - 15),
            (None, Some(20), usize::MAX),
        ] {
            let found = room(most, open);
            assert!(found.abs_diff(expected) < 2, "{most:?} {open:?}: {found}");
        }
    }
}
