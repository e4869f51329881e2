//! What a member does with the role: it boots, takes, holds, and gives up.

use super::Machine;
use super::Story;
use super::claim::Claim;
use super::claim::TakeoverProof;
use super::faults::Rule;
use super::io::Action;
use super::io::Failure;
use super::io::Note;
use super::io::Order;
use super::io::Refusal;
use super::io::SelfFenceWhy;
use super::io::TakeoverReport;
use super::lease::At;
use super::lease::Grants;
use super::message::Ask;
use super::message::Known;
use super::message::Maintenance;
use super::message::Service;
use super::message::Standing;
use super::micros;
use super::names::Epoch;
use super::names::NodeId;
use super::settings::Mode;
use super::standby::Shots;
use super::standby::Verify;
use std::time::Duration;

/// What a voter is, with what belongs to that alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "there is one role, and it is copied rarely")]
pub(super) enum Role {
    Witness,
    Booting { resources: bool, address: bool, failed: bool, until: At },
    Standby { since: At },
    Bidding { claim: Claim, verify: Verify, shots: Shots },
    Taking { hold: Hold, stage: Stage, until: At },
    Active { hold: Hold },
    Stopping { hold: Hold, why: Why, resources: bool, address: bool, killed: bool, until: At },
    StopFailed { hold: Hold, until: At },
}

/// The role, as it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) epoch: Epoch,
    pub(super) proof: TakeoverProof,
    pub(super) grants: Grants,
    /// The proof was an operator's word without a majority, or the pair is in maintenance and a majority knows: the lease
    /// does not bind.
    pub(super) unleased: bool,
    /// Since which beat this member says that it is not armed, because of maintenance.
    pub(super) quiet_from: Option<At>,
    /// Shots that are still under way.
    pub(super) shots: Shots,
    /// Up to when the watchdog was fed for.
    fed: At,
    /// That it would have fenced itself was said.
    would: bool,
}

/// How far the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// A local restart stops it first.
    Stop,
    /// The address comes up.
    Address,
    /// The resources start.
    Start,
    /// The storage must answer.
    Probe,
}

/// Why the role is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Why {
    Ordered,
    Sick,
    StartFailed,
    Lost,
}

impl Role {
    pub(super) fn booting(until: At) -> Self {
        Self::Booting { resources: false, address: false, failed: false, until }
    }

    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Witness => Standing::Witness,
            Self::Booting { failed: true, .. } | Self::StopFailed { .. } => Standing::StopFailed,
            Self::Booting { failed: false, .. } => Standing::Booting,
            Self::Standby { .. } => Standing::Standby,
            Self::Bidding { .. } => Standing::Bidding,
            Self::Taking { .. } => Standing::Taking,
            Self::Active { .. } => Standing::Active,
            Self::Stopping { .. } => Standing::Stopping,
        }
    }

    pub(super) fn hold(&self) -> Option<&Hold> {
        match self {
            Self::Taking { hold, .. }
            | Self::Active { hold }
            | Self::Stopping { hold, .. }
            | Self::StopFailed { hold, .. } => Some(hold),
            Self::Witness | Self::Booting { .. } | Self::Standby { .. } | Self::Bidding { .. } => None,
        }
    }

    pub(super) fn hold_mut(&mut self) -> Option<&mut Hold> {
        match self {
            Self::Taking { hold, .. }
            | Self::Active { hold }
            | Self::Stopping { hold, .. }
            | Self::StopFailed { hold, .. } => Some(hold),
            Self::Witness | Self::Booting { .. } | Self::Standby { .. } | Self::Bidding { .. } => None,
        }
    }

    /// The epoch in which it has the role, or 0.
    pub(super) fn held(&self) -> Epoch {
        self.hold().map_or(Epoch(0), |hold| hold.epoch)
    }
}

impl Machine {
    /// A member that starts makes sure that nothing of its service runs, whatever ran before.
    pub(super) fn boot_member(&mut self, actions: &mut Vec<Action>) {
        let vote = self.register.disk.vote;
        if self.dropped.is(Rule::StandbyAfterBoot)
            && let Some(vote) = vote.filter(|vote| vote.candidate == self.set.me)
        {
            let proof = TakeoverProof::planted(vote.epoch);
            self.role = Role::Standby { since: self.now };
            self.take_role(proof, Grants::none(), Shots::none(), true, actions);
            return;
        }
        actions.push(Action::DropAddress(Epoch(0)));
        actions.push(Action::StopResources(Epoch(0)));
    }

