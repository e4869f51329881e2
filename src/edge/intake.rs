//! From a request's head to a question that can be answered, or a refusal: everything that is judged before the cache.
//!
//! One parsed structure is judged here and forwarded later; nothing is parsed twice or differently.

use crate::edge::refusal::Refusal;
use crate::semantics::accept::AcceptClass;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cache_status::Why;
use crate::semantics::framing;
use crate::semantics::hop;
use crate::semantics::host;
use crate::semantics::host::Authority;
use crate::semantics::key::KeyBuf;
use crate::semantics::key::Parts;
use crate::semantics::present::Present;
use crate::semantics::target;
use crate::semantics::target::Target;
use crate::snapshot::Asking;
use crate::snapshot::Found;
use crate::snapshot::Said;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::snapshot::limits;
use crate::snapshot::rules::Rule;
use crate::units::ClientAddr;
use crate::upstream::Upstream;
use crate::zope::preset::Preset;
use crate::zope::session;
use crate::zope::session::Identity;
use crate::zope::vhost;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Version;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// How the client reached us.
#[derive(Clone, Copy, Debug)]
pub struct Approach {
    /// The address at the other end of the socket.
    pub peer: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Whether it is HTTP/2.
    pub http2: bool,
}

/// A request that was judged and found good.
pub struct Question<'r> {
    /// How it came.
    pub approach: Approach,
    /// Its method.
    pub method: &'r Method,
    /// The site it is for.
    pub site: &'r Arc<Site>,
    /// The scheme that visitors see.
    pub scheme: &'static str,
    /// Host and port as visitors see them.
    pub authority: Authority<'r>,
    /// Path and query, as Zope will read them.
    pub target: Target<'r>,
    /// The client, behind trusted proxies.
    pub client: ClientAddr,
    /// Whether it shows an identity.
    pub identity: Identity,
    /// Whether it may change something.
    pub writes: bool,
    /// Whether a limit says that it leaves the queue last.
    pub demoted: bool,
    /// The site's rule for it.
    pub rule: Option<&'r Arc<Rule>>,
    /// What kind of answer it wants.
    pub accept: AcceptClass,
    /// What kind of request it is.
    pub kind: Kind,
    /// Which fields it has.
    pub present: Present,
}

/// The kinds of requests that go different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GET or HEAD of anybody, or with Authorization for an origin that is believed: may be answered from the cache.
    Shared,
    /// Goes to the origin, past the cache, for this reason.
    Pass(WhyPass),
    /// Asks to forget a URL.
    Purge,
}

/// Why a request goes past the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyPass {
    /// Neither GET nor HEAD.
    Method,
    /// It has a body.
    Body,
    /// It shows who asks.
    Identity,
    /// It asks for a later part of a whole that is not stored.
    Range,
    /// It has a condition that only the origin may judge (RFC 9111 4.3.2), and that nothing stored meets.
    Condition,
    /// It hides fields from the origin, so the answer may be none for others.
    Hidden,
    /// It wants another protocol.
    Upgrade,
    /// The site is configured with `cache = false`.
    Site,
    /// The site's rule for it is.
    Rule,
}

/// What came of judging a request.
pub enum Judged<'r> {
    /// Good.
    Question(Question<'r>),
    /// It belongs at another address of the same site, to which it came by this scheme.
    Redirect(String, &'r Arc<Site>, &'static str),
    /// An authority looks at the proof that a name is ours (RFC 8555 8.3).
    Proof(String),
    /// `OPTIONS *`, or one that may go no further: about the server itself (RFC 9110 9.3.7, 7.6.2).
    AboutServer,
    /// Refused, and by which site, if it got so far.
    Refused(Refusal, Option<&'r Arc<Site>>, ClientAddr),
}

impl WhyPass {
    /// The word in the access log and in Cache-Status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "body",
            Self::Identity => "identity",
            Self::Range => "range",
            Self::Condition => "condition",
            Self::Hidden => "hidden",
            Self::Upgrade => "upgrade",
            Self::Site => "site",
            Self::Rule => "rule",
        }
    }

    /// The status in the words of RFC 9211.
    #[must_use]
    pub fn status(self) -> CacheStatus {
        match self {
            Self::Method => CacheStatus::forwarded(Why::Method),
            Self::Range => CacheStatus::forwarded(Why::Partial),
            other => CacheStatus::forwarded(Why::Bypass).detail(other.as_str()),
        }
    }
}

