//! Explores the decision core exhaustively within small bounds: every order of asks, answers, losses, delays, saves, crashes
//! and ticks, with two members and one or three witnesses. The veto and the waiting after a start, which only make votes
//! rarer, are left out: the core must be right without them.
//!
//! States from which the same follows are one ([`alike`]). With one witness all of them are seen: 27,433 within one lease's time and
//! 76,623 within two. With a crash, or with three witnesses, there are too many: each witness has some dozens of states of its own,
//! and no three of them follow from the other two, so alike witnesses leave a sixth of all triples. Of those the nearest
//! [`FIRST`] are looked at; the simulator goes further, by chance.
//!
//! For any number of witnesses there is a smaller model, seen whole ([`Bounds::common`]). Two members act at once only if the
//! voters on whom the proof of the one rests, a majority, and those whose leases the other still counts, a majority, have one in
//! common. So all voters but the two members and that one are left out. What they would have said is anything: who bids may take
//! the role at any time, with or without a reason, and nobody stops by himself. What must hold is: while a member has an epoch
//! whose proof may rest on the common voter, the other one, in an epoch no higher, counts no lease of that voter. Whatever happens
//! among more voters happens here, too, as far as these three see it, for voters do not speak to each other. Within two leases'
//! time: 24,437 states where the common voter is a witness, 118,609 when one of the three may crash, 73,365 where it is a member.

use super::claim::Claim;
use super::claim::Ground;
use super::claim::Word;
use super::epoch::Circumstances;
use super::epoch::Register;
use super::faults::Dropped;
use super::faults::Rule;
use super::io::Journal;
use super::lease::At;
use super::lease::Grants;
use super::message::Answer;
use super::message::Ask;
use super::message::Verdict;
use super::message::Vote;
use super::names::BootId;
use super::names::Epoch;
use super::names::NodeId;
use super::saved::Saved;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;

const TICK: At = 1_000;
const LEASE: At = TICK;
const HOLD: At = 2 * LEASE;

/// How far it is looked.
#[derive(Clone, Copy)]
struct Bounds {
    voters: u8,
    ticks: At,
    flying: usize,
    crashes: u8,
    bids: u8,
    states: usize,
    /// The voter that two majorities have in common: the others are anybody's guess.
    common: Option<NodeId>,
}

impl Bounds {
    /// The common voter is a witness, so that members need not vote for each other: what they would learn by that is the epoch
    /// to bid in, and that is any.
    fn is_apart(self) -> bool {
        self.common.is_some_and(|common| !common.is_member())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "states are copied as a whole")]
enum Member {
    Idle,
    Bidding(Claim),
    Holding(Epoch, Grants),
}

