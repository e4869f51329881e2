//! What is counted for one site. [`SiteMetrics::request`] is on the path of every hit: a few additions to memory that no
//! other thread writes.

use crate::telemetry::metrics::cells::Counter;
use crate::telemetry::metrics::cells::Distribution;
use crate::telemetry::metrics::cells::Histogram;
use crate::telemetry::metrics::cells::Striped;
use crate::telemetry::metrics::cells::Words;
use crate::telemetry::metrics::words::AbortPhase;
use crate::telemetry::metrics::words::CacheClass;
use crate::telemetry::metrics::words::CacheWord;
use crate::telemetry::metrics::words::CodeClass;
use crate::telemetry::metrics::words::MethodClass;
use crate::telemetry::metrics::words::Protocol;
use crate::telemetry::metrics::words::Revalidation;
use crate::telemetry::metrics::words::Visitor;
use http::Method;
use http::StatusCode;
use http::Version;
use std::time::Duration;

/// What is counted about a request, once, when its response has ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The status that the client got, or would have got.
    pub status: StatusCode,
    /// The version of HTTP that the client spoke.
    pub version: Version,
    /// Who asked.
    pub visitor: Visitor,
    /// What the cache had to do with it.
    pub cache: CacheWord,
    /// From the end of the request's head to the end of the response.
    pub duration: Duration,
    /// Bytes of response body that were sent.
    pub sent: u64,
}

/// The counters of one site.
#[derive(Debug, Default)]
pub struct SiteMetrics {
    hot: Striped<Hot>,
    pub(super) collapsed: Counter,
    pub(super) collapse_wait: Histogram,
    pub(super) uncacheable: Words<&'static str>,
    pub(super) revalidations: Words<Revalidation>,
    pub(super) aborts: Words<AbortPhase>,
    pub(super) tripwire: Words<&'static str>,
    pub(super) refusals: Words<&'static str>,
    pub(super) origin_rules: Words<(String, &'static str)>,
    pub(super) stripped: Counter,
    pub(super) denied: Counter,
    pub(super) variants_overflow: Counter,
}

/// What each request touches.
#[derive(Debug)]
struct Hot {
    requests: Box<[Counter]>,
    cache: [Counter; CacheWord::COUNT],
    durations: [Histogram; CacheClass::COUNT],
    sent: Counter,
    received: Counter,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            requests: (0..RequestKind::COUNT).map(|_| Counter::default()).collect(),
            cache: Default::default(),
            durations: Default::default(),
            sent: Counter::default(),
            received: Counter::default(),
        }
    }
}

/// The labels of `http_requests`, packed into one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKind {
    /// Its method.
    pub method: MethodClass,
    /// Its response.
    pub code: CodeClass,
    /// Who asked.
    pub visitor: Visitor,
    /// How.
    pub protocol: Protocol,
}

impl RequestKind {
    const COUNT: usize = MethodClass::COUNT * CodeClass::COUNT * Visitor::COUNT * Protocol::COUNT;

    fn index(self) -> usize {
        let at = self.method.index() * CodeClass::COUNT + self.code.index();
        (at * Visitor::COUNT + self.visitor.index()) * Protocol::COUNT + self.protocol.index()
    }

    fn all() -> impl Iterator<Item = Self> {
        MethodClass::ALL.iter().flat_map(|&method| {
            CodeClass::ALL.iter().flat_map(move |&code| {
                Visitor::ALL.iter().flat_map(move |&visitor| {
                    Protocol::ALL.iter().map(move |&protocol| Self { method, code, visitor, protocol })
                })
            })
        })
    }
}

impl SiteMetrics {
    /// Counts a request whose response has ended.
    pub fn request(&self, facts: &RequestFacts<'_>) {
        let kind = RequestKind {
            method: MethodClass::of(facts.method),
            code: CodeClass::of(facts.status),
            visitor: facts.visitor,
            protocol: Protocol::of(facts.version),
        };
        let hot = self.hot.mine();
        // The indices are those of enums whose words were counted to make the tables.
        hot.requests[kind.index()].inc();
        hot.cache[facts.cache.index()].inc();
        hot.durations[facts.cache.class().index()].observe(facts.duration);
        hot.sent.add(facts.sent);
    }

    /// So many bytes of a request's body came.
    pub fn receive(&self, bytes: u64) {
        self.hot.mine().received.add(bytes);
    }

    /// A request waits for the fetch of an equal one.
    pub fn collapsed(&self) {
        self.collapsed.inc();
    }