impl<'a> Question<'a> {
    /// What limits see of it.
    #[must_use]
    pub fn asking(&'a self, headers: &'a HeaderMap) -> Asking<'a> {
        let Self { site, client, method, target, .. } = self;
        Asking { site: &site.name, client: *client, method, path: &target.path, headers }
    }

    /// The key under which its answer is stored. A default port and none are the same.
    pub fn key<'k>(&self, buffer: &'k mut KeyBuf) -> &'k [u8] {
        buffer.build(&Parts {
            scheme: self.scheme,
            authority: place(self.scheme, &self.authority),
            path: &self.target.path,
            query: self.target.query.as_deref(),
            accept: self.accept,
        })
    }

    /// The authority without a port that goes without saying.
    #[must_use]
    pub fn place(&self) -> &str {
        place(self.scheme, &self.authority)
    }

    /// Who answers it.
    #[must_use]
    pub fn upstream(&self) -> &'a Arc<Upstream> {
        self.site.upstream_of(&self.target.path)
    }

    /// Whether it goes to Zope, and not to what makes the pages beside it.
    #[must_use]
    pub fn is_for_zope(&self) -> bool {
        self.site.is_zopes(self.upstream())
    }

    /// The target that the origin gets.
    #[must_use]
    pub fn origin_target(&self) -> String {
        let query = self.target.query.as_deref();
        let rewritten = self.site.zope.as_ref().filter(|_| self.is_for_zope());
        if let Some(zope) = rewritten {
            let port = self.authority.port().unwrap_or(default_port(self.scheme));
            return zope.rewrite(self.scheme, self.authority.host(), port, &self.target.path, query);
        }
        let mut target = String::with_capacity(self.target.path.len() + 1 + query.map_or(0, str::len));
        target.push_str(&self.target.path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target
    }
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// An authority without the port that its scheme implies.
#[must_use]
pub fn place<'a>(scheme: &str, authority: &'a Authority<'_>) -> &'a str {
    if authority.port() == Some(default_port(scheme)) { authority.host() } else { authority.as_str() }
}

/// Judges the head of `request`.
pub fn judge<'r, B: http_body::Body>(
    snapshot: &'r Snapshot,
    approach: Approach,
    request: &'r Request<B>,
) -> Judged<'r> {
    judge_for(Purpose::Answer, snapshot, approach, request)
}

/// Judges the head of a request that nobody has sent: nothing is counted, and no limit is charged.
pub fn judge_only<'r, B: http_body::Body>(
    snapshot: &'r Snapshot,
    approach: Approach,
    request: &'r Request<B>,
) -> Judged<'r> {
    judge_for(Purpose::Explain, snapshot, approach, request)
}

fn judge_for<'r, B: http_body::Body>(
    purpose: Purpose,
    snapshot: &'r Snapshot,
    approach: Approach,
    request: &'r Request<B>,
) -> Judged<'r> {
    let client = hop::client_addr(approach.peer, request.headers(), &snapshot.server.trusted);
    let mut seen = None;
    match question(snapshot, approach, request, client, purpose, &mut seen) {
        Ok(judged) => judged,
        Err(refusal) => Judged::Refused(refusal, seen, client),
    }
}

/// What a request is judged for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Answer,
    Explain,
}

fn question<'r, B: http_body::Body>(
    snapshot: &'r Snapshot,
    approach: Approach,
    request: &'r Request<B>,
    client: ClientAddr,
    purpose: Purpose,
    seen: &mut Option<&'r Arc<Site>>,
) -> Result<Judged<'r>, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    let present = Present::of(headers);
    framing::request(method, request.version(), headers, present).map_err(refused)?;
    // hyper counts the fields of HTTP/1 only; in HTTP/2 the size of the list would allow ten times as many.
    if headers.len() > snapshot.server.limits.headers as usize {
        return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers"));
    }
    let authority = host::effective(request.uri(), headers, approach.http2).map_err(refused)?;
    if method == Method::OPTIONS && request.uri().path() == "*" {
        return Ok(Judged::AboutServer);
    }
    let purge = method.as_str() == "PURGE";
    let mut target = target::parse(request.uri(), snapshot.server.limits.target_bytes.as_usize()).map_err(refused)?;
    if let Some(token) = target.path.strip_prefix(ACME_HTTP)
        && let Some(proof) = snapshot.live.token(token)
    {
        return Ok(Judged::Proof(proof));
    }
    let (site, canonical) = match snapshot.site(authority.host()) {
        Some(Found::Site(site)) => (site, true),
        Some(Found::Alias(site)) => (site, false),
        // Plone purges at the proxy's own address, which is the name of no site.
        None if purge => (snapshot.sites().first().ok_or(UNKNOWN_SITE)?, true),
        None => return Err(UNKNOWN_SITE),
    };
    *seen = Some(site);
    known(site, method)?;
    if method == Method::OPTIONS && hop::max_forwards(headers) == Some(0) {
        return Ok(Judged::AboutServer);
    }
    if purge {
        let question = Question {
            approach,
            method,
            site,
            scheme: "http",
            authority,
            target,
            client,
            identity: Identity::Anonymous,
            writes: false,
            demoted: false,
            rule: None,
            accept: AcceptClass::Any,
            kind: Kind::Purge,
            present,
        };
        return Ok(Judged::Question(question));
    }
    if !site.doorkeeper.admits(client.0) || snapshot.server.deny.contains(client.0) {
        if purpose == Purpose::Answer {
            site.metrics.acl_denied();
        }
        return Err(Refusal::new(StatusCode::FORBIDDEN, "acl"));
    }
    vhost::refuse_words(&target.path).map_err(refused)?;
    let scheme = site.seen_scheme(approach.tls);
    if let Some(location) = moved(snapshot, approach, site, scheme, &authority, &target, canonical) {
        return Ok(Judged::Redirect(location, site, scheme));
    }
    let said = match purpose {
        Purpose::Answer => {
            limits::check(&site.limits, Asking { site: &site.name, client, method, path: &target.path, headers })
        }
        Purpose::Explain => Said::Go,
    };
    if let Said::Stop { retry_after, close } = said {
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit").retry_after(Some(retry_after));
        return Err(if close { refusal.closing() } else { refusal });
    }
    let identity = identity(site, headers, present);
    let rule = site.rule(method, &target.path, identity);
    if rule.is_some_and(|rule| !rule.admits(client.0)) {
        if purpose == Purpose::Answer {
            site.metrics.acl_denied();
        }
        return Err(Refusal::new(StatusCode::FORBIDDEN, "acl"));
    }
    let kind = kind(site, rule, request, identity, present);
    if kind == Kind::Shared {
        // What goes past the cache reaches the origin as it was written.
        target.query = respelled(snapshot, target.query.as_deref());
    }
    let accept = if present.has(Present::ACCEPT) { AcceptClass::of(headers) } else { AcceptClass::Any };
    let question = Question {
        approach,
        method,
        site,
        scheme,
        authority,
        target,
        client,
        identity,
        writes: !method.is_safe(),
        demoted: said == Said::Last,
        rule,
        accept,
        kind,
        present,
    };
    Ok(Judged::Question(question))
}

