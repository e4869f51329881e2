//! What the machine hears of the world, and what it wants from it: values, nothing else.

use super::claim::ProofKind;
use super::claim::TakeoverProof;
use super::message::Beat;
use super::message::Denial;
use super::message::Service;
use super::message::Standing;
use super::message::Vote;
use super::names::Epoch;
use super::names::LinkId;
use super::names::NodeId;
use super::saved::Saved;
use crate::zodb::Tid;
use std::time::Duration;

/// What was found where the journal should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it is looked at once, at the start")]
pub enum Journal {
    /// The last record, whole.
    Found(Saved),
    /// Nothing, or something torn. A vote may be forgotten: this voter gives none before it has heard what a majority of the
    /// others know. A pair that is new begins this way, so all of three voters must be there once.
    Lost,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A heartbeat arrived, decoded, on this link.
    Heard {
        /// The link of the receiver on which it came; must be that which the beat names.
        link: LinkId,
        /// What it said.
        beat: Beat,
    },
    /// A [`Action::SaveEpoch`] is on disk, or could not be written.
    EpochSaved {
        /// Which.
        ticket: u64,
        /// Whether it is synced.
        result: Result<(), Failure>,
    },
    /// A [`Action::Fence`] came to an end.
    FenceDone {
        /// For which epoch.
        epoch: Epoch,
        /// Which attempt.
        attempt: u32,
        /// How it ended.
        outcome: Fenced,
    },
    /// A [`Action::RaiseAddress`] or [`Action::DropAddress`] is done.
    AddressDone {
        /// Of which epoch.
        epoch: Epoch,
        /// Whether it was to be raised.
        raised: bool,
        /// Whether it is so now.
        result: Result<(), Failure>,
    },
    /// A [`Action::StartResources`], [`Action::StopResources`] or [`Action::SelfFence`] is done.
    ResourceDone {
        /// Of which epoch.
        epoch: Epoch,
        /// Whether they were to be started.
        started: bool,
        /// Whether they are so now. A stop is only good when nothing of them runs any more.
        result: Result<(), Failure>,
    },
    /// A supervised resource ended by itself.
    ResourceExited,
    /// A storage was asked, end to end.
    Probe {
        /// Which member's.
        target: NodeId,
        /// Whether it answered as it should, in time.
        good: bool,
    },
    /// The last transaction of the local copy is now this.
    Copy(Tid),
    /// A [`Action::VerifyCopy`] is done.
    Verified {
        /// For which epoch.
        epoch: Epoch,
        /// Whether the copy is sound, and its last transaction.
        result: Result<Tid, Failure>,
    },
    /// The self-fence works now, or does not: the watchdog is open where it is required, the kill path is there.
    SelfFenceArmed(bool),
    /// Somebody else announced our service address.
    AddressConflict,
    /// An operator wants something.
    Operator(Order),
}

/// Why something that the shell did for the machine failed, for the diary and the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure(pub String);

/// How a fence attempt ended. The machine, not the device, judges whether that is a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fenced {
    /// Whether the agent's `off` ended with success.
    pub off: bool,
    /// What its `status` said afterwards.
    pub status: Power,
}

/// What a fence device says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Power {
    /// It is off.
    Off,
    /// It is on.
    On,
    /// The device does not answer, or knows not.
    Unknown,
}

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Give the role to the other member, if that is ready.
    Switchover,
    /// This program ends: if it has the role, it gives it up, whoever is ready.
    Shutdown,
    /// This member shall not have the role until `Online`; if it has it, it gives it up.
    Standby,
    /// Takes `Standby` back.
    Online,
    /// Nothing is done by itself in the whole pair, or again as usual.
    Maintenance(bool),
    /// This member shall take the role; the operator declares that the other one is off.
    ForceTakeover,
    /// A voter whose journal was lost shall vote: the operator declares that the pair is new, or that its disk is well
    /// known to hold no vote.
    TrustJournal,
}

