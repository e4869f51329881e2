//! What is told of the storage pair: the heartbeat's thread leaves a whole picture here now and then.

/// How the pair looks from this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairFacts {
    /// What this node does.
    pub role: &'static str,
    /// What edges do about it.
    pub phase: &'static str,
    /// The epoch.
    pub epoch: u64,
    /// Why there is no takeover, when there should be one.
    pub refused: Option<&'static str>,
    /// The other voters on each link, and how many seconds ago they were heard; since the start when they never were.
    pub seen: Vec<(String, u8, f64)>,
    /// Takeovers since the start, done by this node.
    pub takeovers: u64,
    /// Fence attempts, by how they ended.
    pub fencing: [(&'static str, u64); 2],
    /// Late heartbeats since the start.
    pub late: u64,
    /// Datagrams that were dropped, by reason.
    pub rejected: Vec<(&'static str, u64)>,
    /// Claims of others to the service address.
    pub conflicts: u64,
    /// Whether the pair is in maintenance.
    pub maintenance: bool,
    /// Own stalls: this node stood still.
    pub stalls: u64,
}

/// What a node of the pair does.
pub const ROLES: [&str; 8] =
    ["witness", "booting", "standby", "bidding", "taking", "active", "stopping", "stop-failed"];

/// What edges do about the pair.
pub const PHASES: [&str; 6] = ["starting", "steady", "suspect", "taking-over", "serving", "refused"];
