//! What every voter does, member or witness: listens, remembers, answers, tells.

use super::HOUR;
use super::Machine;
use super::SETTLE;
use super::START;
use super::TAKEOVERS_KEPT;
use super::claim::Ground;
use super::claim::Word;
use super::epoch::Circumstances;
use super::faults::Rule;
use super::io::Action;
use super::io::Note;
use super::io::PairView;
use super::io::Phase;
use super::io::Refusal;
use super::lease::At;
use super::member::Role;
use super::membership::Taken;
use super::message::Answer;
use super::message::Ask;
use super::message::Beat;
use super::message::Hearsay;
use super::message::Known;
use super::message::Service;
use super::message::Standing;
use super::message::Verdict;
use super::message::Vote;
use super::micros;
use super::names::Epoch;
use super::names::LINKS_MAX;
use super::names::LinkId;
use super::names::NodeId;
use crate::zodb::Tid;

/// What a member last wanted of this voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    /// It has the role: renew its lease.
    Renew { epoch: Epoch, seq: u64, armed: bool, allowed: bool },
    /// It asks for the vote.
    Vote { ask: Ask, seq: u64, verdict: Verdict },
}

impl Machine {
    pub(super) fn heard(&mut self, link: LinkId, beat: &Beat, actions: &mut Vec<Action>) {
        let known = beat.from.at() < self.set.roster.voters() && beat.from != self.set.me;
        if !known || beat.to != self.set.me || beat.link != link || usize::from(link.0) >= LINKS_MAX {
            self.counts.misdirected += 1;
            return;
        }
        let peer = &mut self.peers[beat.from.at()];
        let taken = peer.hear(beat, link, self.boot, self.now);
        if peer.dead && !matches!(taken, Taken::Old | Taken::Unproven) {
            peer.dead = false;
            actions.push(Action::Note(Note::Back(beat.from)));
        }
        match taken {
            Taken::Old => self.counts.replayed += 1,
            Taken::Unproven => self.counts.unproven += 1,
            Taken::Known => {}
            Taken::News | Taken::Restarted => self.absorb(beat, actions),
        }
    }

    /// Takes what is new. Nothing here acts: that is for the role's next step.
    fn absorb(&mut self, beat: &Beat, actions: &mut Vec<Action>) {
        self.register.hear(beat.seen);
        let want = &mut self.register.want;
        if (beat.maintenance.version, beat.maintenance.on) > (want.maintenance.version, want.maintenance.on) {
            want.maintenance = beat.maintenance;
        }
        want.known = want.known.max(beat.known);
        for member in [NodeId(0), NodeId(1)].into_iter().filter(|member| *member != self.set.me) {
            let released = &mut self.released[member.at()];
            *released = (*released).max(beat.members[member.at()].released);
        }
        if beat.from.is_member() {
            self.absorb_member(beat, actions);
        }
        let word = Word {
            boot: beat.boot,
            answer: beat.answer,
            left: At::from(beat.members[self.set.me.peer().at() & 1].left_us),
            backed: beat.members[self.set.me.peer().at() & 1].backed,
            armed: beat.members[self.set.me.peer().at() & 1].armed,
            known: beat.known,
        };
        self.take_word(beat.from, &word);
    }

    fn absorb_member(&mut self, beat: &Beat, actions: &mut Vec<Action>) {
        let (from, now) = (beat.from, self.now);
        let lease = At::from(beat.lease_us);
        let serves = beat.standing == Standing::Active;
        if serves && !std::mem::replace(&mut self.serves[from.at()], serves) {
            self.probes[from.at()].restart();
        }
        self.serves[from.at()] = serves;
        if beat.held == Epoch(0) && beat.ask.is_none() {
            self.register.hear_idle(from, beat.seen, now);
            self.requests[from.at()] = None;
        }
        if beat.held > Epoch(0) {
            if beat.ask.is_none() {
                self.register.unbind(from, now);
            }
            if !self.register.hear_held(beat.held) {
                self.counts.old_epoch += 1;
                self.requests[from.at()] = None;
                return;
            }
            self.learn_holder(beat.held, from);
            if beat.standing == Standing::Active {
                let known = Known { epoch: beat.held, tid: beat.tid };
                self.register.want.known = self.register.want.known.max(known);
            }
            let allowed = self.register.renew(from, beat.held, beat.armed, lease, now, self.dropped);
            self.requests[from.at()] =
                Some(Request::Renew { epoch: beat.held, seq: beat.seq, armed: beat.armed, allowed });
        } else if let Some(ask) = beat.ask {
            let verdict = self.judge(from, ask);
            if ask.earnest && matches!(verdict, Verdict::Would | Verdict::Granted) {
                self.register.vote(from, ask, beat.armed, lease, now, self.dropped);
            }
            let told = matches!(self.requests[from.at()],
                Some(Request::Vote { ask: before, verdict: said, .. })
                    if said == verdict && (before.epoch, before.earnest) == (ask.epoch, ask.earnest));
            // What is new is answered at once, the rest with the next beat: two who ask each other would never be still.
            if !told {
                self.reply |= 1 << from.0;
                if let Verdict::Denied(why) = verdict {
                    actions.push(Action::Note(Note::Denied(from, ask.epoch, why)));
                }
            }
            self.requests[from.at()] = Some(Request::Vote { ask, seq: beat.seq, verdict });
        }
    }

