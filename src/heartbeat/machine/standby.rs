//! What a standby does: it watches the other member, and when that no longer serves it bids for the role, or says why not.

use super::HOUR;
use super::Machine;
use super::Story;
use super::claim::Claim;
use super::claim::Ground;
use super::claim::Word;
use super::epoch::Circumstances;
use super::faults::Rule;
use super::io::Action;
use super::io::Failure;
use super::io::Fenced;
use super::io::Note;
use super::io::Order;
use super::io::Power;
use super::io::Refusal;
use super::lease::At;
use super::member::Role;
use super::message::Answer;
use super::message::Ask;
use super::message::Beat;
use super::message::Denial;
use super::message::Service;
use super::message::Standing;
use super::message::Verdict;
use super::message::Vote;
use super::micros;
use super::names::Epoch;
use super::names::MEMBERS;
use super::names::NodeId;
use super::settings::Mode;
use crate::zodb::Tid;

/// The check of the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verify {
    Idle,
    Running(At),
    Good,
    Bad,
}

/// The shots of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shots {
    attempt: u32,
    level: u8,
    /// One is under way; it must have ended by then.
    until: Option<At>,
    /// All levels have failed: again then.
    retry: At,
    /// Whether all levels have failed at least once.
    pub(super) failed: bool,
    /// That it would have shot was said.
    would: bool,
}

/// What a standby wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Desire {
    /// Nothing: somebody serves, or is about to.
    Wait,
    /// The role.
    Bid(Ground),
    /// The role, and must not have it.
    Refuse(Refusal),
}

impl Verify {
    pub(super) fn deadline(self) -> Option<At> {
        if let Self::Running(until) = self { Some(until) } else { None }
    }
}

impl Shots {
    pub(super) fn none() -> Self {
        Self { attempt: 0, level: 0, until: None, retry: 0, failed: false, would: false }
    }

    pub(super) fn under_way(&self) -> bool {
        self.until.is_some()
    }

    pub(super) fn deadline(&self) -> Option<At> {
        self.until.or(Some(self.retry))
    }

    fn ended(&mut self, levels: u8, retry: At) {
        self.until = None;
        self.level += 1;
        if self.level >= levels {
            (self.level, self.retry, self.failed) = (0, retry, true);
        }
    }
}

impl Machine {
    /// What a voter last said, if it is heard now.
    pub(super) fn fresh(&self, id: NodeId) -> Option<&Beat> {
        let peer = &self.peers[id.at()];
        peer.said.as_ref().filter(|_| peer.heard_within(micros(self.set.dead), self.now))
    }

    /// How long a member waits for one that has the better right.
    pub(super) fn courtesy(&self) -> At {
        micros(self.set.dead) * 4
    }

    /// How long a bid may last before it is called a refusal.
    pub(super) fn patience(&self) -> At {
        micros(self.set.dead) * 2
    }

    /// Whether the other member is silent on all links.
    fn peer_is_silent(&self) -> bool {
        let peer = &self.peers[self.set.me.peer().at()];
        let dead = micros(self.set.dead);
        if self.dropped.is(Rule::SilentOnAllLinks) {
            let links = usize::from(self.set.links[self.set.me.peer().at()]);
            let quiet = |at: Option<At>| self.now.saturating_sub(at.unwrap_or(0).max(self.judge_from)) >= dead;
            return peer.links.iter().take(links).any(|link| quiet(link.heard));
        }
        if peer.heard.is_none() && self.now < super::START + micros(self.set.initdead) {
            return false;
        }
        peer.silent_for(self.judge_from, self.now) >= dead
    }

