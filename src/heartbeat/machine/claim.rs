//! A candidate's claim to the role: votes, permit to shoot, and the proof that the other member no longer acts.

use super::names::Epoch;

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

    /// On what it rests.
    #[must_use]
    pub fn kind(&self) -> ProofKind {
        self.kind
    }
}
