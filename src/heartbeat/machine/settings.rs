//! What an operator has set, as the machine needs it.

use super::names::NodeId;
use super::names::Roster;
use super::names::VOTERS_MAX;
use super::saved::TAKEOVERS_KEPT;
use std::time::Duration;

/// Whether something is done, or only said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Do it.
    Act,
    /// Say what would have been done, and do nothing.
    Observe,
}

/// Everything the machine is told about its place and its times.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this is.
    pub me: NodeId,
    /// Who votes.
    pub roster: Roster,
    /// How many links lead to each voter, by [`NodeId`].
    pub links: [u8; VOTERS_MAX],
    /// One heartbeat per link and voter in this time.
    pub interval: Duration,
    /// A voter silent for this long is late: said and counted, and edges are told to hold.
    pub warn: Duration,
    /// A voter silent on all links for this long is dead to this one.
    pub dead: Duration,
    /// A member that hears nothing of its peer after its start waits this long before it wants the role.
    pub initdead: Duration,
    /// How long the right to be active lasts after a renewal.
    pub lease: Duration,
    /// How long before the end of its lease an active that could not renew it stops: the time that a kill takes.
    pub margin: Duration,
    /// Local restarts of a sick service within `restart_window` before the role is given up.
    pub restarts_max: u32,
    /// See `restarts_max`.
    pub restart_window: Duration,
    /// Of the last `probe_window` probes, `probe_failed` must have failed to call a service sick.
    pub probe_failed: u8,
    /// See `probe_failed`; at most 16.
    pub probe_window: u8,
    /// Levels of fence devices; 0: there is none.
    pub fence_levels: u8,
    /// The longest that one level takes, its verification included. The shell gives up then and must have ended it.
    pub fence_timeout: Duration,
    /// Pause before all levels are tried again.
    pub fence_retry: Duration,
    /// The longest that the address may take.
    pub address_timeout: Duration,
    /// The longest that the resources may take to start.
    pub start_timeout: Duration,
    /// The longest that the resources may take to stop; a stop that fails or takes longer means: fence me.
    pub stop_timeout: Duration,
    /// The longest that a started storage may take until it answers its probe.
    pub serve_timeout: Duration,
    /// The longest that the check of the copy may take.
    pub verify_timeout: Duration,
    /// Whether the copy is checked before it is promoted.
    pub verify: bool,
    /// How far the copy may be behind when it is promoted, in the time of transaction ids.
    pub max_lag: Duration,
    /// Most takeovers within an hour; at most [`TAKEOVERS_KEPT`].
    pub takeovers_max: u32,
    /// A member that gave up the role leaves it to its peer for this long.
    pub yield_wait: Duration,
    /// A member on which the service did not come up stays away from the role for this long.
    pub exclusion: Duration,
    /// Whether takeovers are done or only said.
    pub takeover: Mode,
    /// Whether the peer is shot or it is only said.
    pub fence: Mode,
    /// Whether an active without a lease stops itself. `Observe` never announces an armed self-fence, so nobody counts on it.
    pub self_fence: Mode,
    /// Whether a member without an armed self-fence may take the role (`watchdog = "required"`: it may not).
    pub self_fence_required: bool,
    /// Whether this voter probes the storages end to end. One that does not takes an active's heartbeats for its service.
    pub probes: bool,
}

/// Why settings do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadSetting {
    /// Which one.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Settings {
    /// The profile for a first try: dead after half a second.
    #[must_use]
    pub fn fast(me: NodeId, roster: Roster, links: [u8; VOTERS_MAX]) -> Self {
        let ms = Duration::from_millis;
        Self {
            me,
            roster,
            links,
            interval: ms(100),
            warn: ms(250),
            dead: ms(500),
            initdead: ms(5_000),
            lease: ms(500),
            margin: ms(50),
            restarts_max: 0,
            restart_window: ms(600_000),
            probe_failed: 3,
            probe_window: 4,
            fence_levels: 0,
            fence_timeout: ms(10_000),
            fence_retry: ms(5_000),
            address_timeout: ms(5_000),
            start_timeout: ms(60_000),
            stop_timeout: ms(10_000),
            serve_timeout: ms(60_000),
            verify_timeout: ms(60_000),
            verify: true,
            max_lag: ms(0),
            takeovers_max: 4,
            yield_wait: ms(10_000),
            exclusion: ms(60_000),
            takeover: Mode::Act,
            fence: Mode::Act,
            self_fence: Mode::Act,
            self_fence_required: false,
            probes: true,
        }
    }

    /// The rules between the settings; all that are broken.
    #[must_use]
    pub fn problems(&self) -> Vec<BadSetting> {
        let mut found = Vec::new();
        let mut rule = |good: bool, key: &'static str, problem: String| {
            if !good {
                found.push(BadSetting { key, problem });
            }
        };
        rule(self.roster.name(self.me).is_some(), "node", "is neither a member nor a witness".into());
        rule(
            self.interval * 4 <= self.lease,
            "lease",
            format!("{:?} leaves no time for four renewals; take {:?} or more", self.lease, self.interval * 4),
        );
        rule(
            self.interval * 3 <= self.dead,
            "dead",
            format!("{:?} is fewer than three heartbeats; take {:?} or more", self.dead, self.interval * 3),
        );
        rule(
            self.interval < self.warn && self.warn < self.dead,
            "warn",
            format!("{:?} must lie between interval and dead", self.warn),
        );
        rule(self.dead * 2 <= self.initdead, "initdead", "must be at least twice `dead`".into());
        rule(
            self.margin * 2 <= self.lease,
            "margin",
            format!("{:?} leaves too little of the lease of {:?}; take less than half", self.margin, self.lease),
        );
        rule(
            (1..=16).contains(&self.probe_window) && (1..=self.probe_window).contains(&self.probe_failed),
            "probe_failed",
            format!(
                "{} of {} is no window; take 1 to 16, and not more failed than looked at",
                self.probe_failed, self.probe_window
            ),
        );
        rule(!self.interval.is_zero(), "interval", "must not be zero".into());
        rule(
            (1..=TAKEOVERS_KEPT).contains(&usize::try_from(self.takeovers_max).unwrap_or(usize::MAX)),
            "takeovers_max",
            format!("{} is no bound; take 1 to {TAKEOVERS_KEPT}", self.takeovers_max),
        );
        found
    }
}
