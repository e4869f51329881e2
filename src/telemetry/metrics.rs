//! What is counted, and how it is shown to Prometheus.
//!
//! Every metric is a row of the table in `table.rs`: its name, its labels, what it means, and where its values come from. Label values are
//! names from the configuration or words from our source; nothing that a request says becomes a label, so the number of
//! series has a bound. Zero series of `http_requests` and of histograms are left out until they were seen once.
//!
//! Counters are kept by identity (a site's name, an upstream's name and an endpoint's address), not by snapshot: a reload
//! forgets nothing. Gauges are shown as long as somebody besides this module holds their handle; what is gone keeps its counters
//! for [`GONE_FOR`], so that every scrape has seen them, and if it comes back within that they go on.
//!
//! Telling costs no lock and no hashing where every request passes: [`Metrics::site`] and its like are asked once, when a
//! snapshot is compiled, and give handles with plain methods.

mod cells;
pub mod pair;
pub mod process;
mod sheet;
mod site;
mod table;
mod upstream;
mod words;

pub use pair::PairFacts;
pub use site::RequestFacts;
pub use site::SiteMetrics;
pub use upstream::EndpointMetrics;
pub use upstream::LimitMetrics;
pub use upstream::ListenerMetrics;
pub use upstream::NameFacts;
pub use upstream::UpstreamMetrics;
pub use words::AbortPhase;
pub use words::CacheClass;
pub use words::CacheWord;
pub use words::Carrier;
pub use words::CodeClass;
pub use words::Decision;
pub use words::EndpointState;
pub use words::MethodClass;
pub use words::Protocol;
pub use words::Revalidation;
pub use words::SwitchCause;
pub use words::Visitor;

use crate::telemetry::access::AccessLog;
use crate::telemetry::log::Diary;
use crate::units::LimitName;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::SiteName;
use crate::units::UpstreamName;
use cells::Counter;
use cells::Handles;
use cells::Histogram;
use cells::Words;
use cells::lock;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use rustls::ProtocolVersion;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long the counters of what is gone are shown: some scrapes, and longer than Prometheus looks back for a last value (5 min).
pub const GONE_FOR: Duration = Duration::from_mins(10);

/// All metrics of the process.
pub struct Metrics {
    book: Arc<Book>,
    registry: Registry,
    hooks: RwLock<Vec<Hook>>,
}

/// Brings values that are kept elsewhere into the metrics before they are shown.
type Hook = Arc<dyn Fn(&Metrics) + Send + Sync>;

/// Everything that is counted, in one place that the rows of the table can read.
#[derive(Debug, Default)]
struct Book {
    sites: Handles<SiteName, SiteMetrics>,
    upstreams: Handles<UpstreamName, UpstreamMetrics>,
    endpoints: Handles<(UpstreamName, SetName, OriginAddr), EndpointMetrics>,
    limits: Handles<LimitName, LimitMetrics>,
    listeners: Handles<(SocketAddr, Carrier), ListenerMetrics>,
    rejected: Words<&'static str>,
    memory_most: AtomicU64,
    memory_level: AtomicU8,
    timeouts: Words<&'static str>,
    protocol_errors: Words<&'static str>,
    refusals: Words<&'static str>,
    handshakes: Words<(&'static str, &'static str, &'static str)>,
    handshake_duration: Histogram,
    acme_orders: Words<&'static str>,
    certificates: Mutex<Vec<(String, SystemTime)>>,
    tiers: Mutex<Vec<Tier>>,
    disk: Mutex<Option<DiskFacts>>,
    purges: Words<(&'static str, &'static str, &'static str)>,
    purged: Counter,
    purge_duration: Histogram,
    ledger: Mutex<PurgeLedger>,
    reloads: Words<&'static str>,
    reload_last: Mutex<Option<(bool, SystemTime)>>,
    panics: Counter,
    access: Mutex<Option<AccessLog>>,
    diary: Mutex<Option<Diary>>,
    zeo: Mutex<BTreeMap<String, Option<ZeoFacts>>>,
    pair: Mutex<Option<PairFacts>>,
}

/// What a ZEO server told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeoFacts {
    /// Whether it takes writes.
    pub writable: bool,
    /// The identifier of its last transaction.
    pub last_tid: u64,
    /// Clients connected.
    pub clients: u64,
    /// Clients that wait for the commit lock.
    pub waiting: u64,
    /// How long they have been seen to wait for the same commit.
    pub commit_wait: Duration,
    /// Transactions committed since its start.
    pub commits: u64,
    /// Write conflicts since its start.
    pub conflicts: u64,
}

/// The ledger of purges by tag and pattern, as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeLedger {
    /// Purges so far.
    pub sequence: u64,
    /// Tags of which purges are remembered.
    pub records: u64,
    /// Patterns that are being carried out.
    pub patterns: u64,
    /// URLs that were dropped because of it.
    pub dropped: u64,
    /// How often all was forgotten because there were too many purges.
    pub overflows: u64,
}

