//! A request that has to travel: everything it needs on the way, owned.

use crate::admission::pressure::Level;
use crate::cache::Privacy;
use crate::cache::Stored;
use crate::edge::Edge;
use crate::edge::intake::Question;
use crate::edge::refusal::Refusal;
use crate::edge::tunnel;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cookie;
use crate::semantics::hop;
use crate::semantics::link;
use crate::semantics::present::Present;
use crate::semantics::tags;
use crate::semantics::tags::Tag;
use crate::semantics::target;
use crate::semantics::validator;
use crate::semantics::wire::RequestHead;
use crate::snapshot::Meter;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::snapshot::rules::Rule;
use crate::units::ClientAddr;
use crate::upstream::Asker;
use crate::upstream::Class;
use crate::upstream::Request;
use crate::upstream::Upstream;
use crate::upstream::request;
use crate::upstream::request::Description;
use crate::zope::conduct;
use crate::zope::preset::Preset;
use crate::zope::session;
use crate::zope::session::Identity;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// When to come back who was turned away for want of memory: about as long as it takes to get some back.
const SHED_FOR: Duration = Duration::from_secs(5);

/// What the cache had to say about a request that it could not answer.
pub struct Lookup<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is stored, though it may not be reused as it is.
    pub found: Option<&'a Arc<Stored>>,
    /// Whom the answer is for, if that was looked up.
    pub privacy: Privacy,
}

/// A request on its way to the origin.
#[derive(Clone)]
pub struct Errand {
    /// The shared state of the edge.
    pub edge: Arc<Edge>,
    /// The snapshot under which it was judged; it travels under no other.
    pub snapshot: Arc<Snapshot>,
    /// The site.
    pub site: Arc<Site>,
    /// Its method.
    pub method: Method,
    /// The scheme that visitors see.
    pub scheme: &'static str,
    /// Host and port as visitors see them.
    pub authority: Box<str>,
    /// So much of it is left without a port that goes without saying.
    place_len: usize,
    /// The visitors' path.
    pub path: Box<str>,
    /// The query.
    pub query: Option<Box<str>>,
    /// Path and query as the origin shall see them.
    pub target: String,
    /// The address at the other end of the client's socket.
    pub peer: IpAddr,
    /// The client, behind trusted proxies.
    pub client: ClientAddr,
    /// The cache key, when the answer may be shared.
    pub key: Option<Box<[u8]>>,
    /// Whom the answer is for, if that was looked up.
    pub privacy: Privacy,
    /// What is stored under it for requests like this one.
    pub found: Option<Arc<Stored>>,
    /// What is stored under it for other requests, and may turn out to be meant for this one, too.
    pub others: Box<[Arc<Stored>]>,
    /// The sequence of the last purge when it set out.
    pub born: u64,
    /// The site's rule for it.
    pub rule: Option<Arc<Rule>>,
    /// Whether it shows no identity.
    pub anonymous: bool,
    /// Which fields it has.
    pub present: Present,
    /// Why it travels.
    pub status: CacheStatus,
    /// Who is to answer it.
    pub upstream: Arc<Upstream>,
    /// For whom.
    pub asker: Asker,
    /// What its time at an origin is charged to.
    pub meters: Vec<Meter>,
}

