//! What an operator sees, and what would happen if something were lost now: pure functions of what the machine knows.

use super::Counts;
use super::HOUR;
use super::Machine;
use super::claim::ProofKind;
use super::faults::Rule;
use super::io::PairView;
use super::io::Refusal;
use super::io::Refused;
use super::lease::At;
use super::lease::with_drift;
use super::member::Role;
use super::message::Beat;
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
            ready: self.unready().map_or(Ok(()), Err),
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
            return self.any_refusal().map_or(Outcome::Nobody, |(_, refusal)| Outcome::Refused(refusal));
        };
        let heir = active.peer();
        let heard = |id: NodeId| id == self.set.me || self.fresh(id).is_some() || (id == active && self.is_renewed(id));
        let lives = |id: NodeId| !loss.killed.contains(&id) && heard(id);
        let unheard = |id: NodeId| id != self.set.me && self.fresh(id).is_none();
        let apart = |one: NodeId, two: NodeId| {
            let cut = loss.cut.contains(&(one, two)) || loss.cut.contains(&(two, one));
            cut || (one == self.set.me && unheard(two)) || (two == self.set.me && unheard(one))
        };
        let reaches = |one: NodeId, two: NodeId| one == two || (lives(two) && !apart(one, two));
        let count = |from: NodeId| self.set.roster.ids().filter(|id| reaches(from, *id)).count();
        let name = |id: NodeId| self.name(id);
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
        // Who yields does so for a while, and who only observes has to have a majority first.
        let unready = self.unready_as_told(heir);
        let observes = unready == Some(Refusal::Observing);
        if let Some(refusal) = unready.filter(|refusal| *refusal != Refusal::Yields && !observes) {
            because.push(format!("{} would not take the role", name(heir)));
            because.extend(self.facts(heir, refusal));
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
        if observes {
            because.push(format!("{} would only say that it would take the role", name(heir)));
            return Outcome::Refused(Refusal::Observing);
        }
        let wait = if unready.is_some() { micros(self.set.yield_wait) } else { 0 };
        self.proofs(active, heir, wait, because)
    }

    /// Which rungs of the ladder there would be.
    fn proofs(&self, active: NodeId, heir: NodeId, yields: At, because: &mut Vec<String>) -> Outcome {
        let (dead, lease) = (micros(self.set.dead), with_drift(micros(self.set.lease)));
        let mut proofs = Vec::new();
        let backed = self.register.want.backed[active.at()];
        let armed = if active == self.set.me {
            self.armed()
        } else {
            self.fresh(active)
                .map_or(backed > Epoch(0) && self.register.want.armed[active.at()] >= backed, |said| said.armed)
        };
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
        Outcome::Takeover(heir, proofs, Duration::from_micros(wait.max(yields) + micros(self.set.interval) * 2))
    }

    fn serving(&self) -> Option<NodeId> {
        let (epoch, holder) = self.holder?;
        let serves = if holder == self.set.me {
            self.role.held() == epoch && self.role.standing() == Standing::Active
        } else {
            let says = |said: &Beat| said.held == epoch && said.standing == Standing::Active;
            self.fresh(holder).map_or_else(|| self.is_renewed(holder), says)
        };
        serves.then_some(holder)
    }

    /// Whether another voter says that it renews the lease of a member that is not heard here.
    fn is_renewed(&self, member: NodeId) -> bool {
        let renewed = |said: &Beat| {
            let told = said.members[member.at() & 1];
            told.left_us > 0
                && told.service != Service::Sick
                && self.holder.is_some_and(|(epoch, _)| told.backed >= epoch)
        };
        self.others().filter(|id| *id != member).any(|id| self.fresh(id).is_some_and(renewed))
    }

    /// What keeps a member from the role, by its own word.
    fn unready_as_told(&self, member: NodeId) -> Option<Refusal> {
        if self.dropped.is(Rule::ForecastAsks) {
            return None;
        }
        if member == self.set.me {
            return self.unready();
        }
        let said = self.fresh(member)?;
        (!said.ready).then(|| Refusal::of(said.unready).unwrap_or(Refusal::Denied))
    }

    /// A refusal of this member's, with what it follows from.
    #[must_use]
    pub fn explained(&self, refusal: Refusal) -> Refused {
        self.explained_of(self.set.me, refusal)
    }

    /// Who refuses just now, if somebody does, and why.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        self.any_refusal().map(|(by, refusal)| self.explained_of(by, refusal))
    }

    pub(super) fn explained_of(&self, by: NodeId, refusal: Refusal) -> Refused {
        Refused { by, refusal, facts: self.facts(by, refusal) }
    }

    /// What a refusal follows from, as far as this voter knows it.
    fn facts(&self, by: NodeId, refusal: Refusal) -> Vec<String> {
        let own = by == self.set.me;
        let until = |at: At| Duration::from_micros(at.saturating_sub(self.now)).as_secs_f64();
        match refusal {
            Refusal::Behind => vec![self.lack(by)],
            Refusal::NoMajority if own => vec![self.unheard()],
            Refusal::Vetoed | Refusal::Denied if own => self.denials(),
            Refusal::NoProof if own => self.missing_proofs(),
            Refusal::TooMany if own => {
                let first = self.takeovers.iter().filter(|at| **at + HOUR > self.now).min().copied().unwrap_or(0);
                vec![format!(
                    "{} are allowed; the first of them counts for {:.0} s more",
                    self.set.takeovers_max,
                    until(first + HOUR)
                )]
            }
            Refusal::StartFailed if own => vec![format!("it stays away for {:.0} s more", until(self.excluded_until))],
            Refusal::Yields if own => vec![format!("it waits for {:.0} s more", until(self.yield_until))],
            Refusal::NotActive if own => vec![format!("it is {:?}", self.role.standing()).to_lowercase()],
            _ => Vec::new(),
        }
    }

    /// Which transactions a member's copy lacks.
    fn lack(&self, member: NodeId) -> String {
        let known = self.register.want.known;
        let copy = if member == self.set.me { self.copy } else { self.fresh(member).map(|said| said.tid) };
        let Some(copy) = copy else { return "its copy cannot be read".to_owned() };
        format!(
            "its copy ends in transaction {copy} of {}, the active of epoch {} acknowledged up to {} of {}: what came in \
             the {:.3} s between them is missing",
            copy.time(),
            known.epoch,
            known.tid,
            known.tid.time(),
            copy.behind(known.tid).as_secs_f64()
        )
    }

    fn unheard(&self) -> String {
        let silent: Vec<&str> = self.others().filter(|id| self.fresh(*id).is_none()).map(|id| self.name(id)).collect();
        let (heard, voters) = (self.reachable(), self.set.roster.voters());
        format!(
            "it hears {heard} of {voters} voters, itself included, and {} are a majority; not heard: {}",
            self.quorum,
            silent.join(", ")
        )
    }

    fn denials(&self) -> Vec<String> {
        let Role::Bidding { claim, .. } = &self.role else { return Vec::new() };
        claim.denials().map(|(id, why)| format!("{}: {}", self.name(id), why.reason())).collect()
    }

    /// Why no rung of the ladder is reached.
    fn missing_proofs(&self) -> Vec<String> {
        let peer = self.name(self.set.me.peer());
        let fence = match (self.set.fence_levels, self.set.fence) {
            (0, _) => format!("no fence device can put {peer} off"),
            (_, Mode::Observe) => "fencing is only observed".to_owned(),
            (_, Mode::Act) => format!("no fence device could put {peer} off, or show that it is"),
        };
        let lease = if self.quorum == 1 {
            "without a witness an ended lease proves nothing".to_owned()
        } else {
            format!("{peer} had not announced an armed self-fence, so its ended lease proves nothing")
        };
        vec![fence, lease]
    }

    fn name(&self, id: NodeId) -> &str {
        self.set.roster.name(id).map_or("?", |name| name.as_str())
    }
}

#[cfg(test)]
mod tests;
