//! Answers on their way to the client: from the cache, from a shared fetch, from the origin, or of our own.

use crate::cache::BodyReader;
use crate::cache::Stored;
use crate::edge::Edge;
use crate::edge::body::OutBody;
use crate::edge::errand::Errand;
use crate::edge::intake::Approach;
use crate::edge::intake::Question;
use crate::edge::refusal::Refusal;
use crate::edge::trail::Short;
use crate::edge::trail::Trail;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::coding;
use crate::semantics::conditional;
use crate::semantics::conditional::Conditional;
use crate::semantics::delivery;
use crate::semantics::delivery::Shape;
use crate::semantics::hop;
use crate::semantics::pack::Packed;
use crate::semantics::present::Present;
use crate::semantics::range;
use crate::semantics::range::Span;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::units::ClientAddr;
use crate::units::Now;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Instant;

/// What each delivery says anew: the length, Age and Cache-Status. For what few sites add besides the map grows.
const SAID_ANEW: usize = 3;

/// A stored body up to this size counts as sent when it is handed to hyper; a larger one is told when it has gone.
const TOLD_AT_ONCE: u64 = 64 * 1024;

/// Makes an origin's head fit to be stored: with its date and our name.
#[must_use]
pub fn prepare(mut head: HeaderMap, now: Now) -> Packed {
    if !head.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now.wall))
    {
        // RFC 9110 6.6.1: who receives a response without Date and stores it, adds one.
        head.insert(header::DATE, date);
    }
    head.append(header::VIA, HeaderValue::from_static(hop::VIA));
    keep(head)
}

/// A head as it is stored: without what each delivery says anew.
#[must_use]
pub fn keep(mut head: HeaderMap) -> Packed {
    for name in [header::CONTENT_LENGTH, header::AGE, header::CACHE_STATUS] {
        head.remove(name);
    }
    Packed::of(&head)
}

/// Announces the body's length, once it is known.
fn set_length(head: &mut HeaderMap, len: Option<u64>) {
    if let Some(len) = len {
        head.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    }
}

/// Answers with what is stored, told at once: the way of every hit.
pub fn hit<B>(
    edge: &Arc<Edge>,
    snapshot: &Snapshot,
    request: &Request<B>,
    question: &Question<'_>,
    stored: &Stored,
    status: &CacheStatus,
    now: Instant,
) -> Option<Response<OutBody>> {
    let told = snapshot.cache.told(status, question.client);
    let mut response = respond(request.method(), request.headers(), question.present, stored, status, told, now)?;
    let sent = response.body().len().unwrap_or(0);
    if sent > TOLD_AT_ONCE {
        let mut trail = Box::new(Trail::of(edge, request, question, status, now));
        trail.answered(response.status(), status);
        return Some(response.map(|body| body.trailed(trail)));
    }
    Short::to(question, response.status(), status, sent).tell(edge, request, now);
    response.body_mut().told(now);
    Some(response)
}

/// Answers with a shared response, stored or still arriving; `None` if its beginning is gone, or if the request has a
/// condition that it does not meet.
fn respond(
    method: &Method,
    asked: &HeaderMap,
    present: Present,
    stored: &Stored,
    status: &CacheStatus,
    told: Option<HeaderValue>,
    now: Instant,
) -> Option<Response<OutBody>> {
    let mut head = stored.head.open(SAID_ANEW);
    set_length(&mut head, stored.body.len());
    let age = stored.freshness.age(now).as_secs();
    if age > 0 || status.is_hit() {
        // RFC 9111 5.1: Age says that the response was not made for this request.
        head.insert(header::AGE, HeaderValue::from(age));
    }
    if let Some(told) = told {
        head.insert(header::CACHE_STATUS, told);
    }
    let coded = stored.coded.as_ref().filter(|_| present.has(Present::CODING)).and_then(|coded| {
        let coding = coded.choose(method, asked)?;
        Some((coding, coded.body(coding)?))
    });
    let plain = !present.has(Present::CONDITION) && !present.has(Present::RANGE);
    let shape =
        if plain { Shape::Full } else { delivery::shape(method, asked, stored.status, &head, stored.body.len()) };
    match shape {
        Shape::NotModified => {
            if let Some((coding, _)) = coded {
                coding::recode(&mut head, coding, None);
            }
            keep_304(&mut head);
            Some(assemble(StatusCode::NOT_MODIFIED, head, OutBody::empty()))
        }
        Shape::AskOrigin => None,
        Shape::Unsatisfiable => Some(unsatisfiable(head, stored.body.len().unwrap_or(0))),
        Shape::Part(span) => part(head, stored, span),
        Shape::Parts(spans) => parts(&mut head, stored, &spans)
            .map(|body| assemble(StatusCode::PARTIAL_CONTENT, head.clone(), body))
            .or_else(|| whole(method, head, stored)),
        Shape::Full => match coded {
            Some((coding, body)) => {
                let len = body.len() as u64;
                coding::recode(&mut head, coding, Some(len));
                let (body, len) = if method == Method::HEAD {
                    (BodyReader::Done, None)
                } else {
                    (BodyReader::Whole(body.clone()), Some(len))
                };
                Some(assemble(stored.status, head, OutBody::stored(body, len)))
            }
            None => whole(method, head, stored),
        },
    }
}

