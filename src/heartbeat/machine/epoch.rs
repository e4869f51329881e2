//! The voter's side: its one vote per epoch, the leases it has given, and what it must not forget.
//!
//! 1. No vote in an epoch up to `floor`: that of the last vote, of the last holder heard of, of what a lost journal may hold.
//! 2. Nothing is answered that is not on disk.
//! 3. After a vote for one member the other's lease in a lower epoch is renewed only if the first has said, later, that it
//!    does not ask any more; and so in the same epoch, when the other holds it.
//! 4. After a start, every lease that may have been given before is taken to run for its full time from then on, and so the last
//!    vote to bind, unless its candidate had said that it shoots no more. The two are apart, for a vote binds as long as its
//!    candidate may shoot: many times a lease.

use super::faults::Dropped;
use super::faults::Rule;
use super::io::Journal;
use super::lease::At;
use super::lease::with_drift;
use super::message::Ask;
use super::message::Denial;
use super::message::Verdict;
use super::message::Vote;
use super::names::Epoch;
use super::names::MEMBERS;
use super::names::NodeId;
use super::saved::Saved;

/// What a voter has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Register {
    /// What shall be on disk.
    pub(super) want: Saved,
    /// What is.
    pub(super) disk: Saved,
    /// The journal was lost, and the others have not told enough yet.
    pub(super) lost: bool,
    /// Whether each member has said that it uses no vote of this voter any more.
    abandoned: [bool; MEMBERS],
    /// Until when what this voter has given to each member may run.
    until: [At; MEMBERS],
    /// Until when each member may shoot on the strength of a vote of this voter.
    bound_until: [At; MEMBERS],
    /// The highest epoch that somebody has held.
    held: Epoch,
}

/// What a voter's verdict depends on, beside its promises.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Circumstances {
    /// It still hears the service of the other member.
    pub(super) service_heard: bool,
    /// It started, or stalled, too short ago.
    pub(super) just_started: bool,
    /// It has the role itself, or wants it more.
    pub(super) own_role: bool,
    /// The last save failed.
    pub(super) save_failed: bool,
    /// An operator stands behind the request.
    pub(super) ordered: bool,
}

impl Register {
    /// A voter that starts; `lease` is what a lease given before may take at most, as far as it knows itself.
    pub(super) fn new(journal: &Journal, now: At, lease: At, dropped: Dropped) -> Self {
        let (saved, lost) = match journal {
            Journal::Found(saved) => (*saved, false),
            Journal::Lost => (Saved::default(), !dropped.is(Rule::LostJournalAbstains)),
        };
        let ends = |longest| if dropped.is(Rule::RestartedVoterWaits) { now } else { now + with_drift(longest) };
        let mut bound_until = [now; MEMBERS];
        if let Some(vote) = saved.vote {
            bound_until[vote.candidate.at()] = ends(saved.hold_us.into());
        }
        Self {
            want: saved,
            disk: saved,
            lost,
            abandoned: [false; MEMBERS],
            until: [ends(lease.max(saved.lease_us.into())); MEMBERS],
            bound_until,
            held: Epoch(0),
        }
    }

    /// The epoch for a new attempt: above all that were heard of.
    pub(super) fn next(&self, dropped: Dropped) -> Epoch {
        let highest = self.want.seen.max(self.want.floor);
        if dropped.is(Rule::OneVotePerEpoch) { highest.max(Epoch(1)) } else { highest.next() }
    }

    /// Somebody spoke of an epoch.
    pub(super) fn hear(&mut self, epoch: Epoch) {
        self.want.seen = self.want.seen.max(epoch);
    }

    /// Somebody holds an epoch: nobody else gets a vote in it or below. Says whether it is not an old one.
    pub(super) fn hear_held(&mut self, epoch: Epoch) -> bool {
        self.hear(epoch);
        self.want.floor = self.want.floor.max(epoch);
        self.held = self.held.max(epoch);
        epoch >= self.held
    }

    /// A member said, after it had heard of `seen`, that it neither asks for the role nor has it.
    pub(super) fn hear_idle(&mut self, member: NodeId, seen: Epoch, now: At) {
        if seen >= self.want.floor {
            self.abandoned[member.at()] = true;
            self.unbind(member, now);
        }
    }

    /// A member shoots no more.
    pub(super) fn unbind(&mut self, member: NodeId, now: At) {
        let bound = &mut self.bound_until[member.at()];
        *bound = (*bound).min(now);
        if self.want.vote.is_some_and(|vote| vote.candidate == member) {
            self.want.hold_us = 0;
        }
    }

