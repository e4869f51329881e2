//! What is told about each request, once, when its response has ended: one access line, one set of metrics.

use crate::cache::Flight;
use crate::clock;
use crate::edge::Edge;
use crate::edge::fetch::Lost;
use crate::edge::intake::Approach;
use crate::edge::intake::Question;
use crate::semantics::cache_status::CacheStatus;
use crate::snapshot::Site;
use crate::telemetry::access::Record;
use crate::telemetry::metrics::AbortPhase;
use crate::telemetry::metrics::CacheWord;
use crate::telemetry::metrics::RequestFacts;
use crate::telemetry::metrics::Visitor;
use crate::units::OriginAddr;
use crate::upstream::Upstream;
use crate::upstream::fetch::Timings;
use crate::zope::session::Identity;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Version;
use http::header;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// A request's story so far. Dropped before it was told to its end, it tells that the client has left without an answer.
pub struct Trail {
    edge: Arc<Edge>,
    began: Instant,
    facts: Facts,
    /// What only the access line tells; nothing is kept when there is none.
    line: Option<Box<Line>>,
    origin_failed: bool,
    told: bool,
    /// Whether it stands in line for an origin.
    in_line: AtomicBool,
    /// The fetch for all with which it waits: that one stands in line for it.
    aboard: Option<Arc<Flight>>,
}

/// The client left before the head of an answer came: no status of HTTP's, but the word that access logs have for it.
const CLIENT_LEFT: u16 = 499;

/// What is always known.
#[derive(Clone)]
struct Facts {
    site: Option<Arc<Site>>,
    method: Method,
    version: Version,
    visitor: Visitor,
    status: StatusCode,
    cache: CacheWord,
    why: Option<&'static str>,
}

/// What the access line tells besides.
struct Line {
    time: SystemTime,
    client: IpAddr,
    host: Vec<u8>,
    target: Vec<u8>,
    referer: Option<Vec<u8>>,
    user_agent: Option<Vec<u8>>,
    tls: bool,
    upstream: Arc<Upstream>,
    endpoint: Option<OriginAddr>,
    queue: Option<Duration>,
    first_byte: Option<Duration>,
    retries: u32,
}

impl Trail {
    /// The story of a request that will take a while; `status`: what the cache has to do with it so far.
    #[must_use]
    pub fn of<B>(
        edge: &Arc<Edge>,
        request: &Request<B>,
        question: &Question<'_>,
        status: &CacheStatus,
        now: Instant,
    ) -> Self {
        let line = edge.access.is_on().then(|| {
            Box::new(Line {
                time: clock::now().wall,
                client: question.client.0,
                host: host(request.headers(), request).to_vec(),
                target: target(request).to_vec(),
                referer: field(request.headers(), &header::REFERER).map(<[u8]>::to_vec),
                user_agent: field(request.headers(), &header::USER_AGENT).map(<[u8]>::to_vec),
                tls: question.scheme == "https",
                upstream: Arc::clone(question.upstream()),
                endpoint: None,
                queue: None,
                first_byte: None,
                retries: 0,
            })
        });
        let facts = Facts {
            site: Some(Arc::clone(question.site)),
            method: request.method().clone(),
            version: request.version(),
            visitor: visitor(question.identity),
            status: StatusCode::OK,
            cache: CacheWord::from_word(status.word()),
            why: None,
        };
        let (in_line, aboard) = (AtomicBool::new(false), None);
        Self { edge: Arc::clone(edge), began: now, facts, line, origin_failed: false, told: false, in_line, aboard }
    }

    /// What the client was answered.
    pub fn answered(&mut self, status: StatusCode, cache: &CacheStatus) {
        self.facts.status = status;
        self.facts.cache = CacheWord::from_word(cache.word());
        self.facts.why = self.facts.why.or(cache.detail_word());
    }

    /// It was answered by us, for this reason.
    pub fn refused(&mut self, status: StatusCode, why: &'static str) {
        self.facts.status = status;
        self.facts.cache = CacheWord::Synth;
        self.facts.why = Some(why);
    }

    /// Who answered, and where the time went.
    pub fn travelled(&mut self, endpoint: &OriginAddr, timings: Timings) {
        if let Some(line) = &mut self.line {
            line.endpoint = Some(endpoint.clone());
            (line.queue, line.first_byte) = (Some(timings.queue), Some(timings.first_byte));
            line.retries = timings.retries;
        }
    }

    /// Where it failed that nobody answered.
    pub fn lost(&mut self, lost: &Lost) {
        if let (Some(line), Some(endpoint)) = (&mut self.line, &lost.endpoint) {
            line.endpoint = Some(endpoint.addr.clone());
            (line.queue, line.retries) = (Some(lost.queue), lost.retries);
        }
    }

    /// It waits for what `flight` brings.
    pub fn aboard(&mut self, flight: &Arc<Flight>) {
        self.aboard = Some(Arc::clone(flight));
    }

    /// It travels on its own; gives where is noted whether it stands in line.
    pub fn alone(&mut self) -> &AtomicBool {
        self.aboard = None;
        &self.in_line
    }

    fn is_in_line(&self) -> bool {
        self.aboard.as_ref().map_or_else(|| self.in_line.load(Ordering::Relaxed), |flight| flight.is_in_line())
    }

    /// The body broke off on the origin's side.
    pub fn origin_failed(&mut self) {
        self.origin_failed = true;
    }

    /// The response has ended at `now` after `sent` bytes, wholly or not.
    pub fn finish(mut self, sent: u64, whole: bool, now: Instant) {
        if self.origin_failed {
            self.facts.why = Some("origin_broke_off");
        } else if !whole {
            self.left(AbortPhase::Body);
        }
        self.tell(sent, now);
    }

