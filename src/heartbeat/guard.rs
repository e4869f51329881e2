//! A second process that kills the storage when this one cannot: it hangs, it was killed, it was stopped.
//!
//! The heartbeat's thread writes to a pipe: which process groups run, and up to when they may run. When that time is over without
//! another word, or when the pipe is closed, the guard sends SIGKILL to the groups that it knows. It does nothing else and waits
//! for nothing else, so it is there when everything else is not.
//!
//! The time is a moment of the machine's own clock and not a span, so a word that is read late gives nobody more of it; and all
//! that was said is read before anybody is killed, so a guard that a busy machine lets wait kills nobody who was fed.

use crate::clock;
use crate::heartbeat::command::kill_group;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::io::Errno;
use rustix::io::ioctl_fionbio;
use rustix::process::Signal;
use rustix::stdio::stdin;
use std::collections::BTreeSet;
use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// What the guard knows. Time is counted from the start of the machine ([`clock::since_boot`]).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Watch {
    groups: BTreeSet<u32>,
    until: Option<Duration>,
}

/// The pipe to a guard.
#[derive(Debug)]
pub struct Guard {
    pipe: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
}

impl Watch {
    /// Takes one line; what it does not know it ignores.
    pub fn take(&mut self, line: &str) {
        let Some((word, number)) = line.trim_end().split_once(' ') else { return };
        match (word, number.parse::<u64>(), number.parse::<u32>()) {
            ("group", _, Ok(group)) if self.groups.len() < GROUPS_MAX => drop(self.groups.insert(group)),
            ("gone", _, Ok(group)) => drop(self.groups.remove(&group)),
            ("feed", Ok(millis), _) => self.until = Some(Duration::from_millis(millis)),
            ("rest", ..) => self.until = None,
            _ => {}
        }
    }

    /// The groups to kill now.
    pub fn due(&mut self, now: Duration) -> BTreeSet<u32> {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            return std::mem::take(&mut self.groups);
        }
        BTreeSet::new()
    }

    /// How long nothing can be due.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(now))
    }
}

impl Guard {
    /// Starts `program` as a guard: this program, with the hidden verb `guard`.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(program: &Path) -> io::Result<Self> {
        // A group of its own, so that a signal to ours does not end it before it has done its work.
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.arg("guard").stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| io::Error::other("it has no input"))?;
        // A guard that does not read must not block the heartbeat.
        ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe: Mutex::new(Some(pipe)), child: Mutex::new(child) })
    }

    /// This group runs now.
    pub fn group(&self, group: u32) {
        self.say(&format!("group {group}\n"));
    }

    /// It has ended.
    pub fn gone(&self, group: u32) {
        self.say(&format!("gone {group}\n"));
    }

    /// The groups may run so long from now on. `false`: the guard does not hear.
    pub fn feed(&self, time: Duration) -> bool {
        self.say(&format!("feed {}\n", (clock::since_boot() + time).as_millis()))
    }

    /// The groups may run without end.
    pub fn rest(&self) -> bool {
        self.say("rest 0\n")
    }

    /// Whether it is there and reads.
    fn say(&self, line: &str) -> bool {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = pipe.as_mut() else { return false };
        // A line is far below PIPE_BUF: it is written whole or not at all.
        if open.write_all(line.as_bytes()).is_ok() {
            return true;
        }
        *pipe = None;
        false
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        // It ends when its input does.
        let _ = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// Guards, until its input ends; the body of the hidden verb.
///
/// # Errors
/// What the system said.
pub fn run() -> io::Result<()> {
    let mut watch = Watch::default();
    let mut pending = String::new();
    let mut buffer = [0; 4096];
    loop {
        let left = watch.left(clock::since_boot()).and_then(|left| Timespec::try_from(left).ok());
        let (mut heard, mut ended) = (is_heard(left.as_ref())?, false);
        while heard {
            let length = rustix::io::read(stdin(), &mut buffer)?;
            if length == 0 {
                // Whoever fed has gone.
                ended = true;
                watch.until = Some(Duration::ZERO);
                break;
            }
            pending.push_str(&String::from_utf8_lossy(&buffer[..length]));
            while let Some((line, rest)) = pending.split_once('\n') {
                watch.take(line);
                pending = rest.to_owned();
            }
            pending.truncate(LINE_MAX);
            heard = is_heard(Some(&Timespec::default()))?;
        }
        for group in watch.due(clock::since_boot()) {
            kill_group(group, Signal::KILL);
        }
        if ended {
            return Ok(());
        }
    }
}

/// Whether there is something to read, or the input has ended, within that time.
fn is_heard(within: Option<&Timespec>) -> io::Result<bool> {
    match poll(&mut [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)], within) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

const GROUPS_MAX: usize = 256;
const LINE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn groups_are_killed_when_their_time_is_over_and_only_those_that_run() {
        let mut watch = Watch::default();
        for line in ["group 7", "group 8", "gone 7", "feed 10500", "nonsense", "feed x", ""] {
            watch.take(line);
        }
        assert_eq!((watch.left(at(10_100)), watch.due(at(10_499))), (Some(at(400)), BTreeSet::new()));
        watch.take("feed 10900");
        assert!(watch.due(at(10_899)).is_empty());
        assert_eq!(watch.due(at(10_900)), BTreeSet::from([8]));
        assert!(watch.due(at(15_000)).is_empty(), "once");
    }

    #[test]
    fn what_is_read_late_gives_no_more_time_and_takes_none() {
        let mut watch = Watch::default();
        for line in ["group 8", "feed 1000", "feed 2000"] {
            watch.take(line);
        }
        assert!(watch.due(at(1_999)).is_empty(), "it was fed, and the guard had to wait");
        assert_eq!(watch.due(at(2_000)), BTreeSet::from([8]));
    }

    #[test]
    fn without_a_limit_nothing_is_killed() {
        let mut watch = Watch::default();
        watch.take("group 8");
        assert_eq!(watch.left(at(0)), None);
        watch.take("feed 10");
        watch.take("rest 0");
        assert!(watch.due(at(100_000)).is_empty());
    }
}