/// One thing that the machine wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a heartbeat on that link.
    Send {
        /// To whom.
        to: NodeId,
        /// On which link.
        link: LinkId,
        /// What.
        beat: Beat,
    },
    /// Replace the journal, sync it, and report with [`Input::EpochSaved`]. Saves are done in order.
    SaveEpoch {
        /// To be given back.
        ticket: u64,
        /// What.
        saved: Saved,
    },
    /// Switch a node off by the devices of that level, ask for its status, and report with [`Input::FenceDone`] within
    /// `fence_timeout`; whatever was not done by then must never be done.
    Fence {
        /// To be given back.
        epoch: Epoch,
        /// To be given back.
        attempt: u32,
        /// Whom.
        target: NodeId,
        /// From 0.
        level: u8,
    },
    /// Bring the service address up and announce it; report with [`Input::AddressDone`].
    RaiseAddress(Epoch, TakeoverProof),
    /// Take it down; report with [`Input::AddressDone`].
    DropAddress(Epoch),
    /// Announce the address again, at once.
    AnnounceAddress(Epoch),
    /// Start the resources in order; report with [`Input::ResourceDone`].
    StartResources(Epoch, TakeoverProof),
    /// Stop them in reverse order, killing what does not stop; report with [`Input::ResourceDone`].
    StopResources(Epoch),
    /// Stop acknowledging now: drop the address, reset clients, kill the resources, all at once; report with
    /// [`Input::ResourceDone`] (`started: false`). If that cannot be done within `margin`, stop feeding the watchdog.
    SelfFence(Epoch, SelfFenceWhy),
    /// Check the local copy and report with [`Input::Verified`].
    VerifyCopy(Epoch),
    /// Feed the watchdog: the role's lease was renewed, or there is no role.
    FeedWatchdog,
    /// Tell the edges.
    Publish(PairView),
    /// A takeover has come to its end, well or not.
    Report(TakeoverReport),
    /// Something for the operator's diary, and for the counters.
    Note(Note),
}

/// Why an active stops itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SelfFenceWhy {
    /// Its lease ended without a renewal.
    Lease,
    /// Somebody holds a higher epoch.
    HigherEpoch,
    /// It could not stop its resources in time.
    StopFailed,
}

/// What edges need to know, and act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairView {
    /// The highest epoch in which somebody had the role.
    pub epoch: Epoch,
    /// Who serves in it, or is about to, or last did.
    pub active: Option<NodeId>,
    /// What to do about it.
    pub phase: Phase,
}

/// What edges do about the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nobody has served since this voter began to listen: hold.
    Starting,
    /// The active serves: nothing to do.
    Steady,
    /// The active is late or sick: hold new work that needs the storage.
    Suspect,
    /// Another active is being made: hold.
    TakingOver,
    /// A new active serves, since a moment: switch to its set.
    Serving,
    /// There is no active and none will come by itself: alarm; serve what is stored.
    Refused(Refusal),
}

/// Why a member that should take over does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It does not hear a majority of the voters.
    NoMajority,
    /// A voter still hears the service of the active.
    Vetoed,
    /// A voter denies its vote for another reason.
    Denied,
    /// No device could fence the other member, and its lease says nothing because it never announced an armed self-fence.
    NoProof,
    /// The copy lacks transactions that the active had.
    Behind,
    /// The copy did not pass its check.
    CopyBad,
    /// Too many takeovers within an hour.
    TooMany,
    /// The pair is in maintenance.
    Maintenance,
    /// The self-fence is required and not armed.
    NotArmed,
    /// This member's journal was lost, and the others have not told it enough yet.
    JournalLost,
    /// An operator has put this member on standby.
    Standby,
    /// The service did not come up here.
    StartFailed,
    /// The journal cannot be written.
    SaveFailed,
    /// Takeovers are only observed here.
    Observing,
    /// This member has just started, and makes sure that its service is down.
    Booting,
    /// The service of this member does not stop.
    StopFailed,
    /// This member gave the role up a moment ago and leaves it to the other.
    Yields,
    /// An order is for the member that serves, and this one does not.
    NotActive,
    /// An order is for a member, and this is a witness.
    NotMember,
    /// This member has the role.
    HasRole,
    /// The other member has the role, and is heard: it is not off.
    PeerServes,
    /// The other member is not heard.
    PeerSilent,
    /// There is no copy of the data here that can be read.
    NoCopy,
}

