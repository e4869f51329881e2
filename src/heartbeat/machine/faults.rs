//! The rules that can be dropped one by one, so that the simulator can show that it would notice. Nothing in the program
//! drops one; `tests/architecture.rs` sees to that.

/// A rule of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(hidden)]
pub enum Rule {
    OneVotePerEpoch,
    SaveBeforeAnswer,
    MajorityOfConfigured,
    LeaseFromBeforeSend,
    VoterCountsLonger,
    Veto,
    SilentOnAllLinks,
    StallDiscards,
    SelfFence,
    FenceVerified,
    PermitBeforeFence,
    OnePermit,
    LeaseNeedsArmed,
    WaitForLease,
    PromotionGuard,
    StandbyAfterBoot,
    LostJournalAbstains,
    VoteEndsLease,
    TwoObservers,
    TakeoverLimit,
    StopMustSucceed,
    ReleaseAfterStop,
    RestartedVoterWaits,
    NoFailback,
    RefusalHasAlarm,
    OrderEnds,
    HeirIsReady,
    MaintenanceHolds,
    MaintenanceUnleases,
    StandbyStays,
    ObserveOnly,
    ForecastAsks,
    TakeoversLast,
    StandbyLasts,
    ShotsEndFirst,
    ForgottenShotBinds,
}

impl Rule {
    /// All of them.
    #[doc(hidden)]
    pub const ALL: [Self; 36] = [
        Self::OneVotePerEpoch,
        Self::SaveBeforeAnswer,
        Self::MajorityOfConfigured,
        Self::LeaseFromBeforeSend,
        Self::VoterCountsLonger,
        Self::Veto,
        Self::SilentOnAllLinks,
        Self::StallDiscards,
        Self::SelfFence,
        Self::FenceVerified,
        Self::PermitBeforeFence,
        Self::OnePermit,
        Self::LeaseNeedsArmed,
        Self::WaitForLease,
        Self::PromotionGuard,
        Self::StandbyAfterBoot,
        Self::LostJournalAbstains,
        Self::VoteEndsLease,
        Self::TwoObservers,
        Self::TakeoverLimit,
        Self::StopMustSucceed,
        Self::ReleaseAfterStop,
        Self::RestartedVoterWaits,
        Self::NoFailback,
        Self::RefusalHasAlarm,
        Self::OrderEnds,
        Self::HeirIsReady,
        Self::MaintenanceHolds,
        Self::MaintenanceUnleases,
        Self::StandbyStays,
        Self::ObserveOnly,
        Self::ForecastAsks,
        Self::TakeoversLast,
        Self::StandbyLasts,
        Self::ShotsEndFirst,
        Self::ForgottenShotBinds,
    ];
}

/// Which rule is dropped: none, in the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Dropped(pub(super) Option<Rule>);

impl Dropped {
    pub(super) fn is(self, rule: Rule) -> bool {
        self.0 == Some(rule)
    }
}