impl Member {
    fn take_out(&mut self, voter: NodeId) -> u64 {
        match self {
            Self::Idle => 0,
            Self::Bidding(claim) => fingerprint(&claim.take_out(voter)),
            Self::Holding(_, grants) => fingerprint(&grants.take_out(voter)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Message {
    /// From a member: its ask, or its claim of the role, and when that was sent.
    Ask { from: NodeId, to: NodeId, epoch: Epoch, holds: bool, sent: At },
    /// To a member: a voter's word.
    Word { from: NodeId, to: NodeId, boot: u64, answer: Answer, left: At, backed: Epoch, armed: Epoch },
    /// From a member: that it neither asks nor has the role.
    Idle { from: NodeId, to: NodeId, seen: Epoch },
}

/// When an answer comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrives {
    Now,
    Later,
    Never,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    now: At,
    registers: Vec<Register>,
    boots: Vec<u64>,
    members: [Member; 2],
    released: [Epoch; 2],
    /// Whose proof may rest on the common voter.
    rests: [bool; 2],
    /// Who ever held which epoch.
    holders: Vec<(Epoch, NodeId)>,
    flying: Vec<Message>,
    crashes: u8,
    bids: [u8; 2],
}

impl State {
    fn new(bounds: Bounds) -> Self {
        let register = Register::new(&Journal::Found(Saved::default()), 0, LEASE, Dropped(None));
        Self {
            now: 10 * TICK,
            registers: vec![register; usize::from(bounds.voters)],
            boots: vec![1; usize::from(bounds.voters)],
            members: [Member::Idle; 2],
            released: [Epoch(0); 2],
            rests: [false; 2],
            holders: Vec::new(),
            flying: Vec::new(),
            crashes: 0,
            bids: [0; 2],
        }
    }

    fn quorum(&self) -> usize {
        self.registers.len() / 2 + 1
    }

    /// Whether a member may acknowledge: it holds, and its lease runs.
    fn acts(&self, member: usize) -> Option<Epoch> {
        match &self.members[member] {
            Member::Holding(epoch, grants) => {
                grants.end(self.quorum(), LEASE).is_some_and(|end| self.now < end).then_some(*epoch)
            }
            Member::Idle | Member::Bidding(_) => None,
        }
    }

    /// The epoch that a member holds and for which it counts a lease of this voter.
    fn counts_on(&self, member: usize, voter: NodeId) -> Option<Epoch> {
        let Member::Holding(epoch, mut grants) = self.members[member] else { return None };
        let mut alone = Grants::none();
        alone.add(voter, grants.take_out(voter)?);
        alone.end(1, LEASE).is_some_and(|end| self.now < end).then_some(epoch)
    }

    fn wrong_with(&self, common: NodeId) -> Option<&'static str> {
        let wrong = |member: usize| match &self.members[member] {
            Member::Holding(epoch, _) if self.rests[member] => {
                self.counts_on(1 - member, common).is_some_and(|other| other <= *epoch)
            }
            _ => false,
        };
        (wrong(0) || wrong(1)).then_some("a lease that a proof has taken for over is counted")
    }

    fn wrong(&self) -> Option<&'static str> {
        let (last, before) = self.holders.split_last()?;
        match () {
            () if before.iter().any(|(epoch, whom)| *epoch == last.0 && *whom != last.1) => {
                Some("an epoch has two holders")
            }
            () if before.iter().any(|(epoch, _)| *epoch > last.0) => Some("epochs do not grow"),
            () if self.acts(0).is_some() && self.acts(1).is_some() => Some("two members act"),
            () => None,
        }
    }

    fn next(&self, bounds: Bounds, dropped: Dropped) -> Vec<Self> {
        let mut next = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self) -> bool| {
            let mut state = self.clone();
            if change(&mut state) {
                state.settle(bounds, dropped);
                state.flying.sort_unstable_by_key(fingerprint);
                next.push(state);
            }
        };
        if self.now < (10 + bounds.ticks) * TICK {
            add(&|state| state.tick(bounds));
        }
        for place in 0..self.flying.len() {
            for arrives in [true, false] {
                add(&|state| {
                    let message = state.flying.remove(place);
                    state.deliver(message, if arrives { Arrives::Now } else { Arrives::Never }, bounds, dropped);
                    true
                });
            }
        }
        if self.crashes < bounds.crashes {
            for voter in 0..self.registers.len() {
                add(&|state| state.crash(voter, dropped));
            }
        }
        for member in 0..2_u8 {
            for ahead in 0..=u64::from(bounds.common.is_some()) {
                add(&|state| state.begin(member, ahead, bounds, dropped));
            }
            add(&|state| state.idle(member));
            add(&|state| state.take(member, bounds, dropped));
            for to in (0..bounds.voters).filter(|to| *to != member) {
                for arrives in [Arrives::Now, Arrives::Later, Arrives::Never] {
                    add(&|state| state.exchange(member, to, arrives, bounds, dropped));
                }
                add(&|state| state.send_late(member, to, bounds));
            }
        }
        next
    }

    fn tick(&mut self, bounds: Bounds) -> bool {
        self.now += TICK;
        // Who may not act any more stops: the armed self-fence. With others left out nobody knows.
        for member in 0..2 {
            if bounds.common.is_none()
                && matches!(self.members[member], Member::Holding(..))
                && self.acts(member).is_none()
            {
                self.members[member] = Member::Idle;
            }
        }
        true
    }

    fn crash(&mut self, voter: usize, dropped: Dropped) -> bool {
        let saved = self.registers[voter].disk;
        self.registers[voter] = Register::new(&Journal::Found(saved), self.now, LEASE, dropped);
        self.boots[voter] += 1;
        self.crashes += 1;
        if voter < 2 {
            (self.members[voter], self.rests[voter]) = (Member::Idle, false);
        }
        true
    }

    /// A member bids, in an epoch `ahead` of the next one that it knows of.
    fn begin(&mut self, member: u8, ahead: u64, bounds: Bounds, dropped: Dropped) -> bool {
        let at = usize::from(member);
        if self.bids[at] >= bounds.bids || self.members[at] != Member::Idle {
            return false;
        }
        self.bids[at] += 1;
        let epoch = Epoch(self.registers[at].next(dropped).0 + ahead);
        let mut claim = Claim::new(epoch, Ground::Silence, false, 0);
        claim.earnest = Some(0);
        let ask = ask(claim.epoch);
        self.registers[at].vote(NodeId(member), ask, true, LEASE, self.now, dropped);
        self.registers[at].disk = self.registers[at].want;
        self.members[at] = Member::Bidding(claim);
        true
    }