    /// What keeps this member from the role, whoever has it now.
    pub(super) fn unfit(&self) -> Option<Refusal> {
        let hour_ago = |at: &&At| **at + HOUR > self.now;
        let takeovers = self.takeovers.iter().filter(hour_ago).count();
        let limit = usize::try_from(self.set.takeovers_max).unwrap_or(usize::MAX);
        let served = self.fresh(self.set.me.peer()).is_some_and(|said| said.standing == Standing::Active);
        let must_have = if served { self.due.tid() } else { self.known() };
        let behind = self.copy.unwrap_or_default().behind(must_have) > self.set.max_lag;
        match () {
            () if self.register.want.maintenance.on && !self.dropped.is(Rule::MaintenanceHolds) => {
                Some(Refusal::Maintenance)
            }
            () if (self.leaving || self.register.want.standby) && !self.dropped.is(Rule::StandbyStays) => {
                Some(Refusal::Standby)
            }
            () if self.now < self.excluded_until => Some(Refusal::StartFailed),
            () if self.register.lost => Some(Refusal::JournalLost),
            () if self.save_failed => Some(Refusal::SaveFailed),
            () if self.set.self_fence_required && !self.fence_ready => Some(Refusal::NotArmed),
            () if takeovers >= limit && !self.dropped.is(Rule::TakeoverLimit) => Some(Refusal::TooMany),
            () if self.copy_bad => Some(Refusal::CopyBad),
            () if self.dropped.is(Rule::PromotionGuard) => None,
            () if self.copy.is_none() => Some(Refusal::NoCopy),
            () if behind => Some(Refusal::Behind),
            () => None,
        }
    }

    /// Whether this member would take the role if it had to: what its beats say to the other.
    pub(super) fn ready(&self) -> bool {
        self.unready().is_none()
    }

    /// Why it would not, were the role free at this moment.
    pub(super) fn unready(&self) -> Option<Refusal> {
        let busy = match self.role.standing() {
            Standing::Standby | Standing::Bidding => None,
            Standing::Witness => Some(Refusal::NotMember),
            Standing::Booting => Some(Refusal::Booting),
            Standing::StopFailed => Some(Refusal::StopFailed),
            Standing::Taking | Standing::Active | Standing::Stopping => Some(Refusal::HasRole),
        };
        let observes = self.set.takeover == Mode::Observe;
        busy.or_else(|| self.unfit())
            .or(observes.then_some(Refusal::Observing))
            .or(self.yields().then_some(Refusal::Yields))
    }

    /// Whether this member gave the role up and leaves it to the other: until that had time to say that it cannot have it.
    fn yields(&self) -> bool {
        let gave_up_at = self.yield_until.saturating_sub(micros(self.set.yield_wait));
        let cannot = |said: &Beat| said.standing == Standing::Standby && !said.ready;
        let refused = self.now >= gave_up_at + self.courtesy() && self.fresh(self.set.me.peer()).is_some_and(cannot);
        self.now < self.yield_until && !refused
    }

    /// Asks an active whose service a majority finds sick to give the role up. The active itself may find it good: it does
    /// not see what clients see.
    pub(super) fn plea(&self) -> Epoch {
        let peer = self.set.me.peer();
        let Some((epoch, holder)) = self.holder.filter(|_| self.set.me.is_member()) else { return Epoch(0) };
        if holder != peer || !self.ready() {
            return Epoch(0);
        }
        if self.dropped.is(Rule::NoFailback) && self.set.me == NodeId(0) {
            return epoch;
        }
        let sick = |id: &NodeId| {
            let here = *id == self.set.me;
            let told = self.fresh(*id).map(|said| said.members[peer.at()].service);
            (if here { Some(self.services[peer.at()]) } else { told }) == Some(Service::Sick)
        };
        let observers = self.set.roster.ids().filter(|id| *id != peer).filter(sick).count();
        if observers >= self.quorum.max(2) { epoch } else { Epoch(0) }
    }

    fn desire(&self) -> Desire {
        let ground = if self.peer_is_silent() {
            Ground::Silence
        } else {
            let Some(said) = self.peers[self.set.me.peer().at()].said else { return Desire::Wait };
            match said.standing {
                Standing::Standby | Standing::Bidding if self.goes_first(&said) => Ground::Released,
                Standing::StopFailed => Ground::FenceMe,
                _ => return Desire::Wait,
            }
        };
        let vacant = ground == Ground::Silence && self.register.want.seen == Epoch(0);
        let ground = if vacant { Ground::Vacant } else { ground };
        if let Some(refusal) = self.unfit() {
            return self.refuse_unless_the_peer_can(refusal);
        }
        if self.yields() {
            return Desire::Wait;
        }
        if self.reachable() < self.quorum() {
            return Desire::Refuse(Refusal::NoMajority);
        }
        Desire::Bid(ground)
    }