    /// One step of the role; says whether another may follow at once.
    pub(super) fn step(&mut self, actions: &mut Vec<Action>) -> bool {
        match self.role {
            Role::Witness => false,
            Role::Booting { resources, address, until, .. } => self.step_booting(resources && address, until, actions),
            Role::Standby { .. } => self.step_standby(actions),
            Role::Bidding { .. } => self.step_bidding(actions),
            Role::Taking { .. } | Role::Active { .. } | Role::Stopping { .. } | Role::StopFailed { .. } => {
                self.step_holding(actions)
            }
        }
    }

    fn step_booting(&mut self, down: bool, until: At, actions: &mut Vec<Action>) -> bool {
        if down {
            self.become_role(Role::Standby { since: self.now }, actions);
            return true;
        }
        if self.now >= until {
            let until = self.now + micros(self.set.stop_timeout);
            self.become_role(Role::Booting { resources: false, address: false, failed: true, until }, actions);
            actions.push(Action::SelfFence(Epoch(0), SelfFenceWhy::StopFailed));
            actions.push(Action::DropAddress(Epoch(0)));
        }
        false
    }

    pub(super) fn role_deadlines(&self) -> [Option<At>; 4] {
        let lease = self.role.hold().and_then(|hold| self.lease_end(hold));
        let end = lease.map(|end| end.saturating_sub(micros(self.set.margin)));
        match &self.role {
            Role::Witness => [None; 4],
            Role::Booting { until, .. } => [Some(*until), None, None, None],
            Role::Standby { since } => {
                let alone = super::START + micros(self.set.initdead);
                [Some(alone), Some(self.yield_until), Some(self.excluded_until), Some(since + self.courtesy())]
            }
            Role::Bidding { claim, shots, verify } => [
                claim.expires_at(self.quorum),
                shots.deadline(),
                verify.deadline(),
                Some(claim.since + self.patience()),
            ],
            Role::Taking { until, .. } | Role::Stopping { until, .. } | Role::StopFailed { until, .. } => {
                [end, Some(*until), None, None]
            }
            Role::Active { .. } => [end, Some(self.active_since + super::SETTLE), None, None],
        }
    }

    /// When the lease of the role ends; `None`: it has none and needs none.
    pub(super) fn lease_end(&self, hold: &Hold) -> Option<At> {
        let quorum = self.quorum();
        if hold.unleased || self.quorum == 1 {
            return None;
        }
        Some(hold.grants.end(quorum, micros(self.set.lease)).unwrap_or(0))
    }

    /// Whether this member's word, that it stops itself at the end of its lease, is to be relied on now.
    pub(super) fn armed(&self) -> bool {
        let bound = match &self.role {
            Role::StopFailed { .. } => false,
            role => role.hold().is_none_or(|hold| !hold.unleased && hold.quiet_from.is_none()),
        };
        self.set.me.is_member() && bound && self.fence_ready && self.set.self_fence == Mode::Act && self.quorum > 1
    }

    pub(super) fn ask(&self) -> Option<Ask> {
        let hold = u32::try_from(super::hold_of(&self.set)).unwrap_or(u32::MAX);
        match &self.role {
            Role::Bidding { claim, .. } => {
                let saved = self
                    .register
                    .disk
                    .vote
                    .is_some_and(|vote| vote.epoch == claim.epoch && vote.candidate == self.set.me);
                let early = self.dropped.is(Rule::SaveBeforeAnswer);
                let earnest = claim.earnest.is_some() && (saved || early);
                Some(Ask { epoch: claim.epoch, earnest, ground: claim.ground(), hold_us: hold })
            }
            role => {
                let hold_role = role.hold().filter(|hold| hold.shots.under_way())?;
                let ground = super::claim::Ground::Silence;
                Some(Ask { epoch: hold_role.epoch, earnest: true, ground, hold_us: hold })
            }
        }
    }

    /// The watchdog is fed while there is no role, and in the role only when its lease was renewed.
    pub(super) fn feed(&mut self, actions: &mut Vec<Action>) {
        if !self.set.me.is_member() {
            return;
        }
        let end = self.role.hold().map(|hold| self.lease_end(hold).unwrap_or(self.now));
        let stuck = matches!(self.role, Role::StopFailed { .. });
        match (end, self.role.hold_mut()) {
            (Some(end), Some(hold)) => {
                if end > hold.fed && !stuck {
                    hold.fed = end;
                    actions.push(Action::FeedWatchdog);
                }
            }
            _ => actions.push(Action::FeedWatchdog),
        }
    }

