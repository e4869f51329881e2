//! The pair's decision machine: pure, without IO, clock or chance. One machine runs on each voter, member or witness.
//!
//! It is given what happened ([`Input`]) and when, and adds what it wants ([`Action`]) to a list; completions come back as
//! inputs and carry the epoch they belong to. It knows nothing of sockets, files, processes or HTTP. What fails outside comes
//! back as a failed completion, and it finds another way, or refuses and says why ([`Refusal`]).
//!
//! ```text
//!              down                  majority would vote,      majority voted (on disk)
//!   Booting --------> Standby -----> Bidding: own vote saved --> ... and proof, copy good
//!      |                ^  ^   desire   |  abandons                        |
//!      | cannot stop    |  '------------'  (peer heard, outvoted,          v
//!      v                |                   fruitless, unfit)   Taking: address -> start -> probe
//!  StopFailed --fenced  |                                          |              ^      |
//!      ^      or stops--+                                 fails    |     restart  |      | answers
//!      |                |                                          v              |      v
//!      '---------- Stopping <----- lease lost (killed), switchover, sick --------- Active
//! ```
//!
//! A witness has no such state: it votes, renews, observes, tells.
//!
//! What makes a [`TakeoverProof`], when the votes of a majority are there and fresh:
//!
//! - *release*: the other member has said, itself or through a voter, up to which epoch it has stopped for good;
//! - *fence*: a shot ended with success and the device then said `off`; only the holder of a majority's votes may shoot, and
//!   only if the shot ends before any of these votes can be followed by another;
//! - *lease*: what a majority gave the other member has run out, and whoever backed it had heard in that epoch that its
//!   self-fence is armed; runs in parallel with the fence, the first wins;
//! - *vacancy*: no voter of a majority has ever backed the other member (the first start of a pair);
//! - *operator*: an audited order. Without a majority it is refused only while a voter still hears the service; until a
//!   majority has heard of it, the operator's word is all there is.
//!
//! Invariants, asserted in the simulator after every event (`tests/heartbeat.rs`), each with a planted fault that it catches:
//!
//! 1. At any moment at most one member may acknowledge ([`Machine::may_acknowledge`]). A storage that does not ask is
//!    stopped by its kill within `margin`; if its host as a whole is frozen past its lease, only a watchdog stops it in time.
//! 2. An epoch has one holder, and epochs grow, whatever crashes: a voter votes once per epoch, and says nothing that is not
//!    on its disk. A lost journal gives no vote before so many others have told that no forgotten vote can matter.
//! 3. No takeover without a proof. No proof without a majority of the configured voters.
//! 4. A voter that still hears the active's service denies its vote: a cut between the members alone changes nothing.
//! 5. The holder's count of its lease ends before any voter's: it counts from before sending, they a hundredth longer from
//!    receipt, and after a start from then. After a vote the other's lease is renewed only when the candidate has said that
//!    it gave up.
//! 6. Never do both members shoot at one time; nobody shoots without a majority (without a witness: without having seen the
//!    other one serve, and who serves does not shoot).
//! 7. Nobody is promoted whose copy lacks a transaction that it or a voter of its majority has heard an active announce.
//! 8. Pauses up to half of `dead` and a loss of 20 % cause no takeover. After a stall of its own a voter trusts no silence.
//! 9. A member starts as standby and makes sure that its resources are down. Failback is never automatic.
//! 10. A stop that fails is not a stop: the member asks to be fenced.
//! 11. Who should take over and does not refuses aloud: a reason, a remedy, [`Phase::Refused`].
//! 12. After the last fault there is one active again, if a majority and a good copy live.
//! 13. An order is followed, or it is refused with a reason; none does harm later than it was given. A switchover ends with
//!     the other member active, or with the old one again and a reason.
//! 14. In maintenance nothing is taken and nothing is stopped, whatever fails; the lease does not bind then.
//! 15. Who is on standby, or only observes, does not take the role, after a restart neither.
//! 16. What [`Machine::forecast`] says for a loss comes of it, if nothing else happens.
//!
//! The heartbeat itself is request and renewal: every beat repeats the sender's whole public state, its number is the time
//! at which it was sent, and what is echoed or answered of it is thereby a time of the sender's own clock.