/// A refusal, with whose it is and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Who refuses.
    pub by: NodeId,
    /// Why.
    pub refusal: Refusal,
    /// What it follows from, in sentences: which transactions, which voters, for how long.
    pub facts: Vec<String>,
}

/// What the diary and the counters hear.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A voter is late on a link, and was last heard so long ago.
    Late(NodeId, LinkId, Duration),
    /// A voter is silent on all links.
    Dead(NodeId),
    /// A voter is heard again.
    Back(NodeId),
    /// A link carries only one way: we hear it, it does not hear us.
    OneWay(NodeId, LinkId),
    /// The own loop was late by that much: verdicts of silence begin anew.
    Stalled(Duration),
    /// This voter gave its vote.
    Voted(Vote),
    /// This voter denied its vote.
    Denied(NodeId, Epoch, Denial),
    /// What the voter does changed.
    Role(Standing, Standing),
    /// A proof was found.
    Proven(Epoch, ProofKind),
    /// A fence attempt ended.
    FenceEnded(NodeId, Fenced),
    /// Would have shot, if it were allowed to act.
    WouldFence(NodeId),
    /// Would have taken over, if it were allowed to act.
    WouldTakeOver(Epoch),
    /// Would have stopped itself, if it were allowed to act.
    WouldSelfFence(Epoch),
    /// It refuses, or refuses for another reason now.
    Refused(Refused),
    /// It refuses no more.
    RefusesNoMore,
    /// An operator ordered something; kept for the audit.
    Ordered(Order),
    /// An order was not followed.
    OrderRefused(Order, Refused),
    /// A sick service is restarted here.
    Restart(u32),
    /// A service looks this way from here now.
    ServiceIs(NodeId, Service),
    /// Two members claim the role, or the address.
    SplitBrain(NodeId),
    /// Something that the shell was asked for failed.
    Failed(&'static str, Failure),
}

/// How a takeover went, from the first suspicion; times since that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeoverReport {
    /// Which.
    pub epoch: Epoch,
    /// By whom.
    pub by: NodeId,
    /// On what proof; none if it did not come to that.
    pub proof: Option<ProofKind>,
    /// Since the active was last heard.
    pub silent: Duration,
    /// When votes were asked for.
    pub asked: Option<Duration>,
    /// When a majority had given them.
    pub voted: Option<Duration>,
    /// When the proof was there.
    pub proven: Option<Duration>,
    /// When the epoch was on disk.
    pub saved: Option<Duration>,
    /// When the address was up.
    pub address: Option<Duration>,
    /// When the resources were started.
    pub started: Option<Duration>,
    /// When the storage answered.
    pub serving: Option<Duration>,
}

impl Refusal {
    /// All of them; the place is the code in a beat, less one.
    pub const ALL: [Self; 23] = [
        Self::NoMajority,
        Self::Vetoed,
        Self::Denied,
        Self::NoProof,
        Self::Behind,
        Self::CopyBad,
        Self::TooMany,
        Self::Maintenance,
        Self::NotArmed,
        Self::JournalLost,
        Self::Standby,
        Self::StartFailed,
        Self::SaveFailed,
        Self::Observing,
        Self::Booting,
        Self::StopFailed,
        Self::Yields,
        Self::NotActive,
        Self::NotMember,
        Self::HasRole,
        Self::PeerServes,
        Self::PeerSilent,
        Self::NoCopy,
    ];

    /// As a beat carries it: never 0.
    #[must_use]
    pub fn code(self) -> u8 {
        let place = Self::ALL.iter().position(|refusal| *refusal == self).unwrap_or_default();
        u8::try_from(place + 1).unwrap_or(u8::MAX)
    }