    /// The proof is there, and the epoch is on disk: the role is taken.
    pub(super) fn take_role(
        &mut self,
        proof: TakeoverProof,
        grants: Grants,
        shots: Shots,
        unleased: bool,
        actions: &mut Vec<Action>,
    ) {
        let epoch = proof.epoch();
        let hold = Hold { epoch, proof, grants, unleased, quiet_from: None, shots, fed: 0, would: false };
        self.story.proven = Some(self.now);
        self.refusal = None;
        self.register.hear_held(epoch);
        self.learn_holder(epoch, self.set.me);
        actions.push(Action::Note(Note::Proven(epoch, proof.kind())));
        let until = self.now + micros(self.set.address_timeout);
        self.exited = false;
        self.become_role(Role::Taking { hold, stage: Stage::Address, until }, actions);
        actions.push(Action::RaiseAddress(epoch, proof));
    }

    fn step_holding(&mut self, actions: &mut Vec<Action>) -> bool {
        self.renew_own();
        let Some(hold) = self.role.hold().copied() else { return false };
        let killed = matches!(self.role, Role::Stopping { killed: true, .. } | Role::StopFailed { .. });
        if !killed && self.register.is_held_above(hold.epoch) {
            actions.push(Action::Note(Note::SplitBrain(self.set.me.peer())));
            self.self_fence(SelfFenceWhy::HigherEpoch, actions);
            return true;
        }
        let end = self.lease_end(&hold);
        if !killed && end.is_some_and(|end| self.now + micros(self.set.margin) >= end) && self.lease_is_lost(actions) {
            return true;
        }
        self.shots_in_role();
        self.maintain();
        match self.role {
            Role::Taking { until, .. } if self.now >= until => self.give_up(Why::StartFailed, actions),
            // Who has said that it stopped binds nobody, so its shots are over before.
            Role::Stopping { hold, resources: true, address: true, .. }
                if hold.shots.under_way() && !self.dropped.is(Rule::ShotsEndFirst) => {}
            Role::Stopping { resources: true, address: true, why, .. } => return self.stopped(why, actions),
            Role::Stopping { until, .. } if self.now >= until => self.stop_failed(actions),
            Role::StopFailed { hold, until } if self.now >= until => {
                let until = self.now + micros(self.set.stop_timeout);
                self.role = Role::StopFailed { hold, until };
                actions.push(Action::SelfFence(hold.epoch, SelfFenceWhy::StopFailed));
            }
            Role::Active { .. } => return self.step_active(actions),
            _ => {}
        }
        false
    }

    /// This member is a voter of its own lease too.
    fn renew_own(&mut self) {
        let (me, now, armed) = (self.set.me, self.now, self.armed());
        let lease = micros(self.set.lease);
        let Some(epoch) = self.role.hold().map(|hold| hold.epoch) else { return };
        let allowed = self.register.renew(me, epoch, armed, lease, now, self.dropped);
        let given = allowed && self.register.renewed(me, epoch, armed) && !self.save_failed;
        if let Some(hold) = self.role.hold_mut().filter(|_| given) {
            hold.grants.add(me, now);
        }
    }

    /// A voter renewed the lease that was asked for by the beat sent at `seq`.
    pub(super) fn renewed(&mut self, voter: NodeId, epoch: Epoch, seq: At) {
        let sent = if self.dropped.is(Rule::LeaseFromBeforeSend) { self.now } else { seq };
        if let Some(hold) = self.role.hold_mut().filter(|hold| hold.epoch == epoch) {
            hold.grants.add(voter, sent);
        }
    }

    fn lease_is_lost(&mut self, actions: &mut Vec<Action>) -> bool {
        if self.set.self_fence == Mode::Observe || self.dropped.is(Rule::SelfFence) {
            let Some(hold) = self.role.hold_mut().filter(|hold| !hold.would) else { return false };
            hold.would = true;
            actions.push(Action::Note(Note::WouldSelfFence(hold.epoch)));
            return false;
        }
        self.self_fence(SelfFenceWhy::Lease, actions);
        true
    }