pub mod claim;
mod due;
mod epoch;
#[cfg(test)]
mod explore;
#[doc(hidden)]
pub mod faults;
pub mod io;
mod lease;
mod member;
mod membership;
pub mod message;
pub mod names;
pub mod saved;
mod service;
pub mod settings;
mod standby;
pub mod status;
mod voter;

pub use claim::Ground;
pub use claim::ProofKind;
pub use claim::TakeoverProof;
pub use io::Action;
pub use io::Failure;
pub use io::Fenced;
pub use io::Input;
pub use io::Journal;
pub use io::Note;
pub use io::Order;
pub use io::PairView;
pub use io::Phase;
pub use io::Power;
pub use io::Refusal;
pub use io::Refused;
pub use io::SelfFenceWhy;
pub use io::TakeoverReport;
pub use message::Beat;
pub use message::Service;
pub use message::Standing;
pub use message::Vote;
pub use names::BootId;
pub use names::ClusterName;
pub use names::Epoch;
pub use names::LinkId;
pub use names::NodeId;
pub use names::NodeName;
pub use names::Roster;
pub use saved::Saved;
pub use saved::TAKEOVERS_KEPT;
pub use settings::Mode;
pub use settings::Settings;
pub use status::Forecast;
pub use status::LinkStatus;
pub use status::Loss;
pub use status::Outcome;
pub use status::PairStatus;
pub use status::VoterStatus;

use crate::zodb::Tid;
use due::Due;
use epoch::Register;
use faults::Dropped;
use faults::Rule;
use lease::At;
use member::Role;
use membership::Peer;
use names::MEMBERS;
use names::VOTERS_MAX;
use service::Probes;
use std::time::Duration;
use std::time::Instant;
use voter::Request;

/// One voter of a pair.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, not a state among others")]
pub struct Machine {
    set: Settings,
    quorum: usize,
    boot: BootId,
    origin: Instant,
    wall: u64,
    now: At,
    dropped: Dropped,

    peers: [Peer; VOTERS_MAX],
    judge_from: At,
    expected: At,
    next_beat: At,
    seq: u64,
    shout: bool,
    reply: u16,
    counts: Counts,

    register: Register,
    requests: [Option<Request>; MEMBERS],
    ticket: u64,
    saving: Option<(u64, Saved)>,
    save_retry: At,
    save_failed: bool,
    released: [Epoch; MEMBERS],
    probes: [Probes; MEMBERS],
    serves: [bool; MEMBERS],
    services: [Service; MEMBERS],

    role: Role,
    copy: Option<Tid>,
    due: Due,
    copy_bad: bool,
    fence_ready: bool,
    exited: bool,
    leaving: bool,
    excluded_until: At,
    yield_until: At,
    restarts: Vec<At>,
    story: Story,
    refusal: Option<Refusal>,

    holder: Option<(Epoch, NodeId)>,
    active_since: At,
    takeovers: Vec<At>,
    view: PairView,
    tid_saved_at: At,
}

/// When a voter starts, by whose clocks.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    /// Drawn at random for this start.
    pub boot: BootId,
    /// The first of the instants that it will ever be given, all of them of a clock that goes on during suspension.
    pub at: Instant,
    /// The date, in seconds since 1970. It is read this once: it dates takeovers in the journal, so that their bound
    /// outlives a restart, and decides nothing else.
    pub wall: u64,
}

/// What is counted and never logged one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Beats older than one already heard, or of a former start.
    pub replayed: u64,
    /// Beats of a start that has not yet shown that it is no recording: a few at each start of a voter.
    pub unproven: u64,
    /// Beats not meant for this voter, or on another link than they say.
    pub misdirected: u64,
    /// Claims of an epoch that is over.
    pub old_epoch: u64,
    /// Stalls of the own loop.
    pub stalls: u64,
    /// Times a voter was late on a link.
    pub late: u64,
}