fn whole(method: &Method, head: HeaderMap, stored: &Stored) -> Option<Response<OutBody>> {
    let body = if method == Method::HEAD {
        OutBody::stored(BodyReader::Done, None)
    } else {
        OutBody::stored(stored.body.reader()?, stored.body.len())
    };
    Some(assemble(stored.status, head, body))
}

/// RFC 9110 15.3.7.1.
fn part(mut head: HeaderMap, stored: &Stored, span: Span) -> Option<Response<OutBody>> {
    let body = OutBody::stored(stored.body.part(span.first, span.size())?, Some(span.size()));
    head.insert(header::CONTENT_RANGE, span.content_range(stored.body.len()?));
    set_length(&mut head, Some(span.size()));
    Some(assemble(StatusCode::PARTIAL_CONTENT, head, body))
}

/// RFC 9110 15.3.7.2; `None` while the body is still arriving: parts in any order would have to wait for its end.
fn parts(head: &mut HeaderMap, stored: &Stored, spans: &[Span]) -> Option<OutBody> {
    let len = stored.body.len()?;
    // No content can hold it: it is drawn anew for each answer.
    let boundary = format!("tidegate-{:016x}", RandomState::new().hash_one(len));
    let (heads, end) = range::part_heads(&boundary, head, spans, len);
    let mut pieces = Vec::new();
    for (part_head, span) in heads.into_iter().zip(spans) {
        pieces.push(part_head);
        if !stored.body.pieces(span.first, span.size(), &mut pieces) {
            return None;
        }
    }
    pieces.push(end);
    let sent = pieces.iter().map(|piece| piece.len() as u64).sum();
    head.insert(header::CONTENT_TYPE, range::multipart(&boundary));
    set_length(head, Some(sent));
    Some(OutBody::stored(BodyReader::Segments(pieces.into(), 0), Some(sent)))
}

/// RFC 9110 15.5.17.
fn unsatisfiable(mut head: HeaderMap, len: u64) -> Response<OutBody> {
    keep_304(&mut head);
    head.insert(header::CONTENT_RANGE, range::unsatisfied(len));
    set_length(&mut head, Some(0));
    assemble(StatusCode::RANGE_NOT_SATISFIABLE, head, OutBody::empty())
}

/// Takes content metadata out of a head for a 304.
fn keep_304(head: &mut HeaderMap) {
    let content: Vec<HeaderName> = head.keys().filter(|name| !conditional::belongs_in_304(name)).cloned().collect();
    for name in content {
        head.remove(name);
    }
}

fn assemble(status: StatusCode, head: HeaderMap, body: OutBody) -> Response<OutBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = head;
    response
}

/// Answers with the response of a fetch that was shared.
///
/// # Errors
/// The trail comes back when the beginning of the body is gone already.
pub fn landed(
    errand: &Errand,
    trail: Box<Trail>,
    asked: &HeaderMap,
    method: &Method,
    stored: &Stored,
    status: &CacheStatus,
) -> Result<Response<OutBody>, Box<Trail>> {
    let now = crate::clock::mono();
    let told = errand.snapshot.cache.told(status, errand.client);
    let Some(response) = respond(method, asked, errand.present, stored, status, told, now) else {
        return Err(trail);
    };
    let mut trail = trail;
    trail.answered(response.status(), status);
    Ok(response.map(|body| body.trailed(trail)))
}

