//! The invariants, looked at from outside, where everything can be seen.

use std::collections::BTreeMap;

use tidegate::heartbeat::machine::Beat;
use tidegate::heartbeat::machine::Epoch;
use tidegate::heartbeat::machine::NodeId;
use tidegate::heartbeat::machine::Note;
use tidegate::heartbeat::machine::Order;
use tidegate::heartbeat::machine::PairView;
use tidegate::heartbeat::machine::ProofKind;
use tidegate::heartbeat::machine::Refusal;
use tidegate::heartbeat::machine::Standing;
use tidegate::heartbeat::machine::TakeoverReport;
use tidegate::heartbeat::machine::message::Verdict;

use super::world::MS;
use super::world::NODES;
use super::world::Node;
use super::world::SECOND;
use super::world::Terms;
use super::world::Us;

/// One member has taken the role.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub node: usize,
    pub epoch: Epoch,
    pub proof: ProofKind,
    pub at: Us,
}

pub struct Audit {
    pub broken: Option<String>,
    holders: BTreeMap<Epoch, usize>,
    /// For whom each voter spoke in each epoch.
    backed: BTreeMap<(usize, Epoch), NodeId>,
    pub taken: Vec<Taken>,
    heard: [[Us; NODES]; NODES],
    knows: [(Epoch, u64); NODES],
    voters: usize,
    /// Who shoots at whom until when, and when shots hit.
    shooting: [Us; 2],
    pub hits: Vec<(usize, usize, Us)>,
    pub bids: usize,
    pub reports: Vec<TakeoverReport>,
    pub views: [Option<PairView>; NODES],
    pub fenced: usize,
    /// Whether any takeover at all is one too many, from then on.
    pub quiet_from: Option<Us>,
    /// Whether any stop of a service is one too many, from then on.
    pub still_from: Option<Us>,
    /// Who must not have the role.
    pub never: Option<usize>,
    /// When an operator last ordered each member to take the role, as the diary has it.
    forced: [Option<Us>; 2],
    /// What was said of orders that were not followed, and of takeovers that are not made.
    pub unfollowed: Vec<(usize, Order, Refusal)>,
    pub refused: Vec<(usize, Refusal)>,
    pub would: usize,
}

impl Audit {
    pub fn new(voters: usize) -> Self {
        Self {
            broken: None,
            holders: BTreeMap::new(),
            backed: BTreeMap::new(),
            taken: Vec::new(),
            heard: [[0; NODES]; NODES],
            knows: [(Epoch(0), 0); NODES],
            voters,
            shooting: [0; 2],
            hits: Vec::new(),
            bids: 0,
            reports: Vec::new(),
            views: [None; NODES],
            fenced: 0,
            quiet_from: None,
            still_from: None,
            never: None,
            forced: [None; 2],
            unfollowed: Vec::new(),
            refused: Vec::new(),
            would: 0,
        }
    }

    pub fn fail(&mut self, now: Us, what: impl Into<String>) {
        if self.broken.is_none() {
            self.broken = Some(format!("at {} ms: {}", now / MS, what.into()));
        }
    }

    pub fn booted(&mut self, node: usize) {
        self.heard[node] = [0; NODES];
        self.knows[node] = (Epoch(0), 0);
    }

    pub fn heard(&mut self, node: usize, beat: &Beat, now: Us) {
        self.heard[node][usize::from(beat.from.0)] = now;
        if beat.standing == Standing::Active {
            let known = &mut self.knows[node];
            *known = (*known).max((beat.held, beat.tid.0));
        }
    }

    /// One vote per voter and epoch: whatever it grants in an epoch, it grants to one.
    pub fn says(&mut self, from: usize, to: NodeId, beat: &Beat, now: Us) {
        let granted = beat.answer.filter(|answer| answer.verdict == Verdict::Granted);
        let votes = beat.vote.map(|vote| (vote.epoch, vote.candidate));
        // To who holds the epoch it is a lease, and no vote any more.
        let granted = granted.filter(|answer| self.holders.get(&answer.epoch) != Some(&usize::from(to.0)));
        for (epoch, whom) in granted.map(|answer| (answer.epoch, to)).into_iter().chain(votes) {
            if *self.backed.entry((from, epoch)).or_insert(whom) != whom {
                self.fail(now, format!("node {from} votes for both in epoch {epoch}"));
            }
        }
    }