    fn refuse_unless_the_peer_can(&self, refusal: Refusal) -> Desire {
        if self.fresh(self.set.me.peer()).is_some_and(|said| said.ready) {
            Desire::Wait
        } else {
            Desire::Refuse(refusal)
        }
    }

    /// Of two members that are both down, the one with the newer copy goes first, then the first by name; the other follows
    /// when nothing comes of it.
    fn goes_first(&self, peer: &Beat) -> bool {
        let mine = (self.ready(), self.copy.unwrap_or_default());
        let its = (peer.ready, peer.tid);
        let first = mine > its || (mine == its && self.set.me < peer.from);
        let waited = matches!(self.role, Role::Standby { since } if self.now >= since + self.courtesy());
        let asks = peer.ask.is_some_and(|ask| ask.earnest);
        let asked = matches!(self.role, Role::Bidding { claim, .. } if claim.earnest.is_some());
        let began = matches!(self.role, Role::Bidding { .. }) && peer.standing != Standing::Bidding;
        // A bid in earnest is not disturbed by one that is none.
        if asks == asked { first || !peer.ready || (!asks && (waited || began)) } else { asked }
    }

    /// Whether this member, asked for its vote by the other, has or wants the role itself.
    pub(super) fn wants_it_more(&self, from: NodeId, ask: Ask) -> bool {
        if !self.set.me.is_member() || from == self.set.me {
            return false;
        }
        match &self.role {
            Role::Witness | Role::Standby { .. } | Role::Booting { .. } => false,
            Role::Bidding { claim, shots, .. } => {
                let mine = (claim.earnest.is_some(), claim.epoch, self.set.me.peer());
                shots.under_way()
                    || claim.ordered
                    || (claim.earnest.is_some() && mine > (ask.earnest, ask.epoch, self.set.me))
            }
            Role::Taking { .. } | Role::Active { .. } | Role::Stopping { .. } | Role::StopFailed { .. } => true,
        }
    }

    fn refuse(&mut self, refusal: Option<Refusal>, actions: &mut Vec<Action>) {
        if refusal == self.refusal || self.dropped.is(Rule::RefusalHasAlarm) {
            return;
        }
        self.refusal = refusal;
        match self.refusal {
            Some(refusal) => actions.push(Action::Note(Note::Refused(self.explained(refusal)))),
            None => actions.push(Action::Note(Note::RefusesNoMore)),
        }
        self.shout = true;
    }

    pub(super) fn step_standby(&mut self, actions: &mut Vec<Action>) -> bool {
        match self.desire() {
            Desire::Wait => {
                self.story = Story::default();
                self.refuse(None, actions);
                false
            }
            Desire::Refuse(refusal) => {
                self.refuse(Some(refusal), actions);
                false
            }
            Desire::Bid(ground) => {
                let silent = self.peers[self.set.me.peer().at()].silent_for(0, self.now);
                if self.story.suspected == 0 {
                    self.begin_story(if ground == Ground::Silence { silent } else { 0 });
                }
                self.bid(Claim::new(self.register.next(self.dropped), ground, false, self.now), actions);
                true
            }
        }
    }

    #[expect(clippy::large_types_passed_by_value, reason = "it moves into the role")]
    fn bid(&mut self, claim: Claim, actions: &mut Vec<Action>) {
        self.become_role(Role::Bidding { claim, verify: Verify::Idle, shots: Shots::none() }, actions);
    }

    pub(super) fn force(&mut self, actions: &mut Vec<Action>) -> Option<Refusal> {
        if !matches!(self.role, Role::Standby { .. } | Role::Bidding { .. }) {
            return self.unready();
        }
        if self.fresh(self.set.me.peer()).is_some_and(|said| said.held > Epoch(0)) {
            return Some(Refusal::PeerServes);
        }
        self.begin_story(0);
        (self.leaving, self.excluded_until, self.yield_until) = (false, 0, 0);
        self.register.want.standby = false;
        self.bid(Claim::new(self.register.next(self.dropped), Ground::Ordered, true, self.now), actions);
        None
    }

