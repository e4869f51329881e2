//! Upstreams: named sets of endpoints, who may have a thread of which Zope, and the journey there and back.
//!
//! Knows no sites and no cache. Live state (in-flight counts, queue, health, pools) is kept by identity in a [`Registry`]
//! and outlives configurations. What fails is a [`FetchError`] that says whose fault it was and when to come back.

pub mod body;
pub mod connect;
pub mod fetch;
pub mod live;
pub mod machine;
pub mod pool;
pub mod probe;

pub use body::ClientFault;
pub use body::OriginBody;
pub use body::RequestBody;
pub use fetch::FetchError;
pub use fetch::Fetched;
pub use live::EndpointView;
pub use live::Registry;
pub use live::Upstream;
pub use live::UpstreamView;

use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use std::time::Duration;

/// What an operator decided about an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name: its identity across reloads.
    pub name: UpstreamName,
    /// The alternative sets; one serves at a time.
    pub sets: Vec<SetPlan>,
    /// The set that serves.
    pub active: SetName,
    /// The most requests in flight at one endpoint: the number of its threads.
    pub threads: usize,
    /// The most requests that wait for a thread.
    pub queue_max: usize,
    /// The longest that a request waits for a thread.
    pub queue_wait: Duration,
    /// The time-outs of a journey.
    pub timeouts: Timeouts,
    /// How long an idle connection is kept; below the origin's own patience.
    pub idle: Duration,
    /// How endpoints are checked.
    pub check: Check,
    /// How often a request that was not sent, or may be repeated, is tried elsewhere.
    pub retry_max: u32,
}

/// One set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPlan {
    /// Its name.
    pub name: SetName,
    /// Its endpoints, each once.
    pub endpoints: Vec<OriginAddr>,
}

/// The bounds of a journey's phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Name look-up and TCP handshake.
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer's body.
    pub between_bytes: Duration,
}

/// How endpoints are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// By what.
    pub kind: CheckKind,
    /// How often.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good checks in a row after which an endpoint is up.
    pub rise: u32,
    /// Failed checks in a row after which it is down.
    pub fall: u32,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Gets a page; any status below 500 is good: a Zope that says 404 is alive.
    Http {
        /// The page's path.
        path: String,
    },
    /// Connects. A frozen process passes this.
    Tcp,
    /// Nothing: only requests tell.
    Off,
}
