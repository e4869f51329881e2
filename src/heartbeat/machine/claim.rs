//! A candidate's claim to the role: votes, permit to shoot, and the proof that the other member no longer acts.

use super::faults::Dropped;
use super::faults::Rule;
use super::lease::At;
use super::lease::Grants;
use super::lease::with_drift;
use super::message::Answer;
use super::message::Denial;
use super::message::Known;
use super::message::Verdict;
use super::names::BootId;
use super::names::Epoch;
use super::names::NodeId;
use super::names::VOTERS_MAX;

/// What makes a member ask for the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ground {
    /// The other member is silent on all links.
    Silence,
    /// The other member has said that it stopped.
    Released,
    /// The other member has said that it cannot stop.
    FenceMe,
    /// Nobody has ever had the role.
    Vacant,
    /// An operator has ordered it, and says that the other member is off.
    Ordered,
}

/// What proves that the other member does not act, and will not in this epoch or a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProofKind {
    /// It is alive and has said so, itself or through another voter.
    Release,
    /// A fence device has switched it off, and said so when it was asked again.
    Fence,
    /// Its lease has expired at a majority, and it had announced in that epoch that its self-fence is armed.
    Lease,
    /// No voter of a majority has ever voted for it, so it never had the role.
    Vacancy,
    /// An operator has declared that it is off.
    Operator,
}

/// The right to raise the address and to start the storage. Made only by this module, from evidence; not by anybody who
/// would like to have one.
///
/// ```compile_fail
/// use tidegate::heartbeat::machine::Epoch;
/// use tidegate::heartbeat::machine::ProofKind;
/// use tidegate::heartbeat::machine::TakeoverProof;
/// let forged = TakeoverProof { epoch: Epoch(7), kind: ProofKind::Fence };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TakeoverProof {
    epoch: Epoch,
    kind: ProofKind,
}

impl TakeoverProof {
    /// For which epoch it is one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// One without any ground, as a machine would have that takes its journal for a proof.
    pub(super) fn planted(epoch: Epoch) -> Self {
        Self { epoch, kind: ProofKind::Operator }
    }

    /// On what it rests.
    #[must_use]
    pub fn kind(&self) -> ProofKind {
        self.kind
    }
}

/// What a candidate has gathered for one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// Which.
    pub(super) epoch: Epoch,
    /// Why.
    ground: Ground,
    /// An operator wants it.
    pub(super) ordered: bool,
    /// Since when.
    pub(super) since: At,
    /// Votes are asked for in earnest: the own one is given.
    pub(super) earnest: Option<At>,
    /// When a majority had voted.
    pub(super) voted_at: Option<At>,
    /// Who voted, on which of our beats.
    pub(super) grants: Grants,
    /// Who would, since when we know; who would not, and why.
    views: [View; VOTERS_MAX],
    /// A fence has confirmed that the other member is off.
    pub(super) fenced: bool,
}

/// What one voter has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct View {
    boot: BootId,
    would: Option<At>,
    denial: Option<Denial>,
    /// When what it gave to the other member has run out.
    free_at: At,
    backed: Epoch,
    armed: Epoch,
    known: Known,
}

/// One voter's word, as a candidate hears it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    /// The voter's start: a vote of a former one is void, for it may be forgotten.
    pub(super) boot: BootId,
    /// Its answer, if it has one to this epoch.
    pub(super) answer: Option<Answer>,
    /// How long what it gave to the other member may still run.
    pub(super) left: At,
    /// The highest epoch in which it backed the other member.
    pub(super) backed: Epoch,
    /// The epoch in which the other member announced to it an armed self-fence.
    pub(super) armed: Epoch,
    /// The last transaction of an active that it knows.
    pub(super) known: Known,
}

impl Claim {
    pub(super) fn new(epoch: Epoch, ground: Ground, ordered: bool, now: At) -> Self {
        let view = View {
            boot: BootId(0),
            would: None,
            denial: None,
            free_at: At::MAX,
            backed: Epoch(0),
            armed: Epoch(0),
            known: Known::default(),
        };
        Self {
            epoch,
            ground,
            ordered,
            since: now,
            earnest: None,
            voted_at: None,
            grants: Grants::none(),
            views: [view; VOTERS_MAX],
            fenced: false,
        }
    }

    /// Why.
    pub(super) fn ground(&self) -> Ground {
        self.ground
    }

    /// The reason changed: who was silent speaks, or the other way round.
    pub(super) fn set_ground(&mut self, ground: Ground) {
        self.ground = ground;
    }

    /// A voter spoke.
    pub(super) fn hear(&mut self, voter: NodeId, word: &Word, now: At) {
        let Some(view) = self.views.get_mut(voter.at()) else { return };
        if view.boot != word.boot {
            self.grants.forget(voter);
            (view.would, view.denial, view.boot) = (None, None, word.boot);
        }
        let Some(answer) = word.answer.filter(|answer| answer.epoch == self.epoch) else { return };
        match answer.verdict {
            Verdict::Granted if self.earnest.is_some() => {
                // From its vote on, the voter renews nothing of the other's, so this only comes nearer.
                let free_at = now + with_drift(word.left);
                view.free_at = if self.grants.has(voter) { view.free_at.min(free_at) } else { free_at };
                (view.backed, view.armed, view.denial) = (word.backed, word.armed, None);
                view.known = view.known.max(word.known);
                self.grants.add(voter, answer.seq);
            }
            Verdict::Granted | Verdict::Would => (view.would, view.denial) = (Some(now), None),
            Verdict::Denied(why) => (view.would, view.denial) = (None, Some(why)),
        }
    }