impl Errand {
    /// An errand for `question`; `lookup` when the answer may be shared.
    ///
    /// # Errors
    /// 503 while there is no memory for it.
    pub fn new(
        edge: &Arc<Edge>,
        snapshot: &Arc<Snapshot>,
        question: &Question<'_>,
        headers: &HeaderMap,
        lookup: Option<&Lookup<'_>>,
        status: CacheStatus,
    ) -> Result<Self, Refusal> {
        if edge.shedding.level() == Level::Full {
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "memory");
            return Err(refusal.retry_after(Some(SHED_FOR)));
        }
        let known = question.identity != Identity::Anonymous;
        let class = if question.demoted {
            Class::Background
        } else if let Some(class) = question.rule.and_then(|rule| rule.class) {
            class
        } else {
            question.site.classes.of(known, &question.target.path, headers)
        };
        let (client, path) = (question.client, &question.target.path);
        let login = if question.present.has(Present::IDENTITY) { session::login(headers) } else { None };
        let mut asker = Asker::new(client, login, class, path, question.writes);
        asker.scale = !known && conduct::is_scale(path);
        asker.way = question.site.way.as_deref().filter(|_| question.is_for_zope()).and_then(|name| way(headers, name));
        Ok(Self {
            edge: Arc::clone(edge),
            snapshot: Arc::clone(snapshot),
            site: Arc::clone(question.site),
            method: question.method.clone(),
            scheme: question.scheme,
            authority: question.authority.as_str().into(),
            place_len: question.place().len(),
            path: (&*question.target.path).into(),
            query: question.target.query.as_deref().map(Into::into),
            target: question.origin_target(),
            peer: question.approach.peer,
            client,
            key: lookup.map(|lookup| lookup.key.into()),
            privacy: lookup.map_or(Privacy::Unknown, |lookup| lookup.privacy),
            found: lookup.and_then(|lookup| lookup.found.cloned()),
            others: Box::default(),
            born: edge.cache.ledger().sequence(),
            rule: question.rule.cloned(),
            anonymous: question.identity == Identity::Anonymous,
            present: question.present,
            status,
            upstream: Arc::clone(question.upstream()),
            asker,
            meters: meters(question, headers),
        })
    }

    /// Host and port as visitors see them, without a port that goes without saying.
    #[must_use]
    pub fn place(&self) -> &str {
        self.authority.get(..self.place_len).unwrap_or(&self.authority)
    }

    /// Sets out for all who ask the same: it asks about the other variants as well that are stored by now.
    #[must_use]
    pub fn for_all(mut self: Box<Self>, key: &[u8], headers: &HeaderMap) -> Arc<Self> {
        self.asker.patient = self.found.is_none();
        // RFC 9110 13.1.3: beside a list of tags the date of what has none would not count.
        let askable = self.found.as_ref().is_none_or(|found| found.head.get(&header::ETAG).is_some());
        let Some(stored) = self.edge.cache.look(key).filter(|_| askable) else { return Arc::from(self) };
        let mut tags: Vec<HeaderValue> = self.found.iter().filter_map(|found| found.head.get(&header::ETAG)).collect();
        let mut others = Vec::new();
        let may_be_meant =
            |other: &&Arc<Stored>| conduct::may_serve_more(&other.head.open(0), &other.selection, headers);
        for other in stored.variants().iter().filter(may_be_meant) {
            if let Some(tag) = other.head.get(&header::ETAG).filter(|tag| !tags.contains(tag)) {
                tags.push(tag);
                others.push(Arc::clone(other));
            }
        }
        self.others = others.into();
        Arc::from(self)
    }

    /// By what its answer can be forgotten: where it stands, where it says that it belongs, and what it names itself. By
    /// acquisition Zope answers `/a/b/c` with what lies at `/c`, and only of that there is ever a purge.
    #[must_use]
    pub fn tags(&self, answer: &HeaderMap, named: &[Tag]) -> Vec<Tag> {
        let (site, preset) = (self.site.name.as_str(), self.site.preset);
        let mut tags = tags::of_place(site, preset.object(&self.path));
        if let Some(uri) = link::canonical(answer, self.scheme, self.place(), &self.path)
            && let Ok(canonical) = target::normalise(uri.path())
        {
            tags.extend(tags::of_place(site, preset.object(&canonical)));
        }
        tags.extend_from_slice(named);
        tags
    }

    /// The head that the origin gets in place of the client's: cleaned, rewritten, with the truth about the client. For a
    /// `websocket` the wish for it goes on.
    ///
    /// # Errors
    /// 400 when the client's `Connection` field names a field that must not be dropped, or when what was judged cannot be
    /// written: a rule of ours is too lax then.
    pub fn origin_head(
        &self,
        method: Method,
        headers: &mut HeaderMap,
        websocket: bool,
    ) -> Result<RequestHead, Refusal> {
        let chain = self.chain(headers);
        self.clean(&method, headers)?;
        if websocket {
            tunnel::ask(headers);
        }
        self.head(method, headers, &chain)
    }

    /// The head of a fetch for the cache: a GET of the whole, unless what is stored is still good.
    ///
    /// # Errors
    /// As [`Errand::origin_head`].
    pub fn shared_head(&self, headers: &HeaderMap) -> Result<RequestHead, Refusal> {
        let chain = self.chain(headers);
        let mut headers = headers.clone();
        self.clean(&Method::GET, &mut headers)?;
        for name in [
            // Zope makes cookies part of the request's variables, so any of them could change a page that others get.
            header::COOKIE,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_MATCH,
            header::IF_UNMODIFIED_SINCE,
            header::IF_RANGE,
            header::RANGE,
        ] {
            headers.remove(name);
        }
        if let Some(found) = &self.found {
            validator::make_conditional(&found.head.open(0), &mut headers);
        }
        validator::ask_about(self.others.iter().filter_map(|other| other.head.get(&header::ETAG)), &mut headers);
        self.head(Method::GET, &headers, &chain)
    }

    /// The addresses by which it came.
    fn chain(&self, headers: &HeaderMap) -> Vec<u8> {
        hop::forwarded_for(headers, self.peer, hop::is_trusted(self.peer, &self.snapshot.server.trusted))
    }

    /// Takes out of the client's fields what goes no further.
    fn clean(&self, method: &Method, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let dropped =
            hop::clean_request(headers).map_err(|refused| Refusal::new(refused.status, refused.why).closing())?;
        if dropped > 0 {
            self.site.metrics.headers_stripped(dropped);
        }
        if self.present.has(Present::IDENTITY) {
            hop::join_cookies(headers);
            if let Some(name) = &self.site.way {
                cookie::remove(headers, name);
            }
        }
        if method == Method::OPTIONS {
            hop::count_hop(headers);
        }
        Ok(())
    }

    /// What is left of the client's fields, between what we say.
    fn head(&self, method: Method, headers: &HeaderMap, chain: &[u8]) -> Result<RequestHead, Refusal> {
        let mut head = RequestHead::new(method, &self.target, &self.authority, headers)
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "target"))?;
        if self.anonymous && self.site.preset != Preset::Plain {
            let (name, value) = conduct::TELLS_ANONYMOUS;
            head.add(&name, value);
        }
        for (name, value) in hop::forwarded(chain, self.scheme, &self.authority) {
            head.add(&name, value);
        }
        head.add(&header::VIA, hop::VIA.as_bytes());
        if self.snapshot.cache.bounds.trust_origin {
            head.add(&SURROGATE_CAPABILITY, b"tidegate=\"Surrogate/1.0\"");
        }
        Ok(head)
    }
}