/// Answers with what the origin said at `now`, for this client alone.
pub fn origin(
    errand: &Errand,
    mut trail: Box<Trail>,
    mut response: Response<OutBody>,
    status: &CacheStatus,
    now: Instant,
) -> Response<OutBody> {
    let told = errand.snapshot.cache.told(status, errand.client);
    let told = told.filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS);
    let head = response.headers_mut();
    head.append(header::VIA, HeaderValue::from_static(hop::VIA));
    if let Some(told) = told {
        head.append(header::CACHE_STATUS, told);
    }
    trail.answered(response.status(), status);
    let body = response.body_mut();
    if let Some(sent) = body.at_hand().filter(|sent| *sent <= TOLD_AT_ONCE) {
        trail.finish(sent, true, now);
        body.told(now);
        return response;
    }
    response.map(|body| body.trailed(trail))
}

/// Answers with what was fetched to be shared but may not be: the request went out as a GET without the client's
/// conditions, so those are judged here.
pub fn private<B>(
    errand: &Errand,
    trail: Box<Trail>,
    request: &Request<B>,
    response: Response<OutBody>,
    status: &CacheStatus,
    now: Instant,
) -> Response<OutBody> {
    let verdict = conditional::evaluate(request.headers(), response.status(), response.headers());
    let response = if verdict == Conditional::NotModified {
        let (mut parts, _) = response.into_parts();
        keep_304(&mut parts.headers);
        assemble(StatusCode::NOT_MODIFIED, parts.headers, OutBody::empty())
    } else if request.method() == Method::HEAD {
        let (mut parts, body) = response.into_parts();
        set_length(&mut parts.headers, body.len());
        Response::from_parts(parts, OutBody::stored(BodyReader::Done, None))
    } else {
        response
    };
    origin(errand, trail, response, status, now)
}

/// Answers that there is no answer.
#[must_use]
pub fn failed(mut trail: Box<Trail>, refusal: &Refusal) -> Response<OutBody> {
    trail.refused(refusal.status, refusal.why);
    refusal.response().map(|page| OutBody::whole(page).trailed(trail))
}

/// Refuses a request that got no further than its head.
pub fn refused<B>(
    edge: &Edge,
    approach: Approach,
    request: &Request<B>,
    site: Option<&Arc<Site>>,
    client: ClientAddr,
    refusal: &Refusal,
    now: Instant,
) -> Response<OutBody> {
    let response = refusal.response();
    let mut short = Short::synth(approach, refusal.status, refusal.why, response.body().len() as u64);
    (short.site, short.client) = (site, client.0);
    short.tell(edge, request, now);
    for_method(request.method(), response)
}

/// Answers `OPTIONS *` (RFC 9110 9.3.7).
pub fn about_server<B>(edge: &Edge, approach: Approach, request: &Request<B>, now: Instant) -> Response<OutBody> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(crate::edge::refusal::ALLOWED));
    Short::synth(approach, StatusCode::NO_CONTENT, "about_server", 0).tell(edge, request, now);
    for_method(request.method(), response)
}

/// Answers the authority that looks whether a name is ours.
pub fn proof<B>(
    edge: &Edge,
    approach: Approach,
    request: &Request<B>,
    proof: String,
    now: Instant,
) -> Response<OutBody> {
    let mut response = Response::new(Bytes::from(proof));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Short::synth(approach, StatusCode::OK, "acme", response.body().len() as u64).tell(edge, request, now);
    for_method(request.method(), response)
}

/// Sends the client to where its request belongs.
pub fn redirect<B>(
    edge: &Edge,
    approach: Approach,
    request: &Request<B>,
    location: &str,
    now: Instant,
) -> Response<OutBody> {
    let mut response = Response::new(Bytes::new());
    // 308: the method stays, so a form that was sent to the wrong place is not lost (RFC 9110 15.4.9).
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Short::synth(approach, StatusCode::PERMANENT_REDIRECT, "moved", 0).tell(edge, request, now);
    for_method(request.method(), response)
}

/// Answers `question` with a short text of our own.
pub fn own<B>(
    edge: &Edge,
    request: &Request<B>,
    question: &Question<'_>,
    response: Response<Bytes>,
    why: &'static str,
    now: Instant,
) -> Response<OutBody> {
    let status = response.status();
    let sent = response.body().len() as u64;
    let mut short = Short::to(question, status, &CacheStatus::synth(), sent);
    short.why = Some(why);
    short.tell(edge, request, now);
    for_method(request.method(), response)
}

/// Without its body for HEAD, which keeps the length that GET would have.
fn for_method(method: &Method, response: Response<Bytes>) -> Response<OutBody> {
    let (mut parts, page) = response.into_parts();
    if method == Method::HEAD {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
        return Response::from_parts(parts, OutBody::stored(BodyReader::Done, None));
    }
    Response::from_parts(parts, OutBody::whole(page))
}