    fn self_fence(&mut self, why: SelfFenceWhy, actions: &mut Vec<Action>) {
        let Some(hold) = self.role.hold().copied() else { return };
        let until = self.now + micros(self.set.stop_timeout);
        let role = Role::Stopping { hold, why: Why::Lost, resources: false, address: false, killed: true, until };
        actions.push(Action::SelfFence(hold.epoch, why));
        actions.push(Action::DropAddress(hold.epoch));
        self.become_role(role, actions);
    }

    fn give_up(&mut self, why: Why, actions: &mut Vec<Action>) {
        let Some(hold) = self.role.hold().copied() else { return };
        let until = self.now + micros(self.set.stop_timeout);
        if why == Why::StartFailed {
            self.report(&hold, None, actions);
        }
        let role = Role::Stopping { hold, why, resources: false, address: false, killed: false, until };
        // In the reverse of the order in which they came. A client that is reset while the storage still listens is back at
        // once, and hangs there when the address goes.
        actions.push(Action::StopResources(hold.epoch));
        actions.push(Action::DropAddress(hold.epoch));
        self.become_role(role, actions);
    }

    fn stop_failed(&mut self, actions: &mut Vec<Action>) {
        let Some(hold) = self.role.hold().copied() else { return };
        if self.dropped.is(Rule::StopMustSucceed) {
            self.become_role(Role::Standby { since: self.now }, actions);
            return;
        }
        let until = self.now + micros(self.set.stop_timeout);
        self.become_role(Role::StopFailed { hold, until }, actions);
        actions.push(Action::SelfFence(hold.epoch, SelfFenceWhy::StopFailed));
        actions.push(Action::DropAddress(hold.epoch));
    }

    fn stopped(&mut self, why: Why, actions: &mut Vec<Action>) -> bool {
        match why {
            Why::Ordered | Why::Sick => self.yield_until = self.now + micros(self.set.yield_wait),
            Why::StartFailed => self.excluded_until = self.now + micros(self.set.exclusion),
            Why::Lost => {}
        }
        self.become_role(Role::Standby { since: self.now }, actions);
        true
    }

    fn step_active(&mut self, actions: &mut Vec<Action>) -> bool {
        let Some(hold) = self.role.hold().copied() else { return false };
        if let Some(tid) = self.copy {
            let known = &mut self.register.want.known;
            *known = (*known).max(Known { epoch: hold.epoch, tid });
        }
        if self.register.want.maintenance.on {
            return false;
        }
        if self.exited || (self.services[self.set.me.at()] == Service::Sick && self.second_observer()) {
            self.sick(actions);
            return true;
        }
        let peer = self.set.me.peer();
        let plea = self.fresh(peer).is_some_and(|said| said.plea == hold.epoch && said.ready);
        if plea {
            self.give_up(Why::Sick, actions);
        }
        plea
    }

    fn second_observer(&self) -> bool {
        let me = self.set.me.at();
        let agrees = |id: NodeId| self.fresh(id).is_some_and(|said| said.members[me].service == Service::Sick);
        self.others().any(agrees) || self.dropped.is(Rule::TwoObservers)
    }

    /// The service has ended by itself.
    pub(super) fn exited(&mut self, actions: &mut Vec<Action>) {
        // In maintenance nothing is done about it, and it is not forgotten.
        self.exited = true;
        self.sick(actions);
    }

    /// The service is known to be sick: it is restarted here, or the role is given up to a member that is ready.
    fn sick(&mut self, actions: &mut Vec<Action>) {
        let (Role::Active { hold } | Role::Taking { hold, stage: Stage::Probe, .. }) = self.role else { return };
        if self.register.want.maintenance.on {
            return;
        }
        let window = micros(self.set.restart_window);
        self.restarts.retain(|at| *at + window > self.now);
        let budget = self.restarts.len() < usize::try_from(self.set.restarts_max).unwrap_or(usize::MAX);
        let heir = self.fresh(self.set.me.peer()).is_some_and(|said| said.ready);
        if heir && !budget {
            self.give_up(Why::Sick, actions);
            return;
        }
        self.exited = false;
        self.restarts.truncate(RESTARTS_KEPT - 1);
        self.restarts.push(self.now);
        self.probes[self.set.me.at()].restart();
        actions.push(Action::Note(Note::Restart(u32::try_from(self.restarts.len()).unwrap_or(u32::MAX))));
        actions.push(Action::StopResources(hold.epoch));
        let until = self.now + micros(self.set.stop_timeout);
        self.become_role(Role::Taking { hold, stage: Stage::Stop, until }, actions);
    }