/// One tier of the cache, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its name, such as `memory`.
    pub name: &'static str,
    /// URLs stored.
    pub objects: u64,
    /// Their bytes, everything counted.
    pub bytes: u64,
    /// The budget in bytes.
    pub capacity: u64,
    /// URLs evicted for want of room since the start.
    pub evictions: u64,
    /// URLs that were not stored since the start, for all that was is asked for more.
    pub refusals: u64,
}

/// The part of the cache on the disk, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// `reading`, `ready` or `failed`.
    pub phase: &'static str,
    /// The bytes of all files.
    pub bytes: u64,
    /// The most they may have.
    pub capacity: u64,
    /// URLs that may be found.
    pub entries: u64,
    /// Misses of memory that looked there, by what came of it.
    pub reads: Vec<(&'static str, u64)>,
    /// Records written since the start.
    pub records: u64,
    /// Their bytes, and those of purges.
    pub written: u64,
    /// URLs and purges that wait to be written.
    pub waiting: u64,
    /// URLs that were not written because too many waited.
    pub skipped: u64,
    /// How often it failed.
    pub errors: u64,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The session stands.
    Done {
        /// The version that was agreed on.
        version: Option<ProtocolVersion>,
        /// Whether an earlier session was taken up again.
        resumed: bool,
        /// How long it took.
        took: Duration,
    },
    /// The two could not agree, or the client left.
    Failed,
    /// It took too long.
    TimedOut,
}

/// The word for a TLS version, in metrics and in the access log.
#[must_use]
pub fn tls_word(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "other",
    }
}

