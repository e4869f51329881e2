//! The data path, in the order of the path: THE function to read is [`Session::call`].
//!
//! intake judges; a fresh stored response is answered at once, without a task or an allocation of its own; everything else
//! becomes an [`Errand`] that owns what it needs and may take its time.

use crate::clock;
use crate::edge::Edge;
use crate::edge::activity::Activity;
use crate::edge::body::OutBody;
use crate::edge::body::RequestWatch;
use crate::edge::deliver;
use crate::edge::errand::Errand;
use crate::edge::fetch;
use crate::edge::intake;
use crate::edge::intake::Approach;
use crate::edge::intake::Judged;
use crate::edge::intake::Kind;
use crate::edge::intake::Question;
use crate::edge::purge;
use crate::edge::refusal::Refusal;
use crate::edge::trail::Trail;
use crate::semantics::cache_control;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cache_status::Why;
use crate::semantics::key::KeyBuf;
use crate::semantics::reuse;
use crate::semantics::reuse::Reuse;
use crate::snapshot::Snapshot;
use crate::units::Now;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use hyper::body::Incoming;
use hyper::service::Service;
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

/// One client connection, as the service that answers its requests.
pub struct Session {
    edge: Arc<Edge>,
    approach: Approach,
    activity: Arc<Activity>,
}

/// The answer to one request: at hand, or under way.
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
            // hyper polls an answer once it is ready only once; a second poll waits for ever instead of panicking.
            Self::Ready(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Pending(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

/// What the first look at a request gave.
enum First {
    Answered(Response<OutBody>),
    Errand(Box<Errand>, Then),
}

/// What an errand is for.
enum Then {
    Pass,
    Fetch,
}

thread_local! {
    /// The key of the request that is being looked at: built in place, for a hit needs it only for a moment.
    static KEY: RefCell<KeyBuf> = RefCell::new(KeyBuf::new());
}

impl Session {
    /// The service of a connection from `peer`.
    #[must_use]
    pub fn new(edge: &Arc<Edge>, peer: SocketAddr, tls: bool, activity: &Arc<Activity>) -> Self {
        let approach = Approach { peer: peer.ip(), tls };
        Self { edge: Arc::clone(edge), approach, activity: Arc::clone(activity) }
    }
}

impl Service<Request<Incoming>> for Session {
    type Response = Response<OutBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let watch = RequestWatch::begin(&self.activity);
        let now = clock::now();
        let edge = Arc::clone(&self.edge);
        let snapshot = edge.snapshots.load();
        match first(&self.edge, &snapshot, self.approach, &request, now) {
            First::Answered(response) => Answer::Ready(Some(response.map(|body| body.watched(watch)))),
            First::Errand(errand, then) => {
                let run = async move {
                    let response = match then {
                        Then::Pass => fetch::pass(*errand, request).await,
                        Then::Fetch => fetch::shared(*errand, request).await,
                    };
                    response.map(|body| body.watched(watch))
                };
                Answer::Pending(Box::pin(run))
            }
        }
    }
}

/// Judges the request and answers what can be answered without an origin.
fn first(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    approach: Approach,
    request: &Request<Incoming>,
    now: Now,
) -> First {
    let question = match intake::judge(snapshot, approach, request) {
        Judged::Question(question) => question,
        Judged::Redirect(location) => {
            return First::Answered(deliver::redirect(edge, approach, request, &location, now));
        }
        Judged::Refused(refusal) => return First::Answered(deliver::refused(edge, approach, request, &refusal, now)),
    };
    match question.kind {
        Kind::Shared => lookup(edge, snapshot, request, &question, now),
        Kind::Pass(_) => First::Errand(Box::new(Errand::new(edge, snapshot, request, &question, None, now)), Then::Pass),
        Kind::Purge => First::Answered(purge::answer(edge, snapshot, request, &question, now)),
        Kind::AboutServer => First::Answered(deliver::about_server(edge, request, &question, now)),
    }
}

/// The cache's part: what is stored and may be reused is the answer.
fn lookup(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<Incoming>,
    question: &Question<'_>,
    now: Now,
) -> First {
    KEY.with_borrow_mut(|buffer| {
        let key = question.key(buffer);
        let shelf = edge.cache.get(key);
        let found = shelf.as_ref().and_then(|shelf| shelf.select(request.headers()));
        let Some(stored) = found else {
            let why = if shelf.is_some() { Why::VaryMiss } else { Why::UriMiss };
            return errand(edge, snapshot, request, question, Lookup { key, found: None, why }, now);
        };
        let directives = cache_control::parse(request.headers());
        let honour = snapshot.cache.honour_client;
        match reuse::decide(&stored.freshness, &directives, honour, now.mono) {
            Reuse::Fresh => {
                let status = CacheStatus::hit(stored.freshness.ttl(now.mono));
                First::Answered(deliver::stored(edge, request, question, stored, status, now))
            }
            Reuse::StaleWhileRevalidate => {
                let lookup = Lookup { key, found: Some(stored), why: Why::Stale };
                fetch::refresh(Errand::new(edge, snapshot, request, question, Some(lookup), now));
                let status = CacheStatus::hit(stored.freshness.ttl(now.mono)).detail("stale-while-revalidate");
                First::Answered(deliver::stored(edge, request, question, stored, status, now))
            }
            Reuse::Revalidate(why) => {
                errand(edge, snapshot, request, question, Lookup { key, found: Some(stored), why }, now)
            }
        }
    })
}
