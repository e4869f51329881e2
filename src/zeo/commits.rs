//! Commits that do not end. Pure: time comes in.

use crate::zeo::probe::Storage;
use std::time::Duration;
use std::time::Instant;

/// The commits of one storage, as one observer sees them: a client that votes for a transaction and then hangs keeps all others
/// from writing, for ever, while everything else is well.
///
/// Time is the observer's own: the server's clock only tells one commit from another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commits {
    awaited: Option<(u64, Instant)>,
}

impl Commits {
    /// What was seen now; how long the others have been seen to wait for this commit.
    pub fn learn(&mut self, awaited: Option<u64>, now: Instant) -> Duration {
        let since = match (self.awaited, awaited) {
            (Some((before, since)), Some(commit)) if before == commit => since,
            _ => now,
        };
        self.awaited = awaited.map(|commit| (commit, since));
        now.saturating_duration_since(since)
    }
}

impl Storage {
    /// The commit that holds the lock while others wait for it, by the time at which it began, as the bits of what is told.
    #[must_use]
    pub fn awaited(&self) -> Option<u64> {
        self.lock_time.filter(|_| self.waiting > 0).map(f64::to_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_commit_that_keeps_others_waiting_all_the_time_is_stuck() {
        let start = Instant::now();
        let mut commits = Commits::default();
        let told = [(0, Some(7)), (5, Some(7)), (9, Some(8)), (12, None), (20, Some(8)), (21, Some(8)), (26, Some(8))];
        let seen: Vec<u64> = told
            .into_iter()
            .map(|(at, awaited)| commits.learn(awaited, start + Duration::from_secs(at)).as_secs())
            .collect();
        assert_eq!(seen, [0, 5, 0, 0, 0, 1, 6]);
    }

    #[test]
    fn a_commit_that_nobody_waits_for_may_take_its_time() {
        let told = |text: &str| serde_json::from_str::<Storage>(text).unwrap().awaited();
        assert_eq!(told(r#"{"waiting": 0, "lock_time": 1795426181.5}"#), None);
        assert_eq!(told(r#"{"waiting": 2, "lock_time": null}"#), None);
        assert_eq!(told(r#"{"waiting": 2, "lock_time": 1795426181.5}"#), Some(1_795_426_181.5_f64.to_bits()));
    }
}
