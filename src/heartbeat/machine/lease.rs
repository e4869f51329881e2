//! Leases: the right to be active, which ends by itself.
//!
//! The holder counts from before it sent what a voter answered; a voter counts a hundredth longer, from when it received it.
//! So whatever the clocks of both do within that hundredth, the holder's count ends first, and no clock need be right.

use super::names::NodeId;
use super::names::VOTERS_MAX;

/// Microseconds since the machine's start, by a clock that also runs while the machine is suspended (`CLOCK_BOOTTIME`).
pub(super) type At = u64;

/// What a sequence number may be ahead of the clock: rounds sent within one microsecond are numbered apart.
const SEQUENCE_SLACK: At = 100;

/// A span as another clock may count it: a hundredth longer.
pub(super) fn with_drift(span: At) -> At {
    span.saturating_add(span / 100).saturating_add(1)
}

/// The newest of the holder's beats that each voter has answered with a grant, by their send time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grants {
    sent: [Option<At>; VOTERS_MAX],
}

impl Grants {
    pub(super) fn none() -> Self {
        Self { sent: [None; VOTERS_MAX] }
    }

    /// A voter granted the beat that was sent then.
    pub(super) fn add(&mut self, voter: NodeId, sent: At) {
        if let Some(slot) = self.sent.get_mut(voter.at()) {
            *slot = Some(slot.map_or(sent, |before| before.max(sent)));
        }
    }

    /// A voter's grants count no more.
    pub(super) fn forget(&mut self, voter: NodeId) {
        if let Some(slot) = self.sent.get_mut(voter.at()) {
            *slot = None;
        }
    }

    /// Takes out what one voter granted: for the explorer, to whom witnesses are alike.
    #[cfg(test)]
    pub(super) fn take_out(&mut self, voter: NodeId) -> Option<At> {
        self.sent.get_mut(voter.at()).and_then(Option::take)
    }

    pub(super) fn has(&self, voter: NodeId) -> bool {
        self.sent.get(voter.at()).copied().flatten().is_some()
    }

    /// Up to when a majority has granted: the send time of the oldest beat among the newest `quorum` grants.
    pub(super) fn at_majority(&self, quorum: usize) -> Option<At> {
        let mut sent = self.sent.map(|sent| sent.map_or(0, |at| at.saturating_add(1)));
        sent.sort_unstable_by(|one, other| other.cmp(one));
        sent.get(quorum.checked_sub(1)?)?.checked_sub(1)
    }

    /// When what a majority granted for `span` ends.
    pub(super) fn end(&self, quorum: usize, span: At) -> Option<At> {
        self.at_majority(quorum).map(|sent| (sent + span).saturating_sub(SEQUENCE_SLACK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(sent: &[(u8, At)]) -> Grants {
        let mut grants = Grants::none();
        for (voter, at) in sent {
            grants.add(NodeId(*voter), *at);
        }
        grants
    }

    #[test]
    fn a_lease_is_as_old_as_the_oldest_grant_that_its_majority_needs() {
        for (sent, quorum, expected) in [
            (&[(0, 900)][..], 2, None),
            (&[(0, 900), (2, 500)], 2, Some(500)),
            (&[(0, 900), (1, 100), (2, 500)], 2, Some(500)),
            (&[(0, 900), (1, 100), (2, 500), (2, 400)], 2, Some(500)),
            (&[(0, 9), (1, 8), (2, 7), (3, 6), (4, 5)], 3, Some(7)),
            (&[(0, 0)], 1, Some(0)),
        ] {
            assert_eq!(grants(sent).at_majority(quorum), expected, "{sent:?}");
        }
    }

    #[test]
    fn the_holder_ends_before_the_voter_whatever_their_clocks_do_within_a_hundredth() {
        let lease = 500_000;
        for drift in [-49, -10, 0, 10, 49] {
            let (sent, received) = (1_000_000, 1_000_000);
            let holder_ends = grants(&[(0, sent), (1, sent)]).end(2, lease).expect("granted");
            // The holder's clock is slower by `drift` in ten thousand than the voter's.
            let in_voters_time = sent + (holder_ends - sent) * (10_000 + i64::unsigned_abs(drift)) / 10_000;
            assert!(in_voters_time <= received + with_drift(lease), "drift {drift}");
        }
    }
}
