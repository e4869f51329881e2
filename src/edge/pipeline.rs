//! The data path, in the order of the path: THE function to read is [`Session::call`].
//!
//! intake judges; a fresh stored response is answered at once, without a task or a copy of the request; everything else
//! becomes an [`Errand`] that owns what it needs and may take its time.

use crate::cache::Privacy;
use crate::cache::coded::Mill;
use crate::clock;
use crate::edge::Edge;
use crate::edge::activity::Activity;
use crate::edge::body::OutBody;
use crate::edge::body::RequestWatch;
use crate::edge::decision::Look;
use crate::edge::decision::Onward;
use crate::edge::deliver;
use crate::edge::errand::Errand;
use crate::edge::errand::Lookup;
use crate::edge::fetch;
use crate::edge::fetch::Outbound;
use crate::edge::intake;
use crate::edge::intake::Approach;
use crate::edge::intake::Judged;
use crate::edge::intake::Kind;
use crate::edge::intake::Question;
use crate::edge::purge;
use crate::edge::refusal::Refusal;
use crate::edge::trail::Trail;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cache_status::Why;
use crate::semantics::key::KeyBuf;
use crate::semantics::present::Present;
use crate::semantics::reuse::Reuse;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::snapshot::limits::Said;
use crate::zope::conduct;
use crate::zope::session::Identity;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use hyper::body::Incoming;
use hyper::service::Service;
use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// One client connection, as the service that answers its requests.
pub struct Session {
    edge: Arc<Edge>,
    approach: Approach,
    activity: Arc<Activity>,
    /// Ends the connection after the requests under way.
    closing: CancellationToken,
}

/// The answer to one request: at hand, or under way.
#[expect(clippy::large_enum_variant, reason = "a hit is handed on without an allocation")]
pub enum Answer {
    /// At hand.
    Ready(Option<Response<OutBody>>),
    /// Under way.
    Pending(Pin<Box<dyn Future<Output = Response<OutBody>> + Send>>),
}