/// When the steps of a takeover were reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Story {
    suspected: At,
    silent: At,
    asked: Option<At>,
    voted: Option<At>,
    proven: Option<At>,
    saved: Option<At>,
    address: Option<At>,
    started: Option<At>,
}

impl Machine {
    /// A voter that has just started.
    pub fn new(set: Settings, began: Began, journal: &Journal, actions: &mut Vec<Action>) -> Self {
        Self::start(set, began, journal, Dropped(None), actions)
    }

    /// The same, without one of its rules: to show that the tests notice.
    #[doc(hidden)]
    pub fn sabotaged(
        set: Settings,
        began: Began,
        journal: &Journal,
        rule: Option<Rule>,
        actions: &mut Vec<Action>,
    ) -> Self {
        Self::start(set, began, journal, Dropped(rule), actions)
    }

    fn start(set: Settings, began: Began, journal: &Journal, dropped: Dropped, actions: &mut Vec<Action>) -> Self {
        let lease = micros(set.lease);
        let view = PairView { epoch: Epoch(0), active: None, phase: Phase::Starting };
        let role = if set.me.is_member() { Role::booting(START + micros(set.stop_timeout)) } else { Role::Witness };
        let mut machine = Self {
            quorum: set.roster.quorum(),
            boot: began.boot,
            origin: began.at,
            wall: began.wall,
            now: START,
            dropped,
            peers: [Peer::new(); VOTERS_MAX],
            judge_from: START,
            expected: START,
            next_beat: START,
            seq: START,
            shout: false,
            reply: 0,
            counts: Counts::default(),
            register: Register::new(journal, START, lease, dropped),
            requests: [None; MEMBERS],
            ticket: 0,
            saving: None,
            save_retry: 0,
            save_failed: false,
            released: [Epoch(0); MEMBERS],
            probes: [Probes::default(); MEMBERS],
            serves: [false; MEMBERS],
            services: [Service::Unknown; MEMBERS],
            role,
            copy: None,
            due: Due::default(),
            copy_bad: false,
            fence_ready: false,
            exited: false,
            leaving: false,
            excluded_until: 0,
            yield_until: 0,
            restarts: Vec::new(),
            story: Story::default(),
            refusal: None,
            holder: None,
            active_since: 0,
            takeovers: Vec::new(),
            view,
            tid_saved_at: START,
            set,
        };
        machine.remember_takeovers();
        machine.register.want.standby &= !machine.dropped.is(Rule::StandbyLasts);
        if machine.set.me.is_member() {
            machine.boot_member(actions);
        }
        actions.push(Action::Publish(view));
        machine.settle(actions);
        machine
    }

    /// Something happened, or time has passed. What is wanted is added to `actions`, in the order in which to begin it.
    pub fn handle(&mut self, input: Input, now: Instant, actions: &mut Vec<Action>) {
        self.wake(now, actions);
        self.take(input, actions);
        self.settle(actions);
    }