    /// The same claim as far as anything can follow from it, for the explorer.
    #[cfg(test)]
    pub(super) fn canonical(mut self, now: At) -> Self {
        for view in self.views.iter_mut().filter(|view| view.free_at < now) {
            view.free_at = now;
        }
        self
    }

    /// Whether a proof may rest on this voter's word, among others', for the explorer: what each voter of the majority has to say
    /// that makes one.
    #[cfg(test)]
    pub(super) fn may_rest_on(&self, voter: NodeId, released: Epoch, now: At, dropped: Dropped) -> bool {
        let view = &self.views[voter.at()];
        let over = view.free_at <= now || dropped.is(Rule::WaitForLease);
        let expired = over && (view.armed >= view.backed || dropped.is(Rule::LeaseNeedsArmed));
        released >= self.epoch || (self.grants.has(voter) && (view.backed <= released || expired))
    }

    /// Takes out what it knows of one voter: for the explorer, to whom witnesses are alike.
    #[cfg(test)]
    pub(super) fn take_out(&mut self, voter: NodeId) -> impl std::hash::Hash + use<> {
        let empty = Self::new(Epoch(0), Ground::Vacant, false, 0).views[voter.at()];
        (std::mem::replace(&mut self.views[voter.at()], empty), self.grants.take_out(voter))
    }

    /// How many would vote, as they said since `since`.
    pub(super) fn willing(&self, since: At) -> usize {
        self.views.iter().filter(|view| view.would.is_some_and(|at| at >= since)).count()
    }

    /// Why not, of the first who would not.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.denials().next().map(|(_, why)| why)
    }

    /// Who would not, and why.
    pub(super) fn denials(&self) -> impl Iterator<Item = (NodeId, Denial)> {
        (0..).map(NodeId).zip(&self.views).filter_map(|(id, view)| Some((id, view.denial?)))
    }

    /// How many have no vote left for this epoch.
    pub(super) fn spent(&self) -> usize {
        self.views.iter().filter(|view| view.denial == Some(Denial::OldEpoch)).count()
    }

    /// What the voters know of the active's last transaction.
    pub(super) fn known(&self) -> Known {
        self.views.iter().map(|view| view.known).max().unwrap_or_default()
    }

    /// Whether the votes of a majority are there, and not older than `span`.
    pub(super) fn has_votes(&self, quorum: usize, span: At, now: At) -> bool {
        self.grants.end(quorum, span).is_some_and(|end| now < end)
    }

    /// The proof, if the evidence is one. `released` is up to which epoch the other member has said that it will not act;
    /// `lease` for how long votes count.
    pub(super) fn proof(
        &self,
        released: Epoch,
        quorum: usize,
        lease: At,
        now: At,
        dropped: Dropped,
    ) -> Option<TakeoverProof> {
        if !self.has_votes(quorum, lease, now) {
            return None;
        }
        let kind = if self.ordered {
            ProofKind::Operator
        } else if released >= self.epoch {
            ProofKind::Release
        } else if self.fenced {
            ProofKind::Fence
        } else if self.unbacked(released, quorum) {
            if released == Epoch(0) { ProofKind::Vacancy } else { ProofKind::Release }
        } else if quorum > 1 && self.expired(released, quorum, now, dropped) {
            ProofKind::Lease
        } else {
            return None;
        };
        Some(TakeoverProof { epoch: self.epoch, kind })
    }

    /// An operator's word alone, where no majority can be asked.
    pub(super) fn operators_proof(&self) -> Option<TakeoverProof> {
        self.ordered.then_some(TakeoverProof { epoch: self.epoch, kind: ProofKind::Operator })
    }

    fn voters(&self) -> impl Iterator<Item = &View> {
        (0..).map(NodeId).zip(&self.views).filter(|(id, _)| self.grants.has(*id)).map(|(_, view)| view)
    }

    /// A majority that has not backed the other member since that said it stopped, or never: it does not have the role, for
    /// that takes a majority too.
    fn unbacked(&self, released: Epoch, quorum: usize) -> bool {
        quorum > 1 && self.voters().filter(|view| view.backed <= released).count() >= quorum
    }

    /// A majority whose leases to the other member have run out, and nobody among the voters that backed it without having
    /// heard, in that epoch, that its self-fence is armed. Every epoch in which it may act was backed by one of these.
    fn expired(&self, released: Epoch, quorum: usize, now: At, dropped: Dropped) -> bool {
        let over = self.voters().filter(|view| view.free_at <= now || dropped.is(Rule::WaitForLease)).count();
        over >= quorum && (self.may_expire(released) || dropped.is(Rule::LeaseNeedsArmed))
    }

    /// When the lease that a majority still counts will have run out.
    pub(super) fn expires_at(&self, quorum: usize) -> Option<At> {
        let mut free: Vec<At> = self.voters().map(|view| view.free_at).collect();
        free.sort_unstable();
        free.get(quorum.checked_sub(1)?).copied()
    }

    /// Whether the lease rung can ever be reached.
    pub(super) fn may_expire(&self, released: Epoch) -> bool {
        self.voters().all(|view| view.backed <= released || view.armed >= view.backed)
    }
}