    /// A member gives up what it wants or has, and says so to whom it reaches.
    fn idle(&mut self, member: u8) -> bool {
        let at = usize::from(member);
        if self.members[at] == Member::Idle {
            return false;
        }
        (self.members[at], self.rests[at]) = (Member::Idle, false);
        true
    }

    /// Who bids takes the role, for those who were left out may have said whatever it takes.
    fn take(&mut self, member: u8, bounds: Bounds, dropped: Dropped) -> bool {
        let at = usize::from(member);
        let (Some(common), Member::Bidding(claim)) = (bounds.common, &self.members[at]) else { return false };
        let released = self.released[NodeId(member).peer().at()];
        self.rests[at] = claim.may_rest_on(common, released, self.now, dropped);
        let (epoch, grants) = (claim.epoch, claim.grants);
        self.registers[at].hear_held(epoch);
        self.members[at] = Member::Holding(epoch, grants);
        true
    }

    fn message(&self, member: u8, to: u8) -> Message {
        let (from, to) = (NodeId(member), NodeId(to));
        match &self.members[from.at()] {
            Member::Idle => Message::Idle { from, to, seen: self.registers[from.at()].disk.seen },
            Member::Bidding(claim) => Message::Ask { from, to, epoch: claim.epoch, holds: false, sent: self.now },
            Member::Holding(epoch, _) => Message::Ask { from, to, epoch: *epoch, holds: true, sent: self.now },
        }
    }

    /// A beat arrives at once, and its answer at once, later or never.
    fn exchange(&mut self, member: u8, to: u8, answer: Arrives, bounds: Bounds, dropped: Dropped) -> bool {
        let message = self.message(member, to);
        let is_idle = matches!(message, Message::Idle { .. });
        if is_idle && answer != Arrives::Now || !is_idle && bounds.is_apart() && to < 2 {
            return false;
        }
        if answer == Arrives::Later && self.flying.len() >= bounds.flying {
            return false;
        }
        self.deliver(message, answer, bounds, dropped);
        true
    }

    /// A beat is under way for a while.
    fn send_late(&mut self, member: u8, to: u8, bounds: Bounds) -> bool {
        let message = self.message(member, to);
        let fits = self.flying.len() < bounds.flying && !self.flying.contains(&message);
        if fits {
            self.flying.push(message);
        }
        fits
    }

    fn deliver(&mut self, message: Message, answer: Arrives, bounds: Bounds, dropped: Dropped) {
        let now = self.now;
        match message {
            Message::Idle { from, to, seen } => {
                let register = &mut self.registers[to.at()];
                register.hear(seen);
                register.hear_idle(from, seen, now);
                // Only the other member takes it for a release, and only as far as it is still true: what it says is that
                // it will not act up to there.
                if to == from.peer() {
                    self.released[from.at()] = self.released[from.at()].max(seen);
                }
            }
            Message::Ask { from, to, epoch, holds, sent } => {
                let own_role = to.is_member() && self.members[to.at()] != Member::Idle;
                let register = &mut self.registers[to.at()];
                let granted = if holds {
                    register.hear_held(epoch) && register.renew(from, epoch, true, LEASE, now, dropped)
                } else {
                    let at = Circumstances {
                        service_heard: false,
                        just_started: false,
                        own_role,
                        save_failed: false,
                        ordered: false,
                    };
                    let verdict = register.judge(from, ask(epoch), at, now, dropped);
                    let given = matches!(verdict, Verdict::Would | Verdict::Granted);
                    if given {
                        register.vote(from, ask(epoch), true, LEASE, now, dropped);
                    }
                    given
                };
                // Nothing is answered that is not on disk.
                register.disk = register.want;
                let other = from.peer();
                let word = Message::Word {
                    from: to,
                    to: from,
                    boot: self.boots[to.at()],
                    answer: Answer { epoch, seq: sent, verdict: Verdict::Granted },
                    left: register.left(other, now),
                    backed: register.disk.backed[other.at()],
                    armed: register.disk.armed[other.at()],
                };
                match answer {
                    Arrives::Now if granted => self.deliver(word, Arrives::Never, bounds, dropped),
                    Arrives::Later if granted && self.flying.len() < bounds.flying => self.flying.push(word),
                    Arrives::Now | Arrives::Later | Arrives::Never => {}
                }
            }
            Message::Word { from, to, boot, answer, left, backed, armed } => {
                let word = Word {
                    boot: BootId(boot),
                    answer: Some(answer),
                    left,
                    backed,
                    armed,
                    known: super::message::Known::default(),
                };
                match &mut self.members[to.at()] {
                    Member::Idle => {}
                    Member::Bidding(claim) => claim.hear(from, &word, now),
                    Member::Holding(epoch, grants) => {
                        if *epoch == answer.epoch {
                            grants.add(from, answer.seq);
                        }
                    }
                }
            }
        }
    }