    /// A request has waited so long for the fetch of an equal one.
    pub fn collapse_waited(&self, wait: Duration) {
        self.collapse_wait.observe(wait);
    }

    /// A response was not stored, for this reason.
    pub fn uncacheable(&self, reason: &'static str) {
        self.uncacheable.add(reason, 1);
    }

    /// The origin was asked whether what is stored is still good.
    pub fn revalidation(&self, result: Revalidation) {
        self.revalidations.add(result, 1);
    }

    /// A client left before its response was complete.
    pub fn client_abort(&self, phase: AbortPhase) {
        self.aborts.add(phase, 1);
    }

    /// A response that called itself public showed signs of belonging to one user.
    pub fn tripwire(&self, signal: &'static str) {
        self.tripwire.add(signal, 1);
    }

    /// An answer was made by this rule of Plone's, and stored or not. So many names are told apart; the origin chooses them.
    pub fn origin_rule(&self, rule: &str, stored: bool) {
        const NAMES: usize = 64;
        const LENGTH: usize = 100;
        let result = if stored { "stored" } else { "not_stored" };
        let known = self.origin_rules.value();
        let new = !known.iter().any(|((name, of), _)| name == rule && *of == result);
        let proper =
            rule.len() <= LENGTH && rule.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._- ".contains(&byte));
        let rule = if new && known.len() >= NAMES || !proper { "other" } else { rule };
        self.origin_rules.add((rule.to_owned(), result), 1);
    }

    /// A request was refused by us, for this reason.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.add(reason, 1);
    }

    /// So many header fields were taken out of a request.
    pub fn headers_stripped(&self, count: usize) {
        if count > 0 {
            self.stripped.add(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    /// A visitor was turned away by the site's list of networks.
    pub fn acl_denied(&self) {
        self.denied.inc();
    }

    /// A variant was dropped because a URL had too many.
    pub fn variants_overflow(&self) {
        self.variants_overflow.inc();
    }

    /// Requests by kind: those kinds that were ever seen.
    pub(super) fn requests(&self) -> Vec<(RequestKind, u64)> {
        let count = |kind: RequestKind| self.hot.all().map(|hot| hot.requests[kind.index()].value()).sum();
        RequestKind::all().map(|kind| (kind, count(kind))).filter(|(_, count)| *count > 0).collect()
    }

    /// Requests by cache word: all words, for a ratio needs its zeros.
    pub(super) fn cache_requests(&self) -> Vec<(CacheWord, u64)> {
        let count = |word: CacheWord| self.hot.all().map(|hot| hot.cache[word.index()].value()).sum();
        CacheWord::ALL.iter().map(|word| (*word, count(*word))).collect()
    }

    /// Durations by how the response came about: those classes that were ever seen.
    pub(super) fn durations(&self) -> Vec<(CacheClass, Distribution)> {
        let seen = |class: CacheClass| {
            let mut total = Distribution::default();
            self.hot.all().for_each(|hot| hot.durations[class.index()].add_to(&mut total));
            (class, total)
        };
        CacheClass::ALL.iter().map(|class| seen(*class)).filter(|(_, total)| total.count() > 0).collect()
    }

    pub(super) fn sent(&self) -> u64 {
        self.hot.all().map(|hot| hot.sent.value()).sum()
    }

    pub(super) fn received(&self) -> u64 {
        self.hot.all().map(|hot| hot.received.value()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_request_has_a_place_of_its_own() {
        let places: Vec<usize> = RequestKind::all().map(RequestKind::index).collect();
        assert_eq!(places, (0..RequestKind::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn a_request_is_counted_once_in_each_family() {
        let site = SiteMetrics::default();
        let facts = RequestFacts {
            method: &Method::GET,
            status: StatusCode::OK,
            version: Version::HTTP_11,
            visitor: Visitor::Anonymous,
            cache: CacheWord::HitStale,
            duration: Duration::from_micros(20),
            sent: 1024,
        };
        site.request(&facts);
        site.request(&RequestFacts { method: &Method::POST, cache: CacheWord::Method, ..facts });
        site.receive(10);
        let requests = site.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests.iter().all(|(_, count)| *count == 1));
        let classes: Vec<CacheClass> = site.durations().into_iter().map(|(class, _)| class).collect();
        assert_eq!(classes, [CacheClass::Stale, CacheClass::Pass]);
        assert_eq!((site.sent(), site.received()), (2048, 10));
        assert_eq!(site.cache_requests().iter().map(|(_, count)| count).sum::<u64>(), 2);
    }
}
