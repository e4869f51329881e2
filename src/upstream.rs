//! Upstreams: named sets of endpoints, who may have a thread of which Zope, and the journey there and back.
//!
//! Knows no sites and no cache. Live state (in-flight counts, queue, health, pools) is kept by identity in a [`Registry`]
//! and outlives configurations. What fails is a [`FetchError`] that says whose fault it was and when to come back.

pub mod asker;
pub mod body;
pub mod budget;
pub mod connect;
pub mod desk;
pub mod endpoint;
pub mod exchange;
pub mod fetch;
pub mod gate;
pub mod judge;
pub mod lease;
pub mod linger;
pub mod live;
pub mod machine;
pub mod patience;
pub mod pool;
pub mod probe;
pub mod request;
pub mod resolve;
pub mod storage;
pub mod view;

pub use asker::Asker;
pub use body::ClientFault;
pub use body::OriginBody;
pub use body::RequestBody;
pub use connect::Secure;
pub use desk::Hold;
pub use fetch::FetchError;
pub use fetch::Fetched;
pub use live::Registry;
pub use live::Upstream;
pub use machine::class::Classes;
pub use machine::queue::Balance;
pub use machine::queue::Class;
pub use request::Request;
pub use view::EndpointView;
pub use view::Listed;
pub use view::UpstreamView;

use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use std::net::SocketAddr;
use std::sync::Arc;
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
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// After a write its client is served by the same endpoint for so long.
    pub pin: Duration,
    /// The most requests that wait for a thread.
    pub queue_max: usize,
    /// The longest that a request waits for a thread.
    pub queue_wait: Duration,
    /// The most requests of one client that wait.
    pub per_client: usize,
    /// The most scales of images that are fetched for visitors at once; none: as [`live::Standing::scales`] says.
    pub scales: Option<usize>,
    /// How long requests wait for an endpoint when none is open, from the beginning of the outage.
    pub hold: Duration,
    /// How urgent which requests are.
    pub classes: Arc<Classes>,
    /// The cookie that leads a client back to the endpoint that served it, if there is one.
    pub way: Option<Arc<str>>,
    /// What an endpoint that was down goes through before it gets its full share.
    pub warmup: Warmup,
    /// The time-outs of a journey.
    pub timeouts: Timeouts,
    /// How long an idle connection is kept; below the origin's own patience.
    pub idle: Duration,
    /// How many bytes of an answer for one client are read ahead of him.
    pub buffer: u64,
    /// The ZEO servers behind the endpoints.
    pub storage: Vec<OriginAddr>,
    /// How endpoints that speak TLS are believed; without it none is spoken to.
    pub secure: Option<Secure>,
    /// How far the last transaction of a storage that takes writes may be behind the newest that was seen.
    pub storage_lag: Option<Duration>,
    /// How long one commit may keep others waiting before that is told; none: for ever.
    pub storage_commit_max: Option<Duration>,
    /// The clients that a storage must have after an outage before requests are sent.
    pub storage_clients: u32,
    /// The name servers for endpoints that are given by name; none: the system's.
    pub resolver: Vec<SocketAddr>,
    /// How endpoints are checked.
    pub check: Check,
    /// How often a request that was not sent, or may be repeated, is tried elsewhere.
    pub retry_max: u32,
    /// Whether another endpoint is tried when one says 503.
    pub retry_503: bool,
}

impl Plan {
    /// The names among its endpoints.
    pub fn names(&self) -> impl Iterator<Item = &OriginAddr> {
        let servers = self.sets.iter().flat_map(|set| &set.servers);
        servers.filter(|server| server.by_name).map(|server| &server.addr)
    }
}

/// One set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPlan {
    /// Its name.
    pub name: SetName,
    /// Its endpoints, each once.
    pub servers: Vec<ServerPlan>,
}

/// One endpoint of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    /// Where it is.
    pub addr: OriginAddr,
    /// Its share of the load.
    pub weight: u32,
    /// Used only while no other is open.
    pub backup: bool,
    /// Its host is a name, and every address of it is an endpoint.
    pub by_name: bool,
}

/// What an endpoint that was down goes through before it gets its full share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// The paths that are fetched until they are fast.
    pub paths: Vec<String>,
    /// Fast enough.
    pub until: Duration,
    /// Long enough.
    pub at_most: Duration,
    /// The time in which its limit rises to its threads.
    pub ramp: Duration,
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
    /// The least bytes per second of the answer's body; 0 asks for none.
    pub rate_min: u64,
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
    /// Several requests that are under way for so long while none ends make an endpoint stuck; zero: never.
    pub stuck: Duration,
    /// How long an endpoint rests that stands out among the others; zero: never.
    pub rest: Duration,
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