    /// What follows at once: own votes and renewals, and a proof that is one.
    fn settle(&mut self, bounds: Bounds, dropped: Dropped) {
        let quorum = self.quorum();
        for member in [NodeId(0), NodeId(1)] {
            let (now, at) = (self.now, member.at());
            let register = &mut self.registers[at];
            match &mut self.members[at] {
                Member::Idle => {}
                Member::Bidding(claim) => {
                    let voted = register.disk.vote == Some(Vote { epoch: claim.epoch, candidate: member });
                    let verdict = if voted { Verdict::Granted } else { Verdict::Would };
                    let word = Word {
                        boot: BootId(self.boots[at]),
                        answer: Some(Answer { epoch: claim.epoch, seq: now, verdict }),
                        left: register.left(member.peer(), now),
                        backed: register.disk.backed[member.peer().at()],
                        armed: register.disk.armed[member.peer().at()],
                        known: super::message::Known::default(),
                    };
                    claim.hear(member, &word, now);
                    let released = self.released[member.peer().at()];
                    if bounds.common.is_none() && claim.proof(released, quorum, LEASE, now, dropped).is_some() {
                        let (epoch, grants) = (claim.epoch, claim.grants);
                        register.hear_held(epoch);
                        self.holders.push((epoch, member));
                        self.members[at] = Member::Holding(epoch, grants);
                    }
                }
                Member::Holding(epoch, grants) => {
                    let epoch = *epoch;
                    if register.renew(member, epoch, true, LEASE, now, dropped) && register.renewed(member, epoch, true)
                    {
                        grants.add(member, now);
                    }
                }
            }
        }
    }
}

fn ask(epoch: Epoch) -> Ask {
    let hold_us = u32::try_from(HOLD).unwrap_or(u32::MAX);
    Ask { epoch, earnest: true, ground: Ground::Silence, hold_us }
}

/// A number for a state, the same for all from which the same follows: that differ only in which witness is which, in how long
/// something has been over, or in what nobody will ask for any more. One of them stands for all.
fn alike(state: &State, bounds: Bounds) -> u64 {
    let mut rest = state.clone();
    let deaf = [0, 1].map(|member| rest.bids[member] >= bounds.bids && rest.members[member] == Member::Idle);
    if deaf == [true, true] {
        return 0;
    }
    for register in &mut rest.registers {
        *register = register.canonical(rest.now, deaf, rest.crashes >= bounds.crashes);
    }
    for member in &mut rest.members {
        if let Member::Bidding(claim) = member {
            *claim = claim.canonical(rest.now);
        }
    }
    if bounds.is_apart() {
        // Of what members vote nothing follows but the epoch that they bid in next.
        for register in rest.registers.iter_mut().take(2) {
            let Saved { seen, floor, .. } = register.want;
            let saved = Saved { seen, floor, ..Saved::default() };
            *register = Register::new(&Journal::Found(saved), 0, 0, Dropped(None));
        }
        for (member, voter) in rest.members.iter_mut().zip([0, 1]) {
            member.take_out(NodeId(voter));
            member.take_out(NodeId(1 - voter));
        }
    }
    if !state.flying.is_empty() {
        return fingerprint(&rest);
    }
    let witnesses = 2..u8::try_from(state.registers.len()).unwrap_or(u8::MAX);
    let mut seen: Vec<u64> = witnesses
        .map(NodeId)
        .map(|witness| {
            let known: Vec<u64> = rest.members.iter_mut().map(|member| member.take_out(witness)).collect();
            fingerprint(&(rest.registers[witness.at()], rest.boots[witness.at()], known))
        })
        .collect();
    seen.sort_unstable();
    rest.registers.truncate(2);
    rest.boots.truncate(2);
    fingerprint(&(rest, seen))
}