impl Request for Errand {
    fn describe(&self) -> Description {
        let query = self.query.as_deref().map_or(["", ""], |query| ["?", query]);
        Description {
            method: request::shown([self.method.as_str()]),
            site: self.site.name.to_string(),
            url: request::shown([self.scheme, "://", &self.authority, &self.path].into_iter().chain(query)),
            client: self.client.0.to_canonical().to_string(),
        }
    }
}

/// Tells an origin that Surrogate-Control is minded (Edge Architecture 1.0), and the name by which it may be targeted.
const SURROGATE_CAPABILITY: HeaderName = HeaderName::from_static("surrogate-capability");

/// What the request's time at an origin is charged to.
fn meters(question: &Question<'_>, headers: &HeaderMap) -> Vec<Meter> {
    let asking = question.asking(headers);
    question.site.limits.iter().filter_map(|limit| limit.meter(asking)).collect()
}

/// The endpoint that a client's cookie names.
fn way(headers: &HeaderMap, name: &str) -> Option<u64> {
    let value = std::str::from_utf8(cookie::value(headers, name)?).ok()?;
    u64::from_str_radix(value, 16).ok()
}

impl Errand {
    /// Whether nobody is there to answer; who makes pages of what Zope says cannot do without it.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.upstream.is_out() || !self.site.is_zopes(&self.upstream) && self.site.upstream.is_out()
    }

    /// The cookie that leads the client back to the endpoint called `to`, unless he has it already.
    #[must_use]
    pub fn way_back(&self, to: u64) -> Option<HeaderValue> {
        let name =
            self.site.way.as_deref().filter(|_| self.site.is_zopes(&self.upstream) && self.asker.way != Some(to))?;
        let secure = if self.scheme == "https" { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{name}={to:016x}; Path=/; HttpOnly; SameSite=Lax{secure}")).ok()
    }
}