    /// What a beat carried.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// One word, for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.texts().0
    }

    /// Why, in a sentence.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.texts().1
    }

    /// What would help.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        self.texts().2
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::NoMajority => (
                "no_majority",
                "fewer voters are heard than a majority of the configured ones",
                "bring a witness or a link back; if the other member is surely off: `tidegate pair takeover --force`",
            ),
            Self::Vetoed => (
                "vetoed",
                "another voter still gets answers from the active's storage",
                "mend the links between the two members; nothing is lost meanwhile",
            ),
            Self::Denied => (
                "denied",
                "a voter denies its vote",
                "wait until that voter has been up for `dead`, or look at its diary",
            ),
            Self::NoProof => (
                "no_proof",
                "nothing proves that the other member has stopped",
                "mend the fence device, or make sure that the other member is off and run `tidegate pair takeover --force`",
            ),
            Self::Behind => (
                "behind",
                "the copy here lacks transactions that the active had acknowledged",
                "bring the other member back, or let replication catch up; `max_lag` says how much may be lost, and \
                 `tidegate pair takeover --force` gives up what is missing",
            ),
            Self::NoCopy => (
                "no_copy",
                "there is no copy of the data here that can be read",
                "put one where `data` says, and see the diary for what is wrong with it; for a new site start the storage there once \
                 by hand",
            ),
            Self::CopyBad => (
                "copy_bad",
                "the copy here did not pass its check",
                "run `tidegate verify` on it, replicate anew, then `tidegate pair online`",
            ),
            Self::TooMany => (
                "too_many",
                "there were too many takeovers within the last hour",
                "find out why both members fail; then `tidegate pair online` lets it begin anew, or wait",
            ),
            Self::Maintenance => (
                "maintenance",
                "the pair is in maintenance: nothing is done by itself",
                "`tidegate pair maintenance off`",
            ),
            Self::NotArmed => (
                "not_armed",
                "the self-fence is required and not armed",
                "load the watchdog's driver (`modprobe softdog`), or set `watchdog` to \"observe\", and restart tidegate",
            ),
            Self::JournalLost => (
                "journal_lost",
                "the journal was missing or torn, so a vote may be forgotten",
                "bring the other voters up once, so that they can tell; or `tidegate pair trust-journal` if this pair is new",
            ),
            Self::Standby => ("standby", "an operator has put this member on standby", "`tidegate pair online`"),
            Self::StartFailed => (
                "start_failed",
                "the service did not come up here",
                "look at the resources' output; then `tidegate pair online`",
            ),
            Self::SaveFailed => (
                "save_failed",
                "the journal cannot be written",
                "look at the disk of `state_dir`: full, read-only, failing?",
            ),
            Self::Observing => ("observing", "takeovers are only observed here", "set `takeover` to \"act\""),
            Self::Booting => (
                "booting",
                "this member has just started, and makes sure that its service is down",
                "wait until `tidegate pair status` there says standby",
            ),
            Self::StopFailed => (
                "stop_failed",
                "the service of this member does not stop",
                "look at its resources' output; end them by hand, or restart that machine",
            ),
            Self::Yields => (
                "yields",
                "this member gave the role up a moment ago, and leaves it to the other",
                "wait (`yield_wait`), or `tidegate pair online` there",
            ),
            Self::NotActive => (
                "not_active",
                "this member does not serve, so it has no role to give",
                "order it on the active member: `tidegate pair status` names it",
            ),
            Self::NotMember => {
                ("not_member", "this is a witness: it has no storage", "order it on one of the two members")
            }
            Self::HasRole => (
                "has_role",
                "this member has the role already, or is taking or giving it up",
                "nothing; `tidegate pair status` shows it",
            ),
            Self::PeerServes => (
                "peer_serves",
                "the other member has the role and is heard here, so it is not off",
                "`tidegate pair switchover` there; or switch it off first",
            ),
            Self::PeerSilent => (
                "peer_silent",
                "the other member is not heard here",
                "start it, or mend the links between the two: `tidegate pair status` shows them",
            ),
        }
    }
}