    /// The role is taken: one holder per epoch, growing; a proof that is one; a copy that has all.
    pub fn took(&mut self, node: usize, epoch: Epoch, proof: ProofKind, now: Us, nodes: &[Node], terms: &Terms) {
        let other = 1 - node;
        if let Some(holder) = self.holders.insert(epoch, node)
            && holder != node
        {
            self.fail(now, format!("epoch {epoch} has two holders"));
        }
        if self.taken.last().is_some_and(|last| last.epoch >= epoch) {
            self.fail(now, format!("epoch {epoch} is not above the last one"));
        }
        let peer = &nodes[other];
        if proof == ProofKind::Release && peer.running {
            self.fail(now, "a release of a member whose storage runs");
        }
        if proof == ProofKind::Fence && peer.machine.is_some() && peer.running {
            self.fail(now, "a fence of a member that runs on");
        }
        if proof == ProofKind::Operator {
            // It asks, and then waits for votes, for as long as it is polite.
            let fresh = |at: Us| now <= at + 9 * terms.dead + SECOND;
            if !self.forced[node].is_some_and(fresh) {
                self.fail(now, format!("node {node} took over by an operator's word that nobody has just given"));
            }
        } else {
            self.guard(node, nodes, now);
        }
        if self.never == Some(node) {
            self.fail(now, format!("node {node} took over by {proof:?}, and must not"));
        }
        if self.quiet_from.is_some_and(|from| now >= from) {
            self.fail(now, format!("node {node} took over in epoch {epoch} by {proof:?}, without any need"));
        }
        self.taken.push(Taken { node, epoch, proof, at: now });
    }

    /// Its copy has all that it has itself heard of, and all that enough others for a majority have.
    fn guard(&mut self, node: usize, nodes: &[Node], now: Us) {
        let quorum = if self.voters == 2 { 1 } else { self.voters / 2 + 1 };
        let live = (0..self.voters).filter(|other| *other != node && nodes[*other].machine.is_some());
        let mut others: Vec<(Epoch, u64)> = live.map(|other| self.knows[other]).collect();
        others.sort_unstable();
        let needed = others.get(quorum.wrapping_sub(2)).copied().unwrap_or_default().max(self.knows[node]);
        if nodes[node].tid < needed.1 {
            self.fail(now, format!("promoted with transaction {} of {}", nodes[node].tid, needed.1));
        }
    }

    /// A shot is fired: by one who hears a majority, and never while the other shoots too.
    pub fn fences(&mut self, node: usize, victim: usize, epoch: Epoch, now: Us, terms: &Terms) {
        self.fenced += 1;
        let quorum = if self.voters == 2 { 1 } else { self.voters / 2 + 1 };
        let recent = terms.lease + 2 * terms.delay.1 + 10 * MS;
        let heard = (0..self.voters).filter(|other| *other != node && self.heard[node][*other] + recent >= now).count();
        if heard + 1 < quorum {
            self.fail(now, format!("node {node} shoots without a majority: it hears {heard} others"));
        }
        let others = (0..self.voters).filter(|voter| *voter != node);
        let votes = others.filter_map(|voter| self.backed.get(&(voter, epoch)));
        if votes.filter(|whom| usize::from(whom.0) == node).count() + 1 < quorum {
            self.fail(now, format!("node {node} shoots without the votes of a majority"));
        }
        if self.shooting[victim] > now {
            self.fail(now, "both members shoot at one time");
        }
        if self.quiet_from.is_some_and(|from| now >= from) {
            self.fail(now, format!("node {node} shoots without any need"));
        }
    }

    /// The shot that was just fired is over then, whatever came of it.
    pub fn ends(&mut self, node: usize, at: Us) {
        self.shooting[node] = at;
    }

    pub fn shot(&mut self, node: usize, by: usize, now: Us) {
        if let Some((before, _, at)) = self.hits.last().copied()
            && before == by
            && at + 200 * MS > now
        {
            self.fail(now, "both members were fenced");
        }
        self.hits.push((node, by, now));
    }

    pub fn report(&mut self, report: TakeoverReport) {
        self.reports.push(report);
    }

    pub fn view(&mut self, node: usize, view: PairView) {
        self.views[node] = Some(view);
    }

    /// A member stops its service, or starts with doing so (epoch 0).
    pub fn stops(&mut self, node: usize, epoch: Epoch, now: Us) {
        if epoch > Epoch(0) && self.still_from.is_some_and(|from| now >= from) {
            self.fail(now, format!("node {node} stops its service in epoch {epoch}, and should let it be"));
        }
    }

    pub fn note(&mut self, who: usize, note: Note, now: Us) {
        match note {
            Note::Role(_, Standing::Bidding) => self.bids += 1,
            Note::Ordered(Order::ForceTakeover) if who < 2 => self.forced[who] = Some(now),
            Note::OrderRefused(order, why) => self.unfollowed.push((who, order, why.refusal)),
            Note::Refused(why) => self.refused.push((who, why.refusal)),
            Note::WouldTakeOver(_) => self.would += 1,
            _ => {}
        }
    }
}
