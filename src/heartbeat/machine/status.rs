//! What an operator sees, and what would happen if something were lost now: pure functions of what the machine knows.

use super::Counts;
use super::HOUR;
use super::Machine;
use super::claim::ProofKind;
use super::io::PairView;
use super::io::Refusal;
use super::lease::At;
use super::lease::with_drift;
use super::message::Known;
use super::message::Service;
use super::message::Standing;
use super::message::Vote;
use super::micros;
use super::names::Epoch;
use super::names::LINKS_MAX;
use super::names::MEMBERS;
use super::names::NodeId;
use super::settings::Mode;
use crate::zodb::Tid;
use std::time::Duration;
use std::time::Instant;

/// One voter's picture of the pair.
#[derive(Clone, Debug, PartialEq)]
pub struct PairStatus {
    /// Whose picture it is.
    pub me: NodeId,
    /// What edges are told.
    pub view: PairView,
    /// What this voter does.
    pub standing: Standing,
    /// The epoch in which it has the role; 0 when it has not.
    pub held: Epoch,
    /// How long its lease still runs; `None` without a role, or when the lease does not bind.
    pub lease_left: Option<Duration>,
    /// Whether its self-fence is armed.
    pub armed: bool,
    /// Whether it would take the role if it had to, and if not, why.
    pub ready: Result<(), Refusal>,
    /// Why it refuses to take over just now.
    pub refusal: Option<Refusal>,
    /// Whether the pair is in maintenance.
    pub maintenance: bool,
    /// The highest epoch heard of, and its last vote, as they are on disk.
    pub seen: Epoch,
    /// See `seen`.
    pub vote: Option<Vote>,
    /// The last transaction of the own copy.
    pub copy: Option<Tid>,
    /// The last transaction of an active that it has heard of.
    pub known: Known,
    /// How the members' services look from here.
    pub services: [Service; MEMBERS],
    /// The others.
    pub voters: Vec<VoterStatus>,
    /// Takeovers within the last hour.
    pub takeovers: usize,
    /// What is only counted.
    pub counts: Counts,
}

/// One other voter, as it is heard.
#[derive(Clone, Debug, PartialEq)]
pub struct VoterStatus {
    /// Who.
    pub id: NodeId,
    /// How long ago it was heard; `None`: never.
    pub heard: Option<Duration>,
    /// What it last said that it does.
    pub standing: Option<Standing>,
    /// The last transaction of its copy.
    pub tid: Tid,
    /// Whether it would take the role.
    pub ready: bool,
    /// Why it refuses.
    pub refusal: Option<Refusal>,
    /// Its links.
    pub links: Vec<LinkStatus>,
}

/// One link to a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// How long ago something was heard on it; `None`: never since the voter's start.
    pub heard: Option<Duration>,
    /// The longest pause on it since this voter's start: `dead` should be several times that.
    pub gap_max: Duration,
    /// Whether it hears them, and they do not hear it.
    pub one_way: bool,
}

/// What might be lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Voters that are off.
    pub killed: Vec<NodeId>,
    /// Pairs of voters between which all links are cut.
    pub cut: Vec<(NodeId, NodeId)>,
}

/// What would come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The active stays.
    Stays(NodeId),
    /// Another takes over, on the first of these proofs, within about that time and what the storage takes to start.
    Takeover(NodeId, Vec<ProofKind>, Duration),
    /// There would be no active, for that reason.
    Refused(Refusal),
    /// There is no active now, or none is left.
    Nobody,
}

/// An outcome, and what it follows from, in sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// What.
    pub outcome: Outcome,
    /// Why.
    pub because: Vec<String>,
}

impl Machine {
    /// Everything that this voter can tell an operator.
    #[must_use]
    pub fn status(&self, now: Instant) -> PairStatus {
        let now = self.micros_of(now);
        let lease_end = self.role.hold().and_then(|hold| self.lease_end(hold));
        PairStatus {
            me: self.set.me,
            view: self.view,
            standing: self.role.standing(),
            held: self.role.held(),
            lease_left: lease_end.map(|end| Duration::from_micros(end.saturating_sub(now))),
            armed: self.armed(),
            ready: if self.set.me.is_member() { self.unfit().map_or(Ok(()), Err) } else { Err(Refusal::Standby) },
            refusal: self.refusal,
            maintenance: self.register.want.maintenance.on,
            seen: self.register.disk.seen,
            vote: self.register.disk.vote,
            copy: self.copy,
            known: self.register.want.known,
            services: self.services,
            voters: self.others().map(|id| self.voter_status(id, now)).collect(),
            takeovers: self.takeovers.iter().filter(|at| **at + HOUR > now).count(),
            counts: self.counts,
        }
    }

    fn voter_status(&self, id: NodeId, now: At) -> VoterStatus {
        let peer = &self.peers[id.at()];
        let ago = |at: Option<At>| at.map(|at| Duration::from_micros(now.saturating_sub(at)));
        let links = peer.links.iter().take(usize::from(self.set.links[id.at()]).min(LINKS_MAX));
        VoterStatus {
            id,
            heard: ago(peer.heard),
            standing: peer.said.map(|said| said.standing),
            tid: peer.said.map_or(Tid(0), |said| said.tid),
            ready: peer.said.is_some_and(|said| said.ready),
            refusal: peer.said.and_then(|said| Refusal::of(said.refusal)),
            links: links
                .map(|link| LinkStatus {
                    heard: ago(link.heard),
                    gap_max: Duration::from_micros(link.gap),
                    one_way: link.one_way,
                })
                .collect(),
        }
    }