    pub(super) fn address_done(
        &mut self,
        epoch: Epoch,
        raised: bool,
        result: Result<(), Failure>,
        actions: &mut Vec<Action>,
    ) {
        let good = done("address", result, actions);
        match &mut self.role {
            Role::Booting { address, .. } if !raised => *address |= good,
            Role::Taking { hold, stage: stage @ Stage::Address, until } if raised && hold.epoch == epoch && good => {
                self.story.address = Some(self.now);
                (*stage, *until) = (Stage::Start, self.now + micros(self.set.start_timeout));
                actions.push(Action::StartResources(epoch, hold.proof));
            }
            Role::Taking { hold, stage: Stage::Address, .. } if raised && hold.epoch == epoch => {
                self.give_up(Why::StartFailed, actions);
            }
            Role::Stopping { hold, address, .. } if !raised && hold.epoch == epoch => {
                *address |= good;
                if !good {
                    self.stop_failed(actions);
                }
            }
            _ => {}
        }
    }

    pub(super) fn resource_done(
        &mut self,
        epoch: Epoch,
        started: bool,
        result: Result<(), Failure>,
        actions: &mut Vec<Action>,
    ) {
        let good = done("resources", result, actions);
        let now = self.now;
        match &mut self.role {
            Role::Booting { resources, .. } if !started && epoch == Epoch(0) => *resources |= good,
            Role::Taking { hold, stage, until } if hold.epoch == epoch => match (*stage, started, good) {
                (Stage::Start, true, true) => {
                    self.story.started = Some(now);
                    (*stage, *until) = (Stage::Probe, now + micros(self.set.serve_timeout));
                    self.probes[self.set.me.at()].restart();
                }
                (Stage::Stop, false, true) => {
                    (*stage, *until) = (Stage::Start, now + micros(self.set.start_timeout));
                    actions.push(Action::StartResources(epoch, hold.proof));
                }
                (Stage::Start, true, false) => self.give_up(Why::StartFailed, actions),
                (Stage::Stop, false, false) => self.stop_failed(actions),
                _ => {}
            },
            Role::Stopping { hold, resources, .. } if !started && hold.epoch == epoch => {
                *resources |= good;
                if !good {
                    self.stop_failed(actions);
                }
            }
            Role::StopFailed { hold, .. } if !started && hold.epoch == epoch && good => {
                let until = now + micros(self.set.stop_timeout);
                let hold = *hold;
                let role =
                    Role::Stopping { hold, why: Why::Lost, resources: true, address: false, killed: true, until };
                actions.push(Action::DropAddress(epoch));
                self.become_role(role, actions);
            }
            _ => {}
        }
    }

    /// The own storage answered, or did not: the last step of a takeover.
    pub(super) fn own_probe(&mut self, target: NodeId, good: bool, actions: &mut Vec<Action>) {
        if target != self.set.me || !good {
            return;
        }
        self.exited = false;
        if let Role::Taking { hold, stage: Stage::Probe, .. } = self.role {
            self.active_since = self.now;
            self.probes[self.set.me.at()].restart();
            self.become_role(Role::Active { hold }, actions);
            self.report(&hold, Some(self.now), actions);
        }
    }

    fn report(&mut self, hold: &Hold, serving: Option<At>, actions: &mut Vec<Action>) {
        let story = std::mem::take(&mut self.story);
        if story.suspected == 0 {
            return;
        }
        let since = |at: At| Duration::from_micros(at.saturating_sub(story.suspected));
        actions.push(Action::Report(TakeoverReport {
            epoch: hold.epoch,
            by: self.set.me,
            proof: Some(hold.proof.kind()),
            silent: Duration::from_micros(story.silent),
            asked: story.asked.map(since),
            voted: story.voted.map(since),
            proven: story.proven.map(since),
            saved: story.saved.map(since),
            address: story.address.map(since),
            started: story.started.map(since),
            serving: serving.map(since),
        }));
    }

    /// The diary of the next takeover begins.
    pub(super) fn begin_story(&mut self, silent: At) {
        self.story = Story { suspected: self.now, silent, ..Story::default() };
    }