    /// Whether `member` would get this voter's vote.
    pub(super) fn judge(&self, member: NodeId, ask: Ask, at: Circumstances, now: At, dropped: Dropped) -> Verdict {
        let denied = Verdict::Denied;
        let again = Vote { epoch: ask.epoch, candidate: member };
        let bound = now < self.bound_until[member.peer().at()];
        let spent = ask.epoch <= self.want.floor && self.want.vote != Some(again);
        if self.want.maintenance.on && !at.ordered && !dropped.is(Rule::MaintenanceHolds) {
            denied(Denial::Maintenance)
        } else if self.lost {
            denied(Denial::JournalLost)
        } else if at.save_failed {
            denied(Denial::SaveFailed)
        } else if at.own_role {
            denied(Denial::OwnRole)
        } else if spent && !dropped.is(Rule::OneVotePerEpoch) {
            denied(Denial::OldEpoch)
        } else if bound && !dropped.is(Rule::OnePermit) && !dropped.is(Rule::OneVotePerEpoch) {
            denied(Denial::Bound)
        } else if at.just_started {
            denied(Denial::JustStarted)
        } else if at.service_heard && !dropped.is(Rule::Veto) {
            denied(Denial::ServiceHeard)
        } else if self.disk.vote == Some(again) || (dropped.is(Rule::SaveBeforeAnswer) && self.want.vote == Some(again))
        {
            Verdict::Granted
        } else {
            Verdict::Would
        }
    }

    /// Gives the vote that [`Self::judge`] would give, and with it a first lease. It counts when it is on disk.
    pub(super) fn vote(&mut self, member: NodeId, ask: Ask, armed: bool, lease: At, now: At, dropped: Dropped) {
        let hold = At::from(ask.hold_us).max(lease);
        self.hear(ask.epoch);
        self.want.floor = self.want.floor.max(ask.epoch);
        self.want.vote = Some(Vote { epoch: ask.epoch, candidate: member });
        self.abandoned[member.at()] = false;
        self.bound_until[member.at()] = now + with_drift(hold);
        self.want.hold_us = u32::try_from(hold).unwrap_or(u32::MAX);
        self.word(member, ask.epoch, armed, lease);
        self.extend(member, lease, now, dropped);
    }

    /// Renews the lease of a member that has the role. Whether the answer may be given is for [`Self::renewed`] to say.
    pub(super) fn renew(
        &mut self,
        member: NodeId,
        epoch: Epoch,
        armed: bool,
        lease: At,
        now: At,
        dropped: Dropped,
    ) -> bool {
        let other = member.peer();
        // Who holds an epoch had the votes of a majority in it. A vote for the other one came to nothing then, and does not
        // stand in the way of the lease once that one says that it does not ask any more.
        let elsewhere = self.want.vote.is_some_and(|vote| vote.epoch == epoch && vote.candidate != member)
            && !self.abandoned[other.at()];
        let current = epoch >= self.want.floor || self.abandoned[other.at()] || dropped.is(Rule::VoteEndsLease);
        let allowed = !self.lost && epoch >= self.held && current && !elsewhere;
        if allowed {
            self.word(member, epoch, armed, lease);
            self.extend(member, lease, now, dropped);
        }
        allowed
    }

    /// Whether all that a renewal rests on is on disk.
    pub(super) fn renewed(&self, member: NodeId, epoch: Epoch, armed: bool) -> bool {
        let word = if armed { epoch } else { Epoch(0) };
        self.disk.backed[member.at()] >= epoch && self.disk.armed[member.at()] == word
    }

    /// Whether somebody holds a higher epoch.
    pub(super) fn is_held_above(&self, epoch: Epoch) -> bool {
        self.held > epoch
    }

    /// How long what was given to a member may still run.
    pub(super) fn left(&self, member: NodeId, now: At) -> At {
        self.until[member.at()].saturating_sub(now)
    }

    /// A voter with a lost journal has heard from enough of the others: none of its forgotten votes can be above `seen`. A
    /// member may shoot on the strength of one for so long as `shoots` says.
    pub(super) fn recover(&mut self, seen: Epoch, shoots: [At; MEMBERS], now: At) {
        self.lost = false;
        self.bound_until = shoots.map(|longest| now + with_drift(longest));
        self.hear(seen);
        self.want.floor = self.want.floor.max(self.want.seen);
        self.want.backed = [self.want.seen; MEMBERS];
    }

    /// The same register as far as anything can follow from it, for the explorer: what is over is over, however long; `deaf`: a
    /// member that asks for nothing any more; `lasts`: it will not be started anew.
    #[cfg(test)]
    pub(super) fn canonical(mut self, now: At, deaf: [bool; MEMBERS], lasts: bool) -> Self {
        for member in [NodeId(0), NodeId(1)] {
            let (until, bound) = (&mut self.until[member.at()], &mut self.bound_until[member.at()]);
            (*until, *bound) = ((*until).max(now), (*bound).max(now));
            // Only the other one asks about it.
            if deaf[member.peer().at()] {
                (*until, *bound) = (now, now);
            }
        }
        if lasts {
            for saved in [&mut self.want, &mut self.disk] {
                (saved.hold_us, saved.lease_us) = (0, 0);
            }
        }
        self
    }

    fn word(&mut self, member: NodeId, epoch: Epoch, armed: bool, lease: At) {
        self.want.backed[member.at()] = self.want.backed[member.at()].max(epoch);
        self.want.armed[member.at()] = if armed { epoch } else { Epoch(0) };
        self.want.lease_us = self.want.lease_us.max(u32::try_from(lease).unwrap_or(u32::MAX));
    }

    fn extend(&mut self, member: NodeId, lease: At, now: At, dropped: Dropped) {
        let span = if dropped.is(Rule::VoterCountsLonger) { lease } else { with_drift(lease) };
        let until = &mut self.until[member.at()];
        *until = (*until).max(now + span);
    }
}