    /// What would happen if that were lost now, as far as this voter can know: from its own state and from what the others
    /// said last.
    #[must_use]
    pub fn forecast(&self, loss: &Loss) -> Forecast {
        let mut because = Vec::new();
        let outcome = self.outcome(loss, &mut because);
        if let Outcome::Refused(refusal) = outcome {
            because.push(format!("{}; what would help: {}", refusal.reason(), refusal.remedy()));
        }
        Forecast { outcome, because }
    }

    fn outcome(&self, loss: &Loss, because: &mut Vec<String>) -> Outcome {
        let Some(active) = self.serving() else {
            because.push("no member serves now".into());
            return self.any_refusal().map_or(Outcome::Nobody, Outcome::Refused);
        };
        let heir = active.peer();
        let lives = |id: NodeId| !loss.killed.contains(&id) && (id == self.set.me || self.fresh(id).is_some());
        let apart = |one: NodeId, two: NodeId| loss.cut.contains(&(one, two)) || loss.cut.contains(&(two, one));
        let reaches = |one: NodeId, two: NodeId| one == two || (lives(two) && !apart(one, two));
        let count = |from: NodeId| self.set.roster.ids().filter(|id| reaches(from, *id)).count();
        let name = |id: NodeId| self.set.roster.name(id).map_or("?", |name| name.as_str());
        let witnessed = self.set.roster.has_witness();
        let voters = self.set.roster.voters();
        if lives(active) && witnessed && count(active) >= self.quorum {
            because.push(format!("{} renews its lease at {} of {voters} voters", name(active), count(active)));
            return Outcome::Stays(active);
        }
        if lives(active) && !witnessed && !apart(active, heir) {
            because.push(format!("{} and {} hear each other", name(active), name(heir)));
            return Outcome::Stays(active);
        }
        if !lives(heir) {
            because.push(format!("{} does not live or is not heard, so there is no heir", name(heir)));
            return if lives(active) { Outcome::Refused(Refusal::NoMajority) } else { Outcome::Nobody };
        }
        if let Some(refusal) = self.unfit_as_told(heir) {
            because.push(format!("{} would not take the role", name(heir)));
            return Outcome::Refused(refusal);
        }
        if count(heir) < self.quorum {
            because.push(format!(
                "{} would hear {} of {voters} voters; {} are a majority",
                name(heir),
                count(heir),
                self.quorum
            ));
            return Outcome::Refused(Refusal::NoMajority);
        }
        let vetoes = |id: &NodeId| *id != active && *id != heir && reaches(heir, *id) && reaches(*id, active);
        if lives(active)
            && let Some(witness) = self.set.roster.ids().find(vetoes)
        {
            because.push(format!("{} would still hear the service of {}", name(witness), name(active)));
            return Outcome::Refused(Refusal::Vetoed);
        }
        self.proofs(active, heir, because)
    }

    /// Which rungs of the ladder there would be.
    fn proofs(&self, active: NodeId, heir: NodeId, because: &mut Vec<String>) -> Outcome {
        let (dead, lease) = (micros(self.set.dead), with_drift(micros(self.set.lease)));
        let mut proofs = Vec::new();
        let armed =
            if active == self.set.me { self.armed() } else { self.fresh(active).is_some_and(|said| said.armed) };
        if armed && self.quorum > 1 {
            proofs.push(ProofKind::Lease);
            because.push("the active has announced an armed self-fence, so its lease is a proof when it ends".into());
        }
        if self.set.fence_levels > 0 && self.set.fence == Mode::Act {
            proofs.push(ProofKind::Fence);
            because.push("a fence device is configured (`tidegate pair doctor` asks whether it answers)".into());
        }
        if proofs.is_empty() {
            return Outcome::Refused(Refusal::NoProof);
        }
        let wait =
            if proofs.contains(&ProofKind::Lease) { dead.max(lease) } else { dead + micros(self.set.fence_timeout) };
        Outcome::Takeover(heir, proofs, Duration::from_micros(wait + micros(self.set.interval) * 2))
    }

    fn serving(&self) -> Option<NodeId> {
        let (epoch, holder) = self.holder?;
        let serves = if holder == self.set.me {
            self.role.held() == epoch && self.role.standing() == Standing::Active
        } else {
            self.fresh(holder).is_some_and(|said| said.held == epoch && said.standing == Standing::Active)
        };
        serves.then_some(holder)
    }

    /// What keeps a member from the role, by its own word.
    fn unfit_as_told(&self, member: NodeId) -> Option<Refusal> {
        if member == self.set.me {
            return self.unfit().or((self.set.takeover == Mode::Observe).then_some(Refusal::Observing));
        }
        let said = self.fresh(member)?;
        let reason = || if said.tid < self.known() { Refusal::Behind } else { Refusal::Denied };
        (!said.ready).then(|| Refusal::of(said.refusal).unwrap_or_else(reason))
    }
}