    fn abandon(&mut self, actions: &mut Vec<Action>) {
        self.register.hear_idle(self.set.me, self.register.want.seen, self.now);
        self.become_role(Role::Standby { since: self.now }, actions);
    }

    pub(super) fn step_bidding(&mut self, actions: &mut Vec<Action>) -> bool {
        let Role::Bidding { mut claim, mut verify, mut shots } = self.role else { return false };
        self.shot_timed_out(&mut shots);
        if !claim.ordered {
            match self.desire() {
                Desire::Bid(ground) => claim.set_ground(ground),
                Desire::Wait if !shots.under_way() => {
                    self.refuse(None, actions);
                    self.abandon(actions);
                    return true;
                }
                Desire::Refuse(refusal) if !shots.under_way() => {
                    self.refuse(Some(refusal), actions);
                    self.abandon(actions);
                    return true;
                }
                Desire::Wait | Desire::Refuse(_) => {}
            }
        }
        let me = self.set.me;
        let own = self.own_word(&claim);
        claim.hear(me, &own, self.now);
        if claim.earnest.is_none() {
            return self.step_asking(claim, actions);
        }
        let outvoted = self.register.want.vote != Some(Vote { epoch: claim.epoch, candidate: me });
        let fruitless = claim.earnest.is_some_and(|since| self.now >= since + self.courtesy())
            && !claim.has_votes(self.quorum(), micros(self.set.lease), self.now);
        let hopeless = claim.spent() + self.quorum() > self.set.roster.voters();
        let ordered_end = claim.ordered && fruitless;
        if (outvoted || hopeless || (fruitless && !ordered_end)) && !shots.under_way() {
            self.abandon(actions);
            return true;
        }
        if let Verify::Running(until) = verify
            && self.now >= until
        {
            verify = Verify::Bad;
        }
        self.vote_counts(&mut claim);
        self.shoot(&claim, &mut shots, actions);
        self.role = Role::Bidding { claim, verify, shots };
        self.conclude(&claim, verify, shots, ordered_end, actions)
    }

    /// Not yet in earnest: would a majority vote?
    fn step_asking(&mut self, mut claim: Claim, actions: &mut Vec<Action>) -> bool {
        if claim.epoch != self.register.next(self.dropped) {
            claim = Claim::new(self.register.next(self.dropped), claim.ground(), claim.ordered, claim.since);
            let own = self.own_word(&claim);
            claim.hear(self.set.me, &own, self.now);
        }
        let (now, dead) = (self.now, micros(self.set.dead));
        let willing = claim.willing(now.saturating_sub(dead)) >= self.quorum();
        if now >= claim.since + self.patience() && !willing {
            let refusal = match claim.denial() {
                Some(Denial::ServiceHeard) => Refusal::Vetoed,
                Some(_) => Refusal::Denied,
                None => Refusal::NoMajority,
            };
            self.refuse(Some(refusal), actions);
            // An operator's word is about now: it must not be taken for a proof an hour later.
            let stale = now >= claim.since + self.courtesy() && !self.dropped.is(Rule::OrderEnds);
            if claim.ordered && (refusal == Refusal::Vetoed || stale) {
                let refused = self.explained(refusal);
                actions.push(Action::Note(Note::OrderRefused(Order::ForceTakeover, refused)));
                self.abandon(actions);
                return true;
            }
        }
        let lonely = claim.ordered && now >= claim.since + self.patience() && claim.denial().is_none();
        self.role = Role::Bidding { claim, verify: Verify::Idle, shots: Shots::none() };
        if !(willing || lonely) {
            return false;
        }
        if self.set.takeover == Mode::Observe && !claim.ordered && !self.dropped.is(Rule::ObserveOnly) {
            if self.refusal != Some(Refusal::Observing) {
                actions.push(Action::Note(Note::WouldTakeOver(claim.epoch)));
                self.refuse(Some(Refusal::Observing), actions);
            }
            return false;
        }
        let Some(ask) = self.ask() else { return false };
        let (armed, lease) = (self.armed(), micros(self.set.lease));
        claim.earnest = Some(now);
        self.story.asked = Some(now);
        self.register.vote(self.set.me, ask, armed, lease, now, self.dropped);
        let verify = if self.set.verify {
            actions.push(Action::VerifyCopy(claim.epoch));
            Verify::Running(now + micros(self.set.verify_timeout))
        } else {
            Verify::Good
        };
        self.role = Role::Bidding { claim, verify, shots: Shots::none() };
        true
    }

