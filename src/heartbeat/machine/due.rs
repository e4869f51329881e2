//! Which transaction a copy must have by now. Where somebody writes, the news of a transaction is always a little ahead of the
//! look at the copy: while the other member serves, a copy that lacks only what was heard of a moment ago lacks nothing.
//!
//! This is for the question whether a member would be fit, while the other one serves. Once nobody does, and when there is a
//! proof, it must have everything.

use super::lease::At;
use crate::zodb::Tid;

/// What was known a while ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Due {
    /// Known for a [`WHILE`] at least.
    old: Tid,
    new: Tid,
    /// When `new` was noted.
    since: At,
}

impl Due {
    /// This is known, and time passes.
    pub(super) fn watch(&mut self, known: Tid, now: At) {
        if now >= self.since + WHILE {
            *self = Self { old: self.new, new: known, since: now };
        }
    }

    /// What a copy must have.
    pub(super) fn tid(&self) -> Tid {
        self.old
    }
}

/// Copies are looked at ten times a second, and told of once per heartbeat.
const WHILE: At = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_due_when_it_has_been_known_for_a_second_and_at_the_latest_after_two() {
        let mut due = Due::default();
        // One transaction in ten milliseconds, and a turn with each.
        for tid in 100..1_000 {
            due.watch(Tid(tid), tid * 10_000);
            let age = tid - due.tid().0.max(100);
            assert!(due.tid() == Tid(0) || (100..=200).contains(&age), "at {tid} it is {age} old");
        }
        for turn in 0..=200 {
            due.watch(Tid(1_000), (1_000 + turn) * 10_000);
        }
        assert_eq!(due.tid(), Tid(1_000));
    }
}