    fn left(&mut self, phase: AbortPhase) {
        self.facts.why = Some(if phase == AbortPhase::Queue { "client_left_queue" } else { "client_left" });
        if let Some(site) = &self.facts.site {
            site.metrics.client_abort(phase);
        }
    }

    fn tell(&mut self, sent: u64, now: Instant) {
        self.told = true;
        tell(&self.edge, &self.facts, self.began, now, sent);
        let Some(line) = &self.line else { return };
        self.edge.access.write(&Record {
            time: line.time,
            client: line.client,
            method: self.facts.method.as_str(),
            host: &line.host,
            target: &line.target,
            version: self.facts.version,
            status: self.facts.status.as_u16(),
            bytes: sent,
            duration: now.saturating_duration_since(self.began),
            cache: self.facts.cache.as_str(),
            why: self.facts.why,
            site: self.facts.site.as_ref().map(|site| site.name.as_str()),
            upstream: Some(line.upstream.name().as_str()),
            endpoint: line.endpoint.as_ref(),
            queue: line.queue,
            first_byte: line.first_byte,
            retries: line.retries,
            referer: line.referer.as_deref(),
            user_agent: line.user_agent.as_deref(),
            tls: line.tls.then_some("TLS"),
            request_id: None,
        });
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        self.facts.status = StatusCode::from_u16(CLIENT_LEFT).unwrap_or(self.facts.status);
        self.left(if self.is_in_line() { AbortPhase::Queue } else { AbortPhase::Upstream });
        self.tell(0, clock::mono());
    }
}

/// What an answer at hand is told with, without a [`Trail`]: nothing is copied.
pub struct Short<'a> {
    /// The site, if it got that far.
    pub site: Option<&'a Arc<Site>>,
    /// The client, or the peer if it did not get that far.
    pub client: IpAddr,
    /// How it came.
    pub tls: bool,
    /// Whether it shows an identity.
    pub identity: Identity,
    /// The answer's status.
    pub status: StatusCode,
    /// What the cache had to do with it.
    pub cache: CacheWord,
    /// Why.
    pub why: Option<&'static str>,
    /// The bytes of the body.
    pub sent: u64,
}

impl<'a> Short<'a> {
    /// An answer of ours to a request that got no further than its connection.
    #[must_use]
    pub fn synth(approach: Approach, status: StatusCode, why: &'static str, sent: u64) -> Self {
        Self {
            site: None,
            client: approach.peer,
            tls: approach.tls,
            identity: Identity::Anonymous,
            status,
            cache: CacheWord::Synth,
            why: Some(why),
            sent,
        }
    }

    /// An answer to a question.
    #[must_use]
    pub fn to(question: &Question<'a>, status: StatusCode, cache: &CacheStatus, sent: u64) -> Self {
        Self {
            site: Some(question.site),
            client: question.client.0,
            tls: question.scheme == "https",
            identity: question.identity,
            status,
            cache: CacheWord::from_word(cache.word()),
            why: cache.detail_word(),
            sent,
        }
    }

    /// Tells it now: the answer is at hand and small enough to count as sent.
    pub fn tell<B>(&self, edge: &Edge, request: &Request<B>, began: Instant) {
        let facts = Facts {
            site: self.site.cloned(),
            method: request.method().clone(),
            version: request.version(),
            visitor: visitor(self.identity),
            status: self.status,
            cache: self.cache,
            why: self.why,
        };
        let now = clock::mono();
        tell(edge, &facts, began, now, self.sent);
        if !edge.access.is_on() {
            return;
        }
        edge.access.write(&Record {
            time: clock::now().wall,
            client: self.client,
            method: request.method().as_str(),
            host: host(request.headers(), request),
            target: target(request),
            version: request.version(),
            status: self.status.as_u16(),
            bytes: self.sent,
            duration: now.saturating_duration_since(began),
            cache: self.cache.as_str(),
            why: self.why,
            site: self.site.map(|site| site.name.as_str()),
            upstream: None,
            endpoint: None,
            queue: None,
            first_byte: None,
            retries: 0,
            referer: field(request.headers(), &header::REFERER),
            user_agent: field(request.headers(), &header::USER_AGENT),
            tls: self.tls.then_some("TLS"),
            request_id: None,
        });
    }
}

fn tell(edge: &Edge, facts: &Facts, began: Instant, now: Instant, sent: u64) {
    let Some(site) = &facts.site else {
        edge.metrics.refused(facts.why.unwrap_or("other"));
        return;
    };
    if facts.cache == CacheWord::Synth
        && (facts.status.is_client_error() || facts.status.is_server_error())
        && let Some(why) = facts.why
    {
        site.metrics.refused(why);
    }
    site.metrics.request(&RequestFacts {
        method: &facts.method,
        status: facts.status,
        version: facts.version,
        visitor: facts.visitor,
        cache: facts.cache,
        duration: now.saturating_duration_since(began),
        sent,
    });
}

fn visitor(identity: Identity) -> Visitor {
    if identity == Identity::Anonymous { Visitor::Anonymous } else { Visitor::Editor }
}

fn host<'r, B>(headers: &'r HeaderMap, request: &'r Request<B>) -> &'r [u8] {
    match request.uri().authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => field(headers, &header::HOST).unwrap_or(b"-"),
    }
}

fn target<B>(request: &Request<B>) -> &[u8] {
    request.uri().path_and_query().map_or(&b"*"[..], |target| target.as_str().as_bytes())
}

fn field<'r>(headers: &'r HeaderMap, name: &http::HeaderName) -> Option<&'r [u8]> {
    headers.get(name).map(http::HeaderValue::as_bytes)
}