    /// This member's own word on its own claim.
    fn own_word(&self, claim: &Claim) -> Word {
        let (me, peer) = (self.set.me, self.set.me.peer());
        let ask = Ask { epoch: claim.epoch, earnest: claim.earnest.is_some(), ground: claim.ground(), hold_us: 0 };
        let at = Circumstances {
            service_heard: claim.ground() == Ground::Silence && self.hears_service(peer),
            just_started: claim.ground() != Ground::Released && self.now < self.judge_from + micros(self.set.dead),
            own_role: false,
            save_failed: self.save_failed,
            ordered: claim.ordered,
        };
        let mut verdict = self.register.judge(me, ask, at, self.now, self.dropped);
        if claim.earnest.is_some() {
            // The vote is given; what counts is whether it is on disk.
            let vote = Some(Vote { epoch: claim.epoch, candidate: me });
            verdict = if self.register.disk.vote == vote { Verdict::Granted } else { Verdict::Would };
        }
        Word {
            boot: self.boot,
            answer: Some(Answer { epoch: claim.epoch, seq: self.now, verdict }),
            left: self.register.left(peer, self.now),
            backed: self.register.disk.backed[peer.at()],
            armed: self.register.disk.armed[peer.at()],
            known: self.register.want.known,
        }
    }

    /// A voter's word on the claim, or its renewal of the role's lease.
    pub(super) fn take_word(&mut self, from: NodeId, word: &Word) {
        let now = self.now;
        if let Role::Bidding { claim, .. } = &mut self.role {
            claim.hear(from, word, now);
        } else if let Some(Answer { epoch, seq, verdict: Verdict::Granted }) = word.answer {
            self.renewed(from, epoch, seq);
        }
    }

    fn vote_counts(&mut self, claim: &mut Claim) {
        let vote = Some(Vote { epoch: claim.epoch, candidate: self.set.me });
        if self.story.saved.is_none() && self.register.disk.vote == vote {
            self.story.saved = Some(self.now);
        }
        if claim.voted_at.is_none() && claim.has_votes(self.quorum(), micros(self.set.lease), self.now) {
            claim.voted_at = Some(self.now);
            self.story.voted = Some(self.now);
        }
    }

    /// Only who has the votes of a majority may shoot, and only if the shot ends before any of them can vote otherwise.
    fn shoot(&mut self, claim: &Claim, shots: &mut Shots, actions: &mut Vec<Action>) {
        let peer = self.set.me.peer();
        let wanted = matches!(claim.ground(), Ground::Silence | Ground::FenceMe) && !claim.fenced && !claim.ordered;
        let ended = self.now + micros(self.set.fence_timeout);
        let hold = super::hold_of(&self.set);
        let permit = claim.grants.end(self.quorum(), hold).is_some_and(|end| ended <= end)
            && claim.has_votes(self.quorum(), micros(self.set.lease), self.now);
        let permit = permit || self.dropped.is(Rule::PermitBeforeFence);
        // Without a witness one vote is a majority, so only who has seen the other one serve may shoot: the one that
        // serves never does, so never both.
        let seen = self.quorum > 1 || self.holder.is_some_and(|(_, holder)| holder == peer);
        if !wanted || !permit || !seen || self.set.fence_levels == 0 || shots.under_way() || self.now < shots.retry {
            return;
        }
        if self.set.fence == Mode::Observe {
            if !shots.would {
                shots.would = true;
                actions.push(Action::Note(Note::WouldFence(peer)));
            }
            return;
        }
        shots.attempt += 1;
        shots.until = Some(ended);
        let (attempt, level) = (shots.attempt, shots.level);
        actions.push(Action::Fence { epoch: claim.epoch, attempt, target: peer, level });
    }