fn identity(site: &Site, headers: &HeaderMap, present: Present) -> Identity {
    if !present.has(Present::IDENTITY) {
        return Identity::Anonymous;
    }
    session::identity(headers, site.any_cookie(), &site.identity_cookies, site.way.as_deref())
}

/// A query in the spelling under which its answer is stored.
fn respelled<'r>(snapshot: &Snapshot, query: Option<&str>) -> Option<Cow<'r, str>> {
    Some(Cow::Owned(snapshot.cache.query.apply(query?)?.into_owned()))
}

/// Of an application of which nothing is known all methods are.
fn known(site: &Site, method: &Method) -> Result<(), Refusal> {
    if site.preset == Preset::Plain { Ok(()) } else { framing::known(method).map_err(refused) }
}

/// Where the request belongs instead: the canonical host, or the TLS listener.
fn moved(
    snapshot: &Snapshot,
    approach: Approach,
    site: &Site,
    scheme: &str,
    authority: &Authority<'_>,
    target: &Target<'_>,
    canonical: bool,
) -> Option<String> {
    let upgrade = !approach.tls && scheme == "http" && snapshot.server.redirect_https;
    let https_port = snapshot.server.https_port.filter(|_| upgrade);
    if canonical && https_port.is_none() {
        return None;
    }
    let scheme = if https_port.is_some() { "https" } else { scheme };
    let host = if canonical { authority.host() } else { site.name.as_str() };
    let port = match https_port {
        Some(443) => None,
        Some(port) => Some(port),
        None => authority.port(),
    };
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let query = target.query.as_ref().map_or_else(String::new, |query| format!("?{query}"));
    Some(format!("{scheme}://{host}{port}{}{query}", target.path))
}

fn kind<B: http_body::Body>(
    site: &Site,
    rule: Option<&Arc<Rule>>,
    request: &Request<B>,
    identity: Identity,
    present: Present,
) -> Kind {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return Kind::Pass(WhyPass::Method);
    }
    if present.has(Present::UPGRADE)
        && request.version() == Version::HTTP_11
        && method == Method::GET
        && framing::wants_websocket(request.headers())
    {
        return Kind::Pass(WhyPass::Upgrade);
    }
    if !request.body().is_end_stream() {
        return Kind::Pass(WhyPass::Body);
    }
    if !site.cache {
        return Kind::Pass(WhyPass::Site);
    }
    if rule.is_some_and(|rule| !rule.cache) {
        return Kind::Pass(WhyPass::Rule);
    }
    if identity != Identity::Anonymous && !(identity == Identity::Authorization && site.believed) {
        return Kind::Pass(WhyPass::Identity);
    }
    if present.has(Present::CONNECTION) && hop::drops_fields(request.headers()) {
        return Kind::Pass(WhyPass::Hidden);
    }
    Kind::Shared
}

/// Where authorities look for proofs.
const ACME_HTTP: &str = "/.well-known/acme-challenge/";

const UNKNOWN_SITE: Refusal =
    Refusal { status: StatusCode::MISDIRECTED_REQUEST, why: "unknown_site", retry_after: None, close: false };

fn refused(refused: framing::Refused) -> Refusal {
    let refusal = Refusal::new(refused.status, refused.why);
    if refused.ends_connection() { refusal.closing() } else { refusal }
}