    fn judge(&self, from: NodeId, ask: Ask) -> Verdict {
        let other = from.peer();
        let ordered = ask.ground == Ground::Ordered;
        let blind = matches!(ask.ground, Ground::Silence | Ground::Vacant | Ground::Ordered);
        let at = Circumstances {
            service_heard: blind
                && other != self.set.me
                && self.hears_service(other)
                && self.released[other.at()] < ask.epoch,
            just_started: blind && self.now < self.judge_from + micros(self.set.dead),
            own_role: self.wants_it_more(from, ask),
            save_failed: self.save_failed,
            ordered,
        };
        self.register.judge(from, ask, at, self.now, self.dropped)
    }

    /// Whether this voter gets answers from a member's service: by its own end-to-end probes, or, if it makes none, by the
    /// heartbeats in which the member says that it serves.
    pub(super) fn hears_service(&self, member: NodeId) -> bool {
        let dead = micros(self.set.dead);
        if self.set.probes {
            return self.probes[member.at()].good_within(dead, self.now);
        }
        let peer = &self.peers[member.at()];
        let serves = peer.said.is_some_and(|said| said.standing == Standing::Active);
        serves && peer.heard_within(dead, self.now)
    }

    pub(super) fn learn_holder(&mut self, epoch: Epoch, holder: NodeId) {
        if self.holder.is_some_and(|(known, _)| known >= epoch) {
            return;
        }
        self.holder = Some((epoch, holder));
        self.active_since = 0;
        let before = self.register.want.holder;
        if before.is_some_and(|before| before.epoch >= epoch) {
            return;
        }
        self.register.want.holder = Some(Vote { epoch, candidate: holder });
        if before.is_some_and(|before| before.candidate != holder) {
            self.takeovers.retain(|at| *at + HOUR > self.now);
            self.takeovers.insert(0, self.now);
            self.takeovers.truncate(TAKEOVERS_KEPT);
            self.date_takeovers();
        }
    }

    /// What the journal remembers of the last hour. A date from the future, for the clock was wrong, counts as of now.
    pub(super) fn remember_takeovers(&mut self) {
        if self.dropped.is(Rule::TakeoversLast) {
            return;
        }
        let dates = self.register.want.takeovers.into_iter().filter(|date| *date > 0);
        let ages = dates.map(|date| self.wall.saturating_sub(u64::from(date)).saturating_mul(1_000_000));
        self.takeovers = ages.filter(|age| *age < HOUR).map(|age| START.saturating_sub(age)).collect();
    }

    pub(super) fn forget_takeovers(&mut self) {
        self.takeovers.clear();
        self.date_takeovers();
    }

    fn date_takeovers(&mut self) {
        let mut dates = [0; TAKEOVERS_KEPT];
        for (date, at) in dates.iter_mut().zip(&self.takeovers) {
            let seconds = (self.wall + at / 1_000_000).saturating_sub(START / 1_000_000);
            *date = u32::try_from(seconds).unwrap_or(u32::MAX);
        }
        self.register.want.takeovers = dates;
    }

    pub(super) fn probed(&mut self, target: NodeId, good: bool, actions: &mut Vec<Action>) {
        if target.is_member() {
            // What is about to serve, or no longer does, is not sick because it does not answer.
            let serves = if target == self.set.me { self.role.hold().is_some() } else { self.serves[target.at()] };
            if good || serves {
                self.probes[target.at()].learn(good, self.now);
            }
            self.own_probe(target, good, actions);
        }
    }