fn fingerprint<T: Hash>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// How many states there are, whether all were seen, how often a role was taken, and the first that is wrong.
struct Explored {
    states: usize,
    all: bool,
    held: usize,
    wrong: Option<&'static str>,
}

fn explore(bounds: Bounds, dropped: Dropped) -> Explored {
    let first = State::new(bounds);
    let mut seen = HashSet::from([alike(&first, bounds)]);
    let mut queue = VecDeque::from([first]);
    let mut found = Explored { states: 1, all: true, held: 0, wrong: None };
    while let Some(state) = queue.pop_front() {
        for next in state.next(bounds, dropped) {
            if !seen.insert(alike(&next, bounds)) {
                continue;
            }
            found.states += 1;
            let acts =
                |member| bounds.common.map_or_else(|| next.acts(member), |common| next.counts_on(member, common));
            found.held += usize::from(acts(0).or(acts(1)).is_some());
            found.wrong = bounds.common.map_or_else(|| next.wrong(), |common| next.wrong_with(common));
            if found.wrong.is_some() {
                found.all = false;
                return found;
            }
            if found.states >= bounds.states {
                found.all = false;
                return found;
            }
            queue.push_back(next);
        }
    }
    found
}

/// How many states are looked at where there are too many.
const FIRST: usize = 40_000;

/// `HEARTBEAT_STATES=n` looks further than at `states` of them.
fn look(voters: u8, ticks: At, crashes: u8, rule: Option<Rule>, states: usize) -> Explored {
    let further = std::env::var("HEARTBEAT_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let states = states.max(further);
    let found = explore(Bounds { voters, ticks, flying: 0, crashes, bids: 1, states, common: None }, Dropped(rule));
    eprintln!(
        "{voters} voters, {ticks} ticks, {crashes} crashes, without {rule:?}: {} states, all of them: {}, held in {}: {:?}",
        found.states, found.all, found.held, found.wrong
    );
    found
}

/// The same with the voters left out that two majorities do not have in common.
fn look_at(common: u8, ticks: At, crashes: u8, rule: Option<Rule>) -> Explored {
    let voters = 2.max(common + 1);
    let common = Some(NodeId(common));
    let found =
        explore(Bounds { voters, ticks, flying: 0, crashes, bids: 1, states: usize::MAX, common }, Dropped(rule));
    eprintln!(
        "common {common:?}, {ticks} ticks, {crashes} crashes, without {rule:?}: {} states, all of them: {}, held in {}: {:?}",
        found.states, found.all, found.held, found.wrong
    );
    found
}

#[test]
fn no_order_of_events_makes_two_actives_with_any_number_of_witnesses() {
    sees_nothing_wrong(&look_at(2, 2, 0, None));
    for rule in [Rule::WaitForLease, Rule::OneVotePerEpoch, Rule::VoteEndsLease] {
        assert!(look_at(2, 2, 0, Some(rule)).wrong.is_some(), "{rule:?} is not missed");
    }
}

#[test]
fn no_crash_makes_two_actives_with_any_number_of_witnesses() {
    sees_nothing_wrong(&look_at(2, 2, 1, None));
}

/// One member will do, for they are alike.
#[test]
fn no_order_of_events_makes_two_actives_whose_majorities_share_a_member() {
    sees_nothing_wrong(&look_at(0, 2, 0, None));
}

fn sees_nothing_wrong(whole: &Explored) {
    assert_eq!((whole.wrong, whole.all), (None, true));
    assert!(whole.held > 1_000, "a lease is counted in many of them");
}

#[test]
fn no_order_of_events_makes_two_actives_with_one_witness() {
    let whole = look(3, 2, 0, None, usize::MAX);
    assert_eq!((whole.wrong, whole.all), (None, true));
    assert!(whole.held > 10_000, "the role is taken in many of them");
    let found = look(3, 3, 1, None, FIRST);
    assert_eq!(found.wrong, None);
    assert!(found.held > 1_000, "the role is taken somewhere");
}

#[test]
fn no_order_of_events_makes_two_actives_with_three_witnesses() {
    let found = look(5, 2, 0, None, FIRST);
    assert_eq!(found.wrong, None);
    assert!(found.held > 1_000, "the role is taken somewhere");
}

#[test]
fn the_explorer_finds_what_a_dropped_rule_allows() {
    for (rule, crashes) in [(Rule::WaitForLease, 0), (Rule::OneVotePerEpoch, 0)] {
        assert!(look(3, 3, crashes, Some(rule), FIRST).wrong.is_some(), "{rule:?} is not missed");
    }
}