    /// When to come with a [`Input::Tick`], if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.origin.checked_add(Duration::from_micros(self.expected - START))
    }

    /// What edges need to know.
    #[must_use]
    pub fn view(&self) -> PairView {
        self.view
    }

    /// Whether the pair is in maintenance, as far as this voter has heard.
    #[must_use]
    pub fn in_maintenance(&self) -> bool {
        self.register.want.maintenance.on
    }

    /// What is only counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the storage may acknowledge a commit now: asked after the local sync and the replica's answer, before the
    /// acknowledgement is sent.
    #[must_use]
    pub fn may_acknowledge(&self, now: Instant) -> bool {
        let now = self.micros_of(now);
        match &self.role {
            Role::Taking { hold, .. } | Role::Active { hold } => {
                self.lease_end(hold).is_none_or(|end| now + micros(self.set.margin) < end)
                    || self.set.self_fence == Mode::Observe
            }
            _ => false,
        }
    }

    fn micros_of(&self, now: Instant) -> At {
        START + micros(now.saturating_duration_since(self.origin))
    }

    /// Time moves on. A loop that came late by more than one interval could not read what may have arrived meanwhile, so
    /// whatever it thought of others' silence is timed anew.
    fn wake(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let now = self.micros_of(now).max(self.now);
        let late = now.saturating_sub(self.expected.max(self.now));
        self.now = now;
        if late > micros(self.set.interval) {
            self.counts.stalls += 1;
            actions.push(Action::Note(Note::Stalled(Duration::from_micros(late))));
            if !self.dropped.is(Rule::StallDiscards) {
                self.judge_from = now;
            }
        }
    }

    fn take(&mut self, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Tick => {}
            Input::Heard { link, beat } => self.heard(link, &beat, actions),
            Input::EpochSaved { ticket, result } => self.saved(ticket, result, actions),
            Input::FenceDone { epoch, attempt, outcome } => self.fence_done(epoch, attempt, outcome, actions),
            Input::AddressDone { epoch, raised, result } => self.address_done(epoch, raised, result, actions),
            Input::ResourceDone { epoch, started, result } => self.resource_done(epoch, started, result, actions),
            Input::ResourceExited => self.exited(actions),
            Input::Probe { target, good } => self.probed(target, good, actions),
            Input::Copy(tid) => {
                self.copy = Some(tid);
                self.copy_bad = false;
            }
            Input::Verified { epoch, result } => self.verified(epoch, result, actions),
            Input::SelfFenceArmed(armed) => self.fence_ready = armed,
            Input::AddressConflict => self.address_conflict(actions),
            Input::Operator(order) => self.ordered(order, actions),
        }
    }

    /// Whatever follows from the time and from what is known; then disk, network, edges.
    fn settle(&mut self, actions: &mut Vec<Action>) {
        self.watch(actions);
        self.due.watch(self.known(), self.now);
        self.recover();
        for _ in 0..STEPS_MAX {
            if !self.step(actions) {
                break;
            }
        }
        self.persist(actions);
        self.speak(actions);
        self.publish(actions);
        self.expected = self.deadline();
    }

    fn deadline(&self) -> At {
        let ahead = |at: &At| *at > self.now;
        let dead = micros(self.set.dead);
        let voters = self.others().map(|id| self.peers[id.at()].heard.unwrap_or(0).max(self.judge_from));
        let silence = voters.map(|heard| heard + dead);
        let warn = self.others().map(|id| self.peers[id.at()].heard.unwrap_or(0) + micros(self.set.warn));
        let role = self.role_deadlines().into_iter().flatten();
        let retry = (self.save_failed && self.saving.is_none()).then_some(self.save_retry);
        silence.chain(warn).chain(role).chain(retry).filter(ahead).min().unwrap_or(At::MAX).min(self.next_beat)
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.set.me;
        self.set.roster.ids().filter(move |id| *id != me)
    }

    /// How many voters a majority is.
    fn quorum(&self) -> usize {
        if self.dropped.is(Rule::MajorityOfConfigured) {
            return self.reachable() / 2 + 1;
        }
        self.quorum
    }

    /// How many voters are heard, this one included.
    fn reachable(&self) -> usize {
        let dead = micros(self.set.dead);
        1 + self.others().filter(|id| self.peers[id.at()].heard_within(dead, self.now)).count()
    }

    /// Tells who is late, silent, or heard one way only.
    fn watch(&mut self, actions: &mut Vec<Action>) {
        let (warn, dead) = (micros(self.set.warn), micros(self.set.dead));
        let (now, judge_from) = (self.now, self.judge_from);
        for id in self.others() {
            let peer = &mut self.peers[id.at()];
            if peer.heard.is_none() {
                continue;
            }
            for place in 0..usize::from(self.set.links[id.at()]).min(names::LINKS_MAX) {
                let one_way = peer.deaf_on(place, warn, dead, judge_from, now);
                let Some(link) = peer.links.get_mut(place) else { continue };
                let name = LinkId(u8::try_from(place).unwrap_or(u8::MAX));
                let quiet = now.saturating_sub(link.heard.unwrap_or(0).max(judge_from));
                if quiet >= warn && !link.late {
                    link.late = true;
                    self.counts.late += 1;
                    actions.push(Action::Note(Note::Late(id, name, Duration::from_micros(quiet))));
                }
                if one_way && !link.one_way {
                    actions.push(Action::Note(Note::OneWay(id, name)));
                }
                link.one_way = one_way;
            }
            if !peer.dead && peer.silent_for(judge_from, now) >= dead {
                peer.dead = true;
                actions.push(Action::Note(Note::Dead(id)));
            }
        }
        for id in [NodeId(0), NodeId(1)] {
            let found = self.service_of(id);
            if found != self.services[id.at()] {
                self.services[id.at()] = found;
                actions.push(Action::Note(Note::ServiceIs(id, found)));
            }
        }
    }

    fn service_of(&self, member: NodeId) -> Service {
        self.probes[member.at()].verdict(self.set.probe_failed, self.set.probe_window)
    }

    /// One save at a time; what changed meanwhile goes with the next.
    fn persist(&mut self, actions: &mut Vec<Action>) {
        let due = !self.save_failed || self.now >= self.save_retry;
        if self.saving.is_some() || !due || self.register.want == self.register.disk {
            return;
        }
        let quiet = Saved { known: self.register.want.known, ..self.register.disk };
        if quiet == self.register.want && self.now < self.tid_saved_at + TID_SAVE_EVERY && !self.save_failed {
            return;
        }
        self.tid_saved_at = self.now;
        self.ticket += 1;
        self.saving = Some((self.ticket, self.register.want));
        actions.push(Action::SaveEpoch { ticket: self.ticket, saved: self.register.want });
    }

    fn saved(&mut self, ticket: u64, result: Result<(), Failure>, actions: &mut Vec<Action>) {
        let Some((_, saved)) = self.saving.take_if(|(expected, _)| *expected == ticket) else { return };
        self.save_failed = result.is_err();
        match result {
            Ok(()) => {
                let voted = self.register.disk.vote != saved.vote;
                self.register.disk = saved;
                if voted && let Some(vote) = saved.vote {
                    actions.push(Action::Note(Note::Voted(vote)));
                    self.reply |= 1 << vote.candidate.0;
                    self.shout |= vote.candidate == self.set.me;
                }
            }
            Err(failure) => {
                self.save_retry = self.now + micros(self.set.interval) * 4;
                actions.push(Action::Note(Note::Failed("journal", failure)));
            }
        }
    }

    #[expect(clippy::large_types_passed_by_value, reason = "a transition consumes its state; there are few")]
    fn become_role(&mut self, role: Role, actions: &mut Vec<Action>) {
        let (before, after) = (self.role.standing(), role.standing());
        self.role = role;
        self.shout = true;
        if before != after {
            actions.push(Action::Note(Note::Role(before, after)));
        }
    }
}

/// A duration in the machine's unit.
fn micros(span: Duration) -> At {
    At::try_from(span.as_micros()).unwrap_or(At::MAX / 4)
}

/// For how long a vote must bind: the time in which its candidate may shoot.
fn hold_of(set: &Settings) -> At {
    let shots = micros(set.fence_timeout).saturating_mul(At::from(set.fence_levels.max(1)));
    micros(set.lease).saturating_add(if set.fence_levels == 0 { 0 } else { shots }).min(At::from(u32::MAX))
}

/// Where the machine's own time begins: far enough from zero that "long ago" can be told.
const START: At = 2 * HOUR;

/// Transitions that may follow from one input: start of a bid, its earnest, its proof, the first step of the takeover.
const STEPS_MAX: usize = 8;

/// How often a changed transaction id alone is worth a sync.
const TID_SAVE_EVERY: At = 1_000_000;

/// How long a new active is called new.
const SETTLE: At = 2_000_000;

/// An hour.
const HOUR: At = 3_600_000_000;