    /// A voter whose journal was lost votes again when so many others have spoken that every majority in which its
    /// forgotten vote may have counted has somebody among them.
    pub(super) fn recover(&mut self) {
        if !self.register.lost {
            return;
        }
        let voters = self.set.roster.voters();
        let needed = (voters + 1).saturating_sub(self.quorum).min(voters - 1);
        let spoken = self.others().filter_map(|id| self.peers[id.at()].said);
        let (count, seen) = spoken.fold((0, Epoch(0)), |(count, seen), said| {
            let told = said.seen.max(said.vote.map_or(Epoch(0), |vote| vote.epoch)).max(said.held);
            (count + 1, seen.max(told))
        });
        if count >= needed {
            self.trust_journal(seen);
        }
    }

    /// Nothing that was forgotten stands in the way any more, but that a member may be shooting on the strength of it: whoever has
    /// not been heard, since this start, to ask for nothing.
    pub(super) fn trust_journal(&mut self, seen: Epoch) {
        let longest = if self.dropped.is(Rule::ForgottenShotBinds) { 0 } else { super::hold_of(&self.set) };
        let shoots = [NodeId(0), NodeId(1)].map(|member| match self.peers[member.at()].said {
            Some(said) => said.ask.filter(|ask| ask.earnest).map_or(0, |ask| At::from(ask.hold_us).min(longest)),
            None => longest,
        });
        self.register.recover(seen, shoots, self.now);
    }

    /// Beats: to all when one is due or something changed, to those who wait for an answer at once.
    pub(super) fn speak(&mut self, actions: &mut Vec<Action>) {
        let due = self.now >= self.next_beat;
        if !due && !self.shout && self.reply == 0 {
            return;
        }
        if due {
            self.next_beat = self.now + micros(self.set.interval);
            self.feed(actions);
        }
        self.seq = self.now.max(self.seq + 1);
        for to in self.others() {
            if due || self.shout || self.reply & (1 << to.0) != 0 {
                for link in (0..self.set.links[to.at()]).take(LINKS_MAX).map(LinkId) {
                    actions.push(Action::Send { to, link, beat: self.beat(to, link) });
                }
            }
        }
        (self.shout, self.reply) = (false, 0);
    }

    fn beat(&self, to: NodeId, link: LinkId) -> Beat {
        let me = self.set.me;
        let disk = &self.register.disk;
        let unready = self.unready();
        let early = self.dropped.is(Rule::ReleaseAfterStop) && self.role.standing() == Standing::Stopping;
        Beat {
            from: me,
            to,
            link,
            boot: self.boot,
            seq: self.seq,
            echo: self.peers[to.at()].echo(link, (self.seq / 7) % 2 == 1),
            seen: disk.seen,
            vote: disk.vote,
            standing: if early { Standing::Standby } else { self.role.standing() },
            held: if early { Epoch(0) } else { self.role.held() },
            ask: self.ask(),
            answer: self.answer(to),
            members: [self.hearsay(NodeId(0)), self.hearsay(NodeId(1))],
            tid: self.copy.unwrap_or_default(),
            known: self.register.want.known,
            armed: self.armed(),
            lease_us: u32::try_from(micros(self.set.lease)).unwrap_or(u32::MAX),
            ready: unready.is_none(),
            maintenance: disk.maintenance,
            plea: self.plea(),
            refusal: self.refusal.map_or(0, Refusal::code),
            unready: unready.map_or(0, Refusal::code),
        }
    }

    fn answer(&self, to: NodeId) -> Option<Answer> {
        let answer = |epoch, seq, verdict| Some(Answer { epoch, seq, verdict });
        match (*self.requests.get(to.at())?)? {
            Request::Renew { epoch, seq, armed, allowed } => {
                let given = allowed && self.register.renewed(to, epoch, armed) && !self.save_failed;
                if given { answer(epoch, seq, Verdict::Granted) } else { None }
            }
            Request::Vote { ask, seq, verdict } => {
                let vote = Some(Vote { epoch: ask.epoch, candidate: to });
                if !ask.earnest || matches!(verdict, Verdict::Denied(_)) {
                    return answer(ask.epoch, seq, verdict);
                }
                let early = self.dropped.is(Rule::SaveBeforeAnswer) && self.register.want.vote == vote;
                let given = early
                    || (self.register.disk.vote == vote && self.register.renewed(to, ask.epoch, self.word_of(to)));
                if given { answer(ask.epoch, seq, Verdict::Granted) } else { None }
            }
        }
    }