impl Metrics {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let book = Arc::new(Book::default());
        // A scrape before the first reload shall show that reloads can fail.
        book.reloads.add("ok", 0);
        book.reloads.add("failed", 0);
        let registry = sheet::registry(&book);
        Arc::new(Self { book, registry, hooks: RwLock::default() })
    }

    /// The counters of the site `name`: the same for the same name.
    #[must_use]
    pub fn site(&self, name: &SiteName) -> Arc<SiteMetrics> {
        self.book.sites.of(name)
    }

    /// The counters of the upstream `name`.
    #[must_use]
    pub fn upstream(&self, name: &UpstreamName) -> Arc<UpstreamMetrics> {
        self.book.upstreams.of(name)
    }

    /// The counters of one endpoint in one set of an upstream.
    #[must_use]
    pub fn endpoint(&self, upstream: &UpstreamName, set: &SetName, endpoint: &OriginAddr) -> Arc<EndpointMetrics> {
        self.book.endpoints.of(&(upstream.clone(), set.clone(), endpoint.clone()))
    }

    /// The counters of the limit `name`.
    #[must_use]
    pub fn limit(&self, name: &LimitName) -> Arc<LimitMetrics> {
        self.book.limits.of(name)
    }

    /// The counters of the connections of one kind at one listener.
    #[must_use]
    pub fn listener(&self, local: SocketAddr, carrier: Carrier) -> Arc<ListenerMetrics> {
        self.book.listeners.of(&(local, carrier))
    }

    /// A connection was turned away, for this reason.
    pub fn connection_rejected(&self, reason: &'static str) {
        self.book.rejected.add(reason, 1);
    }

    /// So many bytes of memory may be taken, if that is bounded, and so short it is: 0 for enough, 1 for tight, 2 for full.
    pub fn memory(&self, most: Option<u64>, level: u8) {
        self.book.memory_most.store(most.unwrap_or(0), Ordering::Relaxed);
        self.book.memory_level.store(level, Ordering::Relaxed);
    }

    /// A connection was closed because its client was too slow in this phase.
    pub fn connection_timeout(&self, phase: &'static str) {
        self.book.timeouts.add(phase, 1);
    }

    /// A client or an origin broke the protocol in this way.
    pub fn protocol_error(&self, kind: &'static str) {
        self.book.protocol_errors.add(kind, 1);
    }

    /// A request was refused before it belonged to a site, for this reason.
    pub fn refused(&self, reason: &'static str) {
        self.book.refusals.add(reason, 1);
    }

    /// A TLS handshake has ended.
    pub fn tls_handshake(&self, handshake: Handshake) {
        let labels = match handshake {
            Handshake::Done { version, resumed, took } => {
                self.book.handshake_duration.observe(took);
                (tls_word(version), if resumed { "true" } else { "false" }, "ok")
            }
            Handshake::Failed => ("none", "false", "failed"),
            Handshake::TimedOut => ("none", "false", "timeout"),
        };
        self.book.handshakes.add(labels, 1);
    }

    /// A certificate was issued (`ok`), or was not (`failed`).
    pub fn acme_order(&self, result: &'static str) {
        self.book.acme_orders.add(result, 1);
    }

    /// These certificates are in use, each until its day. What was known before is replaced.
    pub fn certificates(&self, until: Vec<(String, SystemTime)>) {
        *lock(&self.book.certificates) = until;
    }

    /// Forgets the counters of sites, upstreams, endpoints, limits and listeners that have been gone for [`GONE_FOR`]. To be called
    /// before each scrape.
    pub fn forget_the_gone(&self, now: Instant) {
        let Book { sites, upstreams, endpoints, limits, listeners, .. } = &*self.book;
        sites.forget(now, GONE_FOR);
        upstreams.forget(now, GONE_FOR);
        endpoints.forget(now, GONE_FOR);
        limits.forget(now, GONE_FOR);
        listeners.forget(now, GONE_FOR);
    }

    /// Nobody asks this ZEO server any more.
    pub fn zeo_gone(&self, server: &str) {
        lock(&self.book.zeo).remove(server);
    }

    /// What a ZEO server told, or nothing when it did not answer.
    pub fn zeo(&self, server: &str, facts: Option<ZeoFacts>) {
        lock(&self.book.zeo).insert(server.to_owned(), facts);
    }

    /// The pair looks like this now.
    pub fn pair(&self, facts: PairFacts) {
        *lock(&self.book.pair) = Some(facts);
    }

    /// The tiers of the cache are like this now. What was known before is replaced.
    pub fn cache_tiers(&self, tiers: Vec<Tier>) {
        *lock(&self.book.tiers) = tiers;
    }

    /// The part of the cache on the disk is like this now.
    pub fn cache_disk(&self, facts: Option<DiskFacts>) {
        *lock(&self.book.disk) = facts;
    }

    /// Somebody asked to forget: what kind of order it was, how thorough, what came of it, how many objects it hit at once,
    /// and how long that took.
    pub fn purge(&self, kind: &'static str, mode: &'static str, result: &'static str, objects: u64, took: Duration) {
        self.book.purges.add((kind, mode, result), 1);
        self.book.purged.add(objects);
        self.book.purge_duration.observe(took);
    }

    /// The ledger of purges is like this now.
    pub fn purge_ledger(&self, ledger: PurgeLedger) {
        *lock(&self.book.ledger) = ledger;
    }

    /// The configuration was read again at `at`, and put in force or not.
    pub fn reload(&self, ok: bool, at: SystemTime) {
        self.book.reloads.add(if ok { "ok" } else { "failed" }, 1);
        *lock(&self.book.reload_last) = Some((ok, at));
    }

    /// `set` of `upstream` began to serve in place of another.
    pub fn set_switched(&self, upstream: &UpstreamName, set: &SetName, cause: SwitchCause) {
        self.upstream(upstream).set_switched(set, cause);
    }

    /// A task or a thread of ours panicked.
    pub fn panicked(&self) {
        self.book.panics.inc();
    }

    /// Shows how `log` is doing.
    pub fn watch_access_log(&self, log: &AccessLog) {
        *lock(&self.book.access) = Some(log.clone());
    }

    /// Shows how the diary is doing.
    pub fn watch_diary(&self, diary: &Diary) {
        *lock(&self.book.diary) = Some(diary.clone());
    }

    /// Calls `hook` before each scrape, to bring in what is counted elsewhere. It must be quick and must not block.
    pub fn on_scrape(&self, hook: impl Fn(&Self) + Send + Sync + 'static) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(hook));
    }

    /// The media type and the text of all metrics, in the `OpenMetrics` format.
    #[must_use]
    pub fn encode(&self) -> (&'static str, String) {
        // The hooks run without the lock, for they may register others.
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone();
        for hook in &hooks {
            hook(self);
        }
        let mut page = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail, and our rows never do.
        let _ = text::encode(&mut page, &self.registry);
        (CONTENT_TYPE, page)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("book", &self.book).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
