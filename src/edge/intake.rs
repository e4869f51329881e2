//! From a request's head to a question that can be answered, or a refusal: everything that is judged before the cache.
//!
//! One parsed structure is judged here and forwarded later; nothing is parsed twice or differently.

use crate::admission::acl;
use crate::edge::refusal::Refusal;
use crate::semantics::framing;
use crate::semantics::hop;
use crate::semantics::host;
use crate::semantics::host::Authority;
use crate::semantics::target;
use crate::semantics::target::Target;
use crate::snapshot::Found;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::units::ClientAddr;
use crate::zope::session;
use crate::zope::session::Identity;
use crate::zope::vhost;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Version;
use std::net::IpAddr;
use std::sync::Arc;

/// How the client reached us.
#[derive(Clone, Copy, Debug)]
pub struct Approach {
    /// The address at the other end of the socket.
    pub peer: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// A request that was judged and found good.
#[derive(Debug)]
pub struct Question<'r> {
    /// The site it is for.
    pub site: &'r Arc<Site>,
    /// The scheme that visitors see.
    pub scheme: &'static str,
    /// Host and port, as the client wrote them, in one spelling.
    pub authority: Authority<'r>,
    /// Path and query, as Zope will read them.
    pub target: Target<'r>,
    /// The client, behind trusted proxies.
    pub client: ClientAddr,
    /// Whether it shows an identity.
    pub identity: Identity,
    /// What kind of request it is.
    pub kind: Kind,
}

/// The kinds of requests that go different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GET or HEAD of anybody: may be answered from the cache.
    Shared,
    /// Goes to the origin, past the cache, for this reason.
    Pass(WhyPass),
    /// Asks to forget a URL.
    Purge,
    /// `OPTIONS *`: about the server itself.
    AboutServer,
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
    /// It asks for a part of the whole.
    Range,
    /// It wants another protocol.
    Upgrade,
    /// The site is configured with `cache = false`.
    Site,
}

/// What came of judging a request.
#[derive(Debug)]
pub enum Judged<'r> {
    /// Good.
    Question(Question<'r>),
    /// It belongs at another address of the same site.
    Redirect(String),
    /// Refused.
    Refused(Refusal),
}

impl WhyPass {
    /// The word in the access log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "body",
            Self::Identity => "identity",
            Self::Range => "range",
            Self::Upgrade => "upgrade",
            Self::Site => "site",
        }
    }
}

/// Judges the head of `request`.
pub fn judge<'r, B: http_body::Body>(
    snapshot: &'r Snapshot,
    approach: Approach,
    request: &'r Request<B>,
) -> Judged<'r> {
    match question(snapshot, approach, request) {
        Ok(Ok(question)) => Judged::Question(question),
        Ok(Err(location)) => Judged::Redirect(location),
        Err(refusal) => Judged::Refused(refusal),
    }
}

/// The inner `Err` is a redirect's location.
fn question<'r, B: http_body::Body>(
    snapshot: &'r Snapshot,
    approach: Approach,
    request: &'r Request<B>,
) -> Result<Result<Question<'r>, String>, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    framing::request(method, request.version(), headers).map_err(refused)?;
    let authority = host::effective(request.version(), request.uri(), headers).map_err(refused)?;
    let client = hop::client_addr(approach.peer, headers, &snapshot.server.trusted);
    if method == Method::OPTIONS && request.uri().path() == "*" {
        let site = snapshot.any_site().ok_or(unknown_site())?;
        return Ok(Ok(about_server(site, authority, client)));
    }
    let target = target::parse(request.uri(), snapshot.server.limits.target_bytes).map_err(refused)?;
    let (site, canonical) = match snapshot.site(authority.host()) {
        Some(Found::Site(site)) => (site, true),
        Some(Found::Alias(site)) => (site, false),
        None if method.as_str() == "PURGE" => (snapshot.any_site().ok_or(unknown_site())?, true),
        None => return Err(unknown_site()),
    };
    if !site.allow.is_empty() && !acl::contains(&site.allow, client.0) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "acl"));
    }
    let scheme = site.scheme.unwrap_or(if approach.tls { "https" } else { "http" });
    let question = Question { site, scheme, authority, target, client, identity: Identity::Anonymous, kind: Kind::Purge };
    if method.as_str() == "PURGE" {
        return Ok(Ok(question));
    }
    vhost::refuse_words(&question.target.path).map_err(refused)?;
    if let Some(location) = moved(snapshot, approach, &question, canonical) {
        return Ok(Err(location));
    }
    for limit in &site.limits {
        limit.check(client).map_err(|wait| {
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit").retry_after(Some(wait.retry_after))
        })?;
    }
    let identity = session::identity(headers, &site.identity_cookies);
    let kind = kind(site, request, &identity);
    Ok(Ok(Question { identity, kind, ..question }))
}

/// Where the request belongs instead: the canonical host, or the TLS listener.
fn moved(snapshot: &Snapshot, approach: Approach, question: &Question<'_>, canonical: bool) -> Option<String> {
    let secure = approach.tls || question.scheme == "https";
    let upgrade = !secure && snapshot.server.https_port.is_some() && snapshot.server.redirect_https;
    if canonical && !upgrade {
        return None;
    }
    let scheme = if upgrade { "https" } else { question.scheme };
    let host = if canonical { question.authority.host() } else { question.site.name.as_str() };
    let port = match (upgrade, snapshot.server.https_port) {
        (true, Some(443)) => String::new(),
        (true, Some(port)) => format!(":{port}"),
        _ => question.authority.port().map_or_else(String::new, |port| format!(":{port}")),
    };
    let query = question.target.query.map_or_else(String::new, |query| format!("?{query}"));
    Some(format!("{scheme}://{host}{port}{}{query}", question.target.path))
}

fn about_server<'r>(site: &'r Arc<Site>, authority: Authority<'r>, client: ClientAddr) -> Question<'r> {
    Question {
        site,
        scheme: "http",
        authority,
        target: Target::asterisk(),
        client,
        identity: Identity::Anonymous,
        kind: Kind::AboutServer,
    }
}

fn kind<B: http_body::Body>(site: &Site, request: &Request<B>, identity: &Identity) -> Kind {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return Kind::Pass(WhyPass::Method);
    }
    if request.version() == Version::HTTP_11 && framing::wants_websocket(request.headers()) {
        return Kind::Pass(WhyPass::Upgrade);
    }
    if !request.body().is_end_stream() {
        return Kind::Pass(WhyPass::Body);
    }
    if *identity != Identity::Anonymous {
        return Kind::Pass(WhyPass::Identity);
    }
    if request.headers().contains_key(http::header::RANGE) {
        return Kind::Pass(WhyPass::Range);
    }
    if site.cache.is_none() { Kind::Pass(WhyPass::Site) } else { Kind::Shared }
}

fn unknown_site() -> Refusal {
    Refusal::new(StatusCode::MISDIRECTED_REQUEST, "unknown_site")
}

fn refused(refused: framing::Refused) -> Refusal {
    // What follows a request that was refused for its framing cannot be trusted to be a request.
    Refusal::new(refused.status, refused.why).closing()
}
