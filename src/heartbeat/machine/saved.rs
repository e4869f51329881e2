//! What a voter must not forget, and how it stands in the journal.

use super::message::Known;
use super::message::Maintenance;
use super::message::Vote;
use super::names::Epoch;
use super::names::MEMBERS;
use super::names::NodeId;
use crate::zodb::Tid;

/// One record, replaced as a whole and synced before anybody hears of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Saved {
    /// The highest epoch it has heard of.
    pub seen: Epoch,
    /// Its last vote.
    pub vote: Option<Vote>,
    /// No vote in this epoch or a lower one.
    pub floor: Epoch,
    /// For each member, the highest epoch in which this voter gave it a vote or a lease, or may have.
    pub backed: [Epoch; MEMBERS],
    /// For each member, the epoch in which it last announced that its self-fence is armed; 0 when it announced that it is
    /// not.
    pub armed: [Epoch; MEMBERS],
    /// How long its last vote binds it, in microseconds; 0 once its candidate has said that it shoots no more.
    pub hold_us: u32,
    /// The longest that a lease that it gave, with a vote or without, may run.
    pub lease_us: u32,
    /// The last transaction of an active.
    pub known: Known,
    /// Whether the pair is in maintenance.
    pub maintenance: Maintenance,
    /// Whether an operator has put this member on standby.
    pub standby: bool,
    /// Who last had the role, as far as it has heard.
    pub holder: Option<Vote>,
    /// When the role last went from one member to the other, the newest first, in seconds since 1970; 0: none.
    pub takeovers: [u32; TAKEOVERS_KEPT],
}

/// How many takeovers are remembered: the highest bound that there can be on those of an hour.
pub const TAKEOVERS_KEPT: usize = 32;

impl Saved {
    /// The size of a record.
    pub const SIZE: usize = 97 + 4 * TAKEOVERS_KEPT;

    /// As the journal holds it; the checksum is the journal's.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let (vote, candidate) = self.vote.map_or((0, u8::MAX), |vote| (vote.epoch.0, vote.candidate.0));
        let numbers = [
            self.seen.0,
            vote,
            self.floor.0,
            self.backed[0].0,
            self.backed[1].0,
            self.armed[0].0,
            self.armed[1].0,
            self.known.epoch.0,
            self.known.tid.0,
        ];
        let mut bytes = [0; Self::SIZE];
        bytes[0] = VERSION;
        for (slot, number) in bytes[1..73].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_be_bytes());
        }
        bytes[73] = candidate;
        bytes[74..78].copy_from_slice(&self.hold_us.to_be_bytes());
        bytes[78..82].copy_from_slice(&self.maintenance.version.to_be_bytes());
        bytes[82] = u8::from(self.maintenance.on);
        bytes[83] = u8::from(self.standby);
        bytes[84] = self.holder.map_or(u8::MAX, |holder| holder.candidate.0);
        bytes[85..93].copy_from_slice(&self.holder.map_or(0, |holder| holder.epoch.0).to_be_bytes());
        bytes[93..97].copy_from_slice(&self.lease_us.to_be_bytes());
        for (slot, at) in bytes[97..].chunks_exact_mut(4).zip(self.takeovers) {
            slot.copy_from_slice(&at.to_be_bytes());
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote. `None`: it is not such a record, so the journal is lost.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let number = |place: usize| -> Option<u64> {
            let slot = bytes.get(1 + place * 8..9 + place * 8)?;
            Some(u64::from_be_bytes(slot.try_into().ok()?))
        };
        let short = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        let (vote, candidate) = (Epoch(number(1)?), NodeId(bytes[73]));
        let holder =
            Vote { epoch: Epoch(u64::from_be_bytes(bytes[85..93].try_into().ok()?)), candidate: NodeId(bytes[84]) };
        let whole = |vote: &Vote| vote.epoch.0 == 0 || vote.candidate.is_member();
        let good = bytes[0] == VERSION
            && [82, 83].iter().all(|place| bytes[*place] <= 1)
            && [Vote { epoch: vote, candidate }, holder].iter().all(whole);
        good.then_some(())?;
        Some(Self {
            seen: Epoch(number(0)?),
            vote: (vote.0 > 0).then_some(Vote { epoch: vote, candidate }),
            floor: Epoch(number(2)?),
            backed: [Epoch(number(3)?), Epoch(number(4)?)],
            armed: [Epoch(number(5)?), Epoch(number(6)?)],
            known: Known { epoch: Epoch(number(7)?), tid: Tid(number(8)?) },
            hold_us: short(74)?,
            lease_us: short(93)?,
            maintenance: Maintenance { version: short(78)?, on: bytes[82] == 1 },
            standby: bytes[83] == 1,
            holder: (holder.epoch.0 > 0).then_some(holder),
            takeovers: std::array::from_fn(|place| short(97 + 4 * place).unwrap_or(0)),
        })
    }
}

const VERSION: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_reads_back(numbers: [u64; 8], candidate in 0..2_u8, flags: [bool; 4], short: (u32, u32)) {
            let [seen, vote, floor, one, two, armed, epoch, tid] = numbers;
            let vote = Vote { epoch: Epoch(vote.max(1)), candidate: NodeId(candidate) };
            let saved = Saved {
                seen: Epoch(seen),
                vote: flags[0].then_some(vote),
                floor: Epoch(floor),
                backed: [Epoch(one), Epoch(two)],
                armed: [Epoch(armed), Epoch(one)],
                hold_us: short.0,
                lease_us: short.1,
                known: Known { epoch: Epoch(epoch), tid: Tid(tid) },
                maintenance: Maintenance { version: short.1, on: flags[1] },
                standby: flags[2],
                holder: flags[3].then_some(vote),
                takeovers: std::array::from_fn(|place| short.0.wrapping_mul(u32::try_from(place).unwrap_or(0))),
            };
            prop_assert_eq!(Saved::from_bytes(&saved.to_bytes()), Some(saved));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2 * Saved::SIZE)) {
            let _ = Saved::from_bytes(&bytes);
        }
    }
}