impl Future for Answer {
    type Output = Result<Response<OutBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            // An answer that was given is not asked for again; if it were, waiting is better than a panic.
            Self::Ready(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Pending(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

/// Says whether the disk knows of all purges so far.
type Settling = Pin<Box<dyn Future<Output = bool> + Send>>;

/// What the first look at a request gave.
enum First {
    Answered(Response<OutBody>),
    /// Answered that it makes no sense.
    Refused(Response<OutBody>),
    /// Answered, as soon as what was purged stays so whatever happens.
    Settling(Settling, Response<OutBody>, Box<Trail>),
    Pass(Arc<Errand>, Box<Trail>),
    Fetch(Box<Errand>, Box<Trail>),
}

thread_local! {
    /// The key of the request that is being looked at: built in place, for a hit needs it only for a moment.
    static KEY: RefCell<KeyBuf> = RefCell::new(KeyBuf::new());
}

impl Session {
    /// The service of a connection from `peer`.
    #[must_use]
    pub fn new(edge: &Arc<Edge>, approach: Approach, activity: &Arc<Activity>, closing: &CancellationToken) -> Self {
        Self { edge: Arc::clone(edge), approach, activity: Arc::clone(activity), closing: closing.clone() }
    }

    /// HTTP/1 reads it in the answer; HTTP/2 has to be told, by GOAWAY (RFC 9113 6.8).
    fn close_if_said(&self, response: &Response<OutBody>) {
        if response.headers().get(header::CONNECTION).is_some_and(|value| value == "close") {
            self.closing.cancel();
        }
    }
}

impl Service<Request<Incoming>> for Session {
    type Response = Response<OutBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let watch = RequestWatch::begin(&self.activity);
        let now = clock::mono();
        let snapshot = self.edge.snapshots.load();
        match first(&self.edge, &snapshot, self.approach, &request, now) {
            First::Refused(mut response) => {
                self.activity.fault();
                self.close_if_said(&response);
                response.body_mut().watch(watch.ending_at(now));
                Answer::Ready(Some(response))
            }
            First::Answered(mut response) => {
                self.close_if_said(&response);
                response.body_mut().watch(watch);
                // Whatever body the request has is drained by hyper within its bound, or the connection closes.
                Answer::Ready(Some(response))
            }
            First::Settling(settling, response, trail) => Answer::Pending(Box::pin(async move {
                let response = if settling.await {
                    response.map(|body| body.trailed(trail))
                } else {
                    // It is purged in memory, but nobody knows whether a restart would bring it back.
                    deliver::failed(trail, &Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "purge_not_kept"))
                };
                response.map(|body| body.watched(watch))
            })),
            First::Pass(errand, trail) => match Outbound::of(&errand, request, now) {
                Ok(mut outbound) => Answer::Pending(Box::pin(async move {
                    let response = fetch::send(&errand, trail, &mut outbound).await;
                    finished(response, &errand.site, errand.scheme, watch)
                })),
                Err(refusal) => {
                    let response = deliver::failed(trail, &refusal);
                    Answer::Ready(Some(finished(response, &errand.site, errand.scheme, watch)))
                }
            },
            First::Fetch(errand, trail) => Answer::Pending(Box::pin(async move {
                let (site, scheme) = (Arc::clone(&errand.site), errand.scheme);
                finished(fetch::shared(errand, trail, request).await, &site, scheme, watch)
            })),
        }
    }
}

/// With what the site adds, and watched to its end.
fn finished(mut response: Response<OutBody>, site: &Site, scheme: &str, watch: RequestWatch) -> Response<OutBody> {
    site.dress(response.headers_mut(), scheme);
    response.body_mut().watch(watch);
    response
}

/// Judges the request and answers what can be answered without an origin.
fn first(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    approach: Approach,
    request: &Request<Incoming>,
    now: Instant,
) -> First {
    let question = match intake::judge(snapshot, approach, request) {
        Judged::Question(question) => question,
        Judged::Redirect(location, site, scheme) => {
            let mut response = deliver::redirect(edge, approach, request, &location, now);
            site.dress(response.headers_mut(), scheme);
            return First::Answered(response);
        }
        Judged::Proof(proof) => return First::Answered(deliver::proof(edge, approach, request, proof, now)),
        Judged::AboutServer => return First::Answered(deliver::about_server(edge, approach, request, now)),
        Judged::Refused(refusal, site, client) => {
            let mut response = deliver::refused(edge, approach, request, site, client, &refusal, now);
            if let Some(site) = site {
                site.dress(response.headers_mut(), site.seen_scheme(approach.tls));
            }
            // Who may not see a site, or asks too often, makes no mistake; but who goes on after the connection's end was said.
            let wrong =
                refusal.close || !matches!(refusal.status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
            return if wrong { First::Refused(response) } else { First::Answered(response) };
        }
    };
    let mut first = match question.kind {
        Kind::Shared => KEY.with_borrow_mut(|buffer| lookup(edge, snapshot, request, &question, buffer, now)),
        Kind::Pass(why) => pass(edge, snapshot, request, &question, None, why.status(), now),
        Kind::Purge => purged(edge, snapshot, request, &question, now),
    };
    if let First::Answered(response) | First::Settling(_, response, _) = &mut first {
        question.site.dress(response.headers_mut(), question.scheme);
    }
    first
}

/// A PURGE: answered at once, or where the cache is kept on a disk, when it stands there.
fn purged(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<Incoming>,
    question: &Question<'_>,
    now: Instant,
) -> First {
    let (response, why) = purge::answer(edge, snapshot, request, question, now);
    match edge.cache.disk().and_then(|disk| disk.settled()) {
        None => First::Answered(deliver::own(edge, request, question, response, why, now)),
        Some(settling) => {
            let mut trail = Box::new(Trail::of(edge, request, question, &CacheStatus::synth(), now));
            trail.refused(response.status(), why);
            First::Settling(Box::pin(settling), response.map(OutBody::whole), trail)
        }
    }
}

/// To the origin, past the cache; `lookup` if what it says may be learnt from.
fn pass(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<Incoming>,
    question: &Question<'_>,
    lookup: Option<&Lookup<'_>>,
    status: CacheStatus,
    now: Instant,
) -> First {
    match Errand::new(edge, snapshot, question, request.headers(), lookup, status) {
        Ok(errand) => {
            let trail = Box::new(Trail::of(edge, request, question, &errand.status, now));
            First::Pass(Arc::new(errand), trail)
        }
        Err(refusal) => First::Answered(deliver::own(edge, request, question, refusal.response(), refusal.why, now)),
    }
}

/// Whether the client has asked for more scales of images that are not stored than a visitor does.
fn too_many_scales(snapshot: &Snapshot, question: &Question<'_>, headers: &HeaderMap) -> Option<Refusal> {
    let limit = snapshot.scales.as_ref().filter(|_| conduct::is_scale(&question.target.path))?;
    match limit.check(question.asking(headers)) {
        Said::Stop { retry_after, .. } => {
            Some(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "scales").retry_after(Some(retry_after)))
        }
        Said::Go | Said::Last => None,
    }
}

/// The cache's part: what is stored and may be reused is the answer.
fn lookup(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<Incoming>,
    question: &Question<'_>,
    buffer: &mut KeyBuf,
    now: Instant,
) -> First {
    let key = question.key(buffer);
    let canonical = edge.cache.rules().canonical(key);
    let key = canonical.as_deref().unwrap_or(key);
    let shelf = edge.cache.get(key);
    let look = Look::at(shelf.as_ref(), request.headers(), question.present, snapshot.cache.honour_client, now);
    if let Some((stored, status)) = look.served()
        && let Some(response) = deliver::hit(edge, snapshot, request, question, stored, &status, now)
    {
        if question.present.has(Present::CODING) {
            Mill::make(&edge.cache, key, stored, request.method(), request.headers(), fetch::in_the_background);
        }
        if look.reuse == Some(Reuse::StaleWhileRevalidate) {
            let lookup = Lookup { key, found: Some(stored), privacy: Privacy::Unknown };
            let status = CacheStatus::forwarded(Why::Stale);
            if let Ok(errand) = Errand::new(edge, snapshot, question, request.headers(), Some(&lookup), status) {
                fetch::refresh(Box::new(errand), request.headers());
            }
        }
        return First::Answered(response);
    }
    let refuse =
        |refusal: Refusal| First::Answered(deliver::own(edge, request, question, refusal.response(), refusal.why, now));
    let status = match look.onward(request.headers(), || edge.cache.may_have_whole(key)) {
        Onward::Nothing if edge.cache.is_on_disk_only(key) => {
            let lookup = Lookup { key, found: None, privacy: Privacy::Unknown };
            return fetched(edge, snapshot, request, question, &lookup, CacheStatus::forwarded(Why::UriMiss), now);
        }
        Onward::Nothing => return refuse(fetch::nothing_cached()),
        Onward::Alone(status) => {
            let lookup = Lookup { key, found: None, privacy: Privacy::Unknown };
            return pass(edge, snapshot, request, question, Some(&lookup), status, now);
        }
        Onward::Fetch(status) => status,
    };
    if look.found.is_none()
        && let Some(refusal) = too_many_scales(snapshot, question, request.headers())
    {
        return refuse(refusal);
    }
    let mut lookup = Lookup { key, found: look.found, privacy: Privacy::Unknown };
    if look.found.is_none() && question.identity == Identity::Anonymous {
        lookup.privacy = edge.cache.private().privacy(key, now);
        if let Some(why) = lookup.privacy.why() {
            // Nobody else's, by all that is known: there is nothing to share, and nobody to wait for.
            return pass(edge, snapshot, request, question, Some(&lookup), status.detail(why), now);
        }
    }
    fetched(edge, snapshot, request, question, &lookup, status, now)
}

/// To whom it may come from, be it the disk: a fetch for all who ask the same.
fn fetched(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<Incoming>,
    question: &Question<'_>,
    lookup: &Lookup<'_>,
    status: CacheStatus,
    now: Instant,
) -> First {
    match Errand::new(edge, snapshot, question, request.headers(), Some(lookup), status) {
        Ok(errand) => {
            let trail = Box::new(Trail::of(edge, request, question, &errand.status, now));
            First::Fetch(Box::new(errand), trail)
        }
        Err(refusal) => First::Answered(deliver::own(edge, request, question, refusal.response(), refusal.why, now)),
    }
}
