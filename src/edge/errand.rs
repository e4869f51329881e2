//! A request that has to travel: everything it needs on the way, owned.

use crate::cache::Stored;
use crate::edge::Edge;
use crate::edge::intake::Question;
use crate::edge::refusal::Refusal;
use crate::edge::trail::Trail;
use crate::semantics::cache_status::Why;
use crate::semantics::hop;
use crate::semantics::validator;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::units::ClientAddr;
use crate::units::Now;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header;
use http::request::Parts;
use std::sync::Arc;

/// What the cache had to say about a request that it could not answer.
pub struct Lookup<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is stored, though it may not be reused as it is.
    pub found: Option<&'a Arc<Stored>>,
    /// Why it has to be forwarded.
    pub why: Why,
}

/// A request on its way to the origin.
pub struct Errand {
    /// The shared state of the edge.
    pub edge: Arc<Edge>,
    /// The snapshot under which it was judged; it travels under no other.
    pub snapshot: Arc<Snapshot>,
    /// The site.
    pub site: Arc<Site>,
    /// The scheme that visitors see.
    pub scheme: &'static str,
    /// Host and port as visitors see them.
    pub authority: String,
    /// Path and query as the origin shall see them.
    pub uri: Uri,
    /// The client.
    pub client: ClientAddr,
    /// Whether the peer's forwarded fields are believed.
    pub peer_trusted: bool,
    /// The cache key, when the answer may be shared.
    pub key: Option<Box<[u8]>>,
    /// What is stored under it for requests like this one.
    pub found: Option<Arc<Stored>>,
    /// Why it travels.
    pub why: Why,
    /// When it came.
    pub now: Now,
    /// What will be told about it.
    pub trail: Box<Trail>,
}

impl Errand {
    /// An errand for `question`; `lookup` when the answer may be shared.
    ///
    /// # Errors
    /// When the rewritten target is no URI; it was judged, so that is a rule of ours that is too lax.
    pub fn new<B>(
        edge: &Arc<Edge>,
        snapshot: &Arc<Snapshot>,
        request: &Request<B>,
        question: &Question<'_>,
        lookup: Option<&Lookup<'_>>,
        now: Now,
    ) -> Result<Self, Refusal> {
        let site = question.site;
        let target = question.origin_target();
        let uri = Uri::try_from(target).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "target"))?;
        let why = lookup.map_or_else(|| question.why_passed(), |lookup| lookup.why);
        Ok(Self {
            edge: Arc::clone(edge),
            snapshot: Arc::clone(snapshot),
            site: Arc::clone(site),
            scheme: question.scheme,
            authority: question.authority.to_string(),
            uri,
            client: question.client,
            peer_trusted: question.peer_trusted,
            key: lookup.map(|lookup| lookup.key.into()),
            found: lookup.and_then(|lookup| lookup.found.cloned()),
            why,
            now,
            trail: Box::new(Trail::of(edge, request, question, now)),
        })
    }

    /// The head that the origin gets in place of the client's: cleaned, rewritten, with the truth about the client.
    ///
    /// # Errors
    /// When the client's `Connection` field names a field that must not be dropped.
    pub fn origin_head(&self, method: Method, mut headers: HeaderMap) -> Result<Parts, Refusal> {
        let dropped = hop::clean_request(&mut headers).map_err(|refused| Refusal::new(refused.status, refused.why))?;
        self.site.metrics.headers_stripped(dropped.count());
        hop::join_cookies(&mut headers);
        hop::overwrite_forwarded(&mut headers, self.client, self.peer_trusted, self.scheme, &self.authority);
        let host = HeaderValue::try_from(self.authority.as_str())
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "host"))?;
        headers.insert(header::HOST, host);
        headers.append(header::VIA, HeaderValue::from_static("1.1 tidegate"));
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        parts.uri = self.uri.clone();
        parts.headers = headers;
        Ok(parts)
    }

    /// The head of a fetch for the cache: the whole response, unless what is stored is still good.
    ///
    /// # Errors
    /// As [`Errand::origin_head`].
    pub fn shared_head(&self, headers: &HeaderMap) -> Result<Parts, Refusal> {
        let mut parts = self.origin_head(Method::GET, headers.clone())?;
        for name in [
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_MATCH,
            header::IF_UNMODIFIED_SINCE,
            header::IF_RANGE,
            header::RANGE,
        ] {
            parts.headers.remove(name);
        }
        if let Some(found) = &self.found {
            validator::make_conditional(&found.head, &mut parts.headers);
        }
        Ok(parts)
    }
}