    pub(super) fn address_conflict(&mut self, actions: &mut Vec<Action>) {
        let Some(hold) = self.role.hold().copied() else { return };
        actions.push(Action::Note(Note::SplitBrain(self.set.me.peer())));
        // Who gives the role up lets the other one have the address.
        if matches!(self.role, Role::Taking { .. } | Role::Active { .. }) {
            actions.push(Action::AnnounceAddress(hold.epoch));
        }
    }

    /// In maintenance the lease does not bind, once a majority has written down that this member is not armed: from then on
    /// nobody can take an expired lease for a proof.
    fn maintain(&mut self) {
        let on = self.register.want.maintenance.on;
        let (quorum, lease, now, seq) = (self.quorum, micros(self.set.lease), self.now, self.seq);
        let Some(hold) = self.role.hold_mut() else { return };
        if on && hold.quiet_from.is_none() {
            hold.quiet_from = Some(seq + 1);
            self.shout = true;
        }
        if on && !self.dropped.is(Rule::MaintenanceUnleases) {
            let noted = |from| hold.grants.at_majority(quorum).is_some_and(|sent| sent >= from);
            hold.unleased |= hold.quiet_from.is_some_and(noted);
        } else if (hold.unleased || hold.quiet_from.is_some())
            && hold.grants.end(quorum, lease / 2).is_some_and(|end| now < end)
        {
            (hold.unleased, hold.quiet_from) = (false, None);
        }
    }

    pub(super) fn ordered(&mut self, order: Order, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::Ordered(order)));
        let for_members = !matches!(order, Order::Maintenance(_) | Order::TrustJournal | Order::Shutdown);
        let refused = match order {
            _ if for_members && !self.set.me.is_member() => Some((self.set.me, Refusal::NotMember)),
            Order::Maintenance(on) => {
                let version = self.register.want.maintenance.version.saturating_add(1);
                self.register.want.maintenance = Maintenance { version, on };
                self.shout = true;
                None
            }
            Order::TrustJournal => {
                let seen = self.register.want.seen;
                if self.register.lost {
                    self.trust_journal(seen);
                }
                None
            }
            Order::Online => {
                (self.leaving, self.excluded_until, self.yield_until, self.copy_bad) = (false, 0, 0, false);
                self.register.want.standby = false;
                self.forget_takeovers();
                None
            }
            Order::Standby => {
                let refused = if self.role.hold().is_some() { self.hand_over() } else { None };
                if refused.is_none() {
                    self.register.want.standby = true;
                    self.give_the_role(actions);
                }
                refused
            }
            Order::Switchover => {
                let refused = self.hand_over();
                if refused.is_none() {
                    self.give_the_role(actions);
                }
                refused
            }
            Order::Shutdown => {
                self.leaving = true;
                self.give_the_role(actions);
                None
            }
            Order::ForceTakeover => self.force(actions).map(|refusal| (self.set.me, refusal)),
        };
        if let Some((by, refusal)) = refused {
            actions.push(Action::Note(Note::OrderRefused(order, self.explained_of(by, refusal))));
        }
    }

    /// Who stands in the way of giving the role to the other member, and why.
    fn hand_over(&self) -> Option<(NodeId, Refusal)> {
        let (me, peer) = (self.set.me, self.set.me.peer());
        if !matches!(self.role, Role::Active { .. }) {
            return Some((me, Refusal::NotActive));
        }
        if self.register.want.maintenance.on {
            return Some((me, Refusal::Maintenance));
        }
        let Some(heir) = self.fresh(peer) else { return Some((me, Refusal::PeerSilent)) };
        let waits = (!heir.ready).then_some((peer, Refusal::of(heir.unready).unwrap_or(Refusal::Denied)));
        waits.filter(|_| !self.dropped.is(Rule::HeirIsReady))
    }

    fn give_the_role(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.role, Role::Active { .. } | Role::Taking { .. }) {
            self.begin_story(0);
            self.give_up(Why::Ordered, actions);
        }
    }
}

/// Whether it was done; that it was not is noted.
fn done(what: &'static str, result: Result<(), Failure>, actions: &mut Vec<Action>) -> bool {
    result.map_err(|failure| actions.push(Action::Note(Note::Failed(what, failure)))).is_ok()
}

/// Restarts that are remembered.
const RESTARTS_KEPT: usize = 64;