    fn shot_timed_out(&self, shots: &mut Shots) {
        if shots.until.is_some_and(|until| self.now >= until) {
            shots.ended(self.set.fence_levels, self.now + micros(self.set.fence_retry));
        }
    }

    /// A shot that was under way when another proof came first goes on, and binds the voters until it has ended.
    pub(super) fn shots_in_role(&mut self) {
        let (now, levels, retry) = (self.now, self.set.fence_levels, self.now + micros(self.set.fence_retry));
        let Some(hold) = self.role.hold_mut() else { return };
        if hold.shots.until.is_some_and(|until| now >= until) {
            hold.shots.ended(levels, retry);
        }
        if !hold.shots.under_way() {
            self.register.unbind(self.set.me, now);
        }
    }

    pub(super) fn fence_done(&mut self, epoch: Epoch, attempt: u32, outcome: Fenced, actions: &mut Vec<Action>) {
        let (levels, retry) = (self.set.fence_levels, self.now + micros(self.set.fence_retry));
        let confirmed = outcome.off && (outcome.status == Power::Off || self.dropped.is(Rule::FenceVerified));
        let peer = self.set.me.peer();
        let now = self.now;
        let (own, shots) = match &mut self.role {
            Role::Bidding { claim, shots, .. } => (claim.epoch, Some(shots)),
            role => (role.held(), role.hold_mut().map(|hold| &mut hold.shots)),
        };
        let Some(shots) = shots.filter(|shots| own == epoch && shots.attempt == attempt) else { return };
        // One that comes too late was given up: what it says was true once.
        if shots.until.is_none_or(|until| now >= until) {
            return;
        }
        shots.ended(levels, retry);
        actions.push(Action::Note(Note::FenceEnded(peer, outcome)));
        if let Role::Bidding { claim, .. } = &mut self.role {
            claim.fenced |= confirmed;
        }
    }

    pub(super) fn verified(&mut self, epoch: Epoch, result: Result<Tid, Failure>, actions: &mut Vec<Action>) {
        let Role::Bidding { claim, verify, .. } = &mut self.role else { return };
        if claim.epoch != epoch || *verify == Verify::Good {
            return;
        }
        *verify = match result {
            Ok(tid) => {
                self.copy = Some(tid);
                Verify::Good
            }
            Err(failure) => {
                actions.push(Action::Note(Note::Failed("copy", failure)));
                Verify::Bad
            }
        };
    }

    /// What the evidence amounts to.
    fn conclude(
        &mut self,
        claim: &Claim,
        verify: Verify,
        shots: Shots,
        alone: bool,
        actions: &mut Vec<Action>,
    ) -> bool {
        if verify == Verify::Bad && !shots.under_way() {
            self.copy_bad = true;
            self.refuse(Some(Refusal::CopyBad), actions);
            self.abandon(actions);
            return true;
        }
        let released = self.released[self.set.me.peer().at()];
        let proof = claim.proof(released, self.quorum(), micros(self.set.lease), self.now, self.dropped);
        let unleased = proof.is_none() && alone;
        let proof = if unleased { claim.operators_proof() } else { proof };
        let Some(proof) = proof else {
            let tried = self.set.fence_levels == 0 || shots.failed;
            let voted = claim.voted_at.is_some_and(|at| self.now >= at + self.patience());
            if voted && tried && !claim.may_expire(released) {
                self.refuse(Some(Refusal::NoProof), actions);
            }
            return false;
        };
        let behind = self.copy.unwrap_or_default().behind(claim.known().tid) > self.set.max_lag;
        if behind && !claim.ordered && !self.dropped.is(Rule::PromotionGuard) {
            self.register.want.known = self.register.want.known.max(claim.known());
            if !shots.under_way() {
                self.refuse(Some(Refusal::Behind), actions);
                self.abandon(actions);
            }
            return !shots.under_way();
        }
        if verify != Verify::Good {
            return false;
        }
        self.take_role(proof, claim.grants, shots, unleased, actions);
        true
    }
}

const _: () = assert!(MEMBERS == 2, "the other member is `me ^ 1`");
