//! Journeys to the origin: pass (for one client), shared (for all who ask the same), refresh (for nobody yet).
//!
//! A shared fetch runs in a task of its own, so that a client who leaves does not end what others, or the cache, can use.

use crate::cache::Fill;
use crate::cache::Flight;
use crate::cache::Joined;
use crate::cache::Leader;
use crate::cache::Stored;
use crate::cache::StoredBody;
use crate::cache::body::Write;
use crate::cache::collapse::Landing;
use crate::clock;
use crate::edge::body::OutBody;
use crate::edge::deliver;
use crate::edge::errand::Errand;
use crate::edge::inbound;
use crate::edge::refusal::Refusal;
use crate::edge::tunnel;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cache_status::Why;
use crate::semantics::framing;
use crate::semantics::hop;
use crate::semantics::reuse;
use crate::semantics::storable;
use crate::semantics::storable::Storable;
use crate::semantics::storable::WhyNotStored;
use crate::semantics::validator;
use crate::upstream::FetchError;
use crate::upstream::Fetched;
use crate::upstream::OriginBody;
use crate::upstream::RequestBody;
use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How often those who wait for a shared fetch try again together before each goes his own way.
const TOGETHER: usize = 2;

/// How a shared fetch ended for the one who started it.
enum Outcome {
    /// With a response for all.
    Shared(Arc<Stored>, Filled),
    /// With a response for him alone.
    Private(Box<Answered>, WhyNotStored),
    /// With what was stored: the origin failed, and stale is better than nothing.
    Stale(Arc<Stored>),
    /// Without a response.
    Failed(Refusal),
}

/// How the shared response came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// New from the origin, with its status.
    New(StatusCode),
    /// The origin said that what is stored is still good.
    Revalidated,
}

/// An origin's answer, judged and cleaned, its body still to be read.
struct Answered {
    status: StatusCode,
    head: HeaderMap,
    body: OriginBody,
}

/// Passes the request to the origin and its answer to the client, past the cache.
pub async fn pass(errand: Errand, request: Request<Incoming>) -> Response<OutBody> {
    match try_pass(&errand, request).await {
        Ok(response) => deliver::origin(errand, response, None),
        Err(refusal) => deliver::failed(errand, &refusal),
    }
}

async fn try_pass(errand: &Errand, mut request: Request<Incoming>) -> Result<Response<OutBody>, Refusal> {
    let wants_websocket = framing::wants_websocket(request.headers());
    let client_side = wants_websocket.then(|| hyper::upgrade::on(&mut request));
    let (client, body) = request.into_parts();
    let body = inbound::body(errand, body)?;
    let method = client.method;
    let mut head = errand.origin_head(method.clone(), client.headers)?;
    if wants_websocket {
        tunnel::ask(&mut head.headers);
    }
    let fetched = send(errand, Request::from_parts(head, body)).await?;
    if let (Some(client_side), StatusCode::SWITCHING_PROTOCOLS) = (client_side, fetched.response.status()) {
        return Ok(tunnel::open(errand, client_side, fetched));
    }
    let answered = clean(errand, fetched)?;
    if !method.is_safe() && (answered.status.is_success() || answered.status.is_redirection()) {
        // RFC 9111 4.4: what was stored for the target is no longer what the origin would say.
        crate::edge::purge::after_unsafe(errand);
    }
    let mut response = Response::new(OutBody::origin(answered.body));
    *response.status_mut() = answered.status;
    *response.headers_mut() = answered.head;
    Ok(response)
}

/// Answers from the one fetch that all equal requests share.
pub async fn shared(mut errand: Errand, request: Request<Incoming>) -> Response<OutBody> {
    let Some(key) = errand.key.clone() else { return pass(errand, request).await };
    if errand.edge.cache.is_private(&key) {
        return pass(errand, request).await;
    }
    let mut collapsed = false;
    for _ in 0..TOGETHER {
        match errand.edge.cache.flights().join(&key) {
            Joined::Leader(leader) => return lead(errand, request, leader).await,
            Joined::Follower(flight) => {
                collapsed = true;
                match follow(&errand, &request, &flight).await {
                    Followed::Response(stored) => {
                        let status = CacheStatus::forwarded(errand.why).collapsed();
                        return deliver::landed(errand, &request, &stored, status);
                    }
                    Followed::OnMyOwn => break,
                    Followed::Again => {}
                }
            }
        }
    }
    if collapsed && let Some(stale) = usable_stale(&errand) {
        return deliver::landed(errand, &request, &stale, CacheStatus::stale_on_error());
    }
    errand.found = None;
    pass(errand, request).await
}

/// What a follower got.
enum Followed {
    Response(Arc<Stored>),
    OnMyOwn,
    Again,
}

async fn follow(errand: &Errand, request: &Request<Incoming>, flight: &Arc<Flight>) -> Followed {
    errand.site.metrics.collapsed();
    match flight.landed().await {
        Landing::Shared(stored) if stored.selection.matches(request.headers()) => Followed::Response(stored),
        Landing::Shared(_) | Landing::Private => Followed::OnMyOwn,
        Landing::Failed | Landing::Airborne => Followed::Again,
    }
}

async fn lead(errand: Errand, request: Request<Incoming>, leader: Leader) -> Response<OutBody> {
    let head = match errand.shared_head(request.headers()) {
        Ok(head) => head,
        Err(refusal) => return deliver::failed(errand, &refusal),
    };
    let (reply, outcome) = oneshot::channel();
    let errand = Arc::new(errand);
    let journey = Journey { errand: Arc::clone(&errand), client: request.headers().clone(), leader };
    tokio::spawn(journey.run(head, Some(reply)));
    let outcome = outcome.await;
    match outcome {
        Ok(Outcome::Shared(stored, Filled::Revalidated)) => {
            let status = CacheStatus::forwarded(errand.why).forward_status(304).stored();
            deliver::landed_arc(&errand, &request, &stored, status)
        }
        Ok(Outcome::Shared(stored, Filled::New(status))) => {
            let status = CacheStatus::forwarded(errand.why).forward_status(status.as_u16()).stored();
            deliver::landed_arc(&errand, &request, &stored, status)
        }
        Ok(Outcome::Private(answered, why)) => deliver::private(&errand, &request, *answered, why),
        Ok(Outcome::Stale(stored)) => {
            deliver::landed_arc(&errand, &request, &stored, CacheStatus::stale_on_error())
        }
        Ok(Outcome::Failed(refusal)) => deliver::failed_arc(&errand, &refusal),
        // The journey's task is gone without a word: it panicked.
        Err(_) => deliver::failed_arc(&errand, &Refusal::new(StatusCode::BAD_GATEWAY, "internal")),
    }
}