    fn word_of(&self, member: NodeId) -> bool {
        self.register.want.armed[member.at()] > Epoch(0)
    }

    fn hearsay(&self, member: NodeId) -> Hearsay {
        let released = if member == self.set.me { self.own_release() } else { self.released[member.at()] };
        Hearsay {
            released,
            left_us: u32::try_from(self.register.left(member, self.now)).unwrap_or(u32::MAX),
            backed: self.register.want.backed[member.at()],
            armed: self.register.disk.armed[member.at()],
            service: self.services[member.at()],
        }
    }

    /// Tells the edges, when there is something to tell.
    pub(super) fn publish(&mut self, actions: &mut Vec<Action>) {
        let view = self.compose_view();
        if view != self.view {
            self.view = view;
            actions.push(Action::Publish(view));
        }
    }

    fn compose_view(&mut self) -> PairView {
        let Some((epoch, active)) = self.holder else {
            let phase = self.any_refusal().map_or(Phase::Starting, |(_, refusal)| Phase::Refused(refusal));
            return PairView { epoch: Epoch(0), active: None, phase };
        };
        PairView { epoch, active: Some(active), phase: self.phase(epoch, active) }
    }

    fn phase(&mut self, epoch: Epoch, active: NodeId) -> Phase {
        let (now, me) = (self.now, self.set.me);
        let standing = if active == me {
            (self.role.held() == epoch).then(|| self.role.standing())
        } else {
            let peer = &self.peers[active.at()];
            let fresh = peer.silent_for(self.judge_from, now) < micros(self.set.dead);
            peer.said.filter(|said| fresh && said.held == epoch).map(|said| said.standing)
        };
        let bids = self.others().any(|id| {
            let peer = &self.peers[id.at()];
            let asks = peer.said.is_some_and(|said| said.refusal == 0 && said.ask.is_some_and(|ask| ask.earnest));
            asks && peer.heard_within(micros(self.set.dead), now)
        });
        let bids = bids || (self.refusal.is_none() && self.ask().is_some_and(|ask| ask.earnest));
        match standing {
            Some(Standing::Active) => {
                if self.active_since == 0 {
                    self.active_since = now;
                }
                let late =
                    active != me && self.peers[active.at()].silent_for(self.judge_from, now) >= micros(self.set.warn);
                let sick = self.services[active.at()] == Service::Sick;
                match () {
                    () if (late || sick) && !self.register.want.maintenance.on => Phase::Suspect,
                    () if now < self.active_since + SETTLE => Phase::Serving,
                    () => Phase::Steady,
                }
            }
            Some(Standing::Taking | Standing::Stopping) => Phase::TakingOver,
            _ if bids => Phase::TakingOver,
            _ => match self.any_refusal() {
                Some((_, refusal)) => Phase::Refused(refusal),
                None => Phase::Suspect,
            },
        }
    }

    /// Why somebody refuses: this member, or one that is heard.
    pub(super) fn any_refusal(&self) -> Option<(NodeId, Refusal)> {
        let said = self.others().filter_map(|id| Some((id, Refusal::of(self.fresh(id)?.refusal)?)));
        let own = self.refusal.map(|refusal| (self.set.me, refusal));
        own.or_else(|| said.min_by_key(|(_, refusal)| refusal.code()))
    }

    /// What this member may be said to have released: nothing while anything of its service may run.
    fn own_release(&self) -> Epoch {
        let seen = self.register.disk.seen;
        match &self.role {
            Role::Witness | Role::Booting { .. } => Epoch(0),
            Role::Standby { .. } => seen,
            Role::Bidding { claim, .. } => seen.min(claim.epoch.before()),
            Role::Stopping { .. } if self.dropped.is(Rule::ReleaseAfterStop) => seen,
            Role::Taking { .. } | Role::Active { .. } | Role::Stopping { .. } | Role::StopFailed { .. } => {
                self.role.held().before().min(seen)
            }
        }
    }

    /// The last transaction that an active is known to have had.
    pub(super) fn known(&self) -> Tid {
        self.register.want.known.tid
    }
}
