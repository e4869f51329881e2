//! Journeys to the origin: pass (for one client), shared (for all who ask the same), refresh (for nobody yet).
//!
//! A shared fetch runs in a task of its own, so that a client who leaves does not end what others, or the cache, can use.

use crate::cache::BodyReader;
use crate::cache::Fill;
use crate::cache::Flight;
use crate::cache::Joined;
use crate::cache::Leader;
use crate::cache::Mark;
use crate::cache::Privacy;
use crate::cache::Shelf;
use crate::cache::Stored;
use crate::cache::StoredBody;
use crate::cache::Tagged;
use crate::cache::body::FillWriter;
use crate::cache::body::Write;
use crate::cache::coded::Coded;
use crate::cache::coded::Mill;
use crate::cache::collapse::Failure;
use crate::cache::collapse::Landing;
use crate::cache::disk::Terms as KeptUnder;
use crate::cache::entry::Kept;
use crate::clock;
use crate::edge::body::OutBody;
use crate::edge::decision::Look;
use crate::edge::deliver;
use crate::edge::errand::Errand;
use crate::edge::inbound;
use crate::edge::obsolete;
use crate::edge::refusal::Refusal;
use crate::edge::storing;
use crate::edge::storing::Asked;
use crate::edge::trail::Trail;
use crate::edge::tunnel;
use crate::semantics::cache_control;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cache_status::Why;
use crate::semantics::coding;
use crate::semantics::conditional;
use crate::semantics::downstream;
use crate::semantics::framing;
use crate::semantics::freshness;
use crate::semantics::freshness::Times;
use crate::semantics::no_vary_search;
use crate::semantics::policy;
use crate::semantics::present::Present;
use crate::semantics::reuse;
use crate::semantics::reuse::Reuse;
use crate::semantics::storable;
use crate::semantics::storable::Storable;
use crate::semantics::storable::Terms;
use crate::semantics::storable::WhyNotStored;
use crate::semantics::tags;
use crate::semantics::tags::Tag;
use crate::semantics::validator;
use crate::semantics::vary::Selection;
use crate::semantics::wire::RequestHead;
use crate::snapshot::Meter;
use crate::telemetry::metrics::Revalidation;
use crate::upstream;
use crate::upstream::Class;
use crate::upstream::FetchError;
use crate::upstream::Fetched;
use crate::upstream::OriginBody;
use crate::upstream::RequestBody;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::fetch::Timings;
use crate::upstream::fetch::Watch;
use crate::upstream::lease::Gone;
use crate::zope::conduct;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::debug;

/// Begins the names of flights that nobody joins; no variant's name begins so.
const ASIDE: &[u8] = b"\xffauthorization ";

/// As what a flight is known that goes no further than the disk.
const READING: &[u8] = b"\xffdisk";

/// How often those who wait for a shared fetch try again together before each goes his own way.
const TOGETHER: usize = 2;

/// How often those who wait, with something stored at hand, look whether an outage has begun.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long the disk may take to read what is kept before the origin is asked instead.
const READ_MAX: Duration = Duration::from_secs(5);

/// How long a body is fetched on for the cache alone when nobody reads it any more.
const UNREAD_MAX: Duration = Duration::from_secs(60);

/// An origin's answer, judged and cleaned, its body still to be read.
struct Answered {
    status: StatusCode,
    head: HeaderMap,
    body: OriginBody,
    /// Whether the end of the body can be told from a connection that broke.
    delimited: bool,
    /// When it was asked for.
    asked: Instant,
    /// When its head came.
    came: Instant,
    endpoint: Arc<Endpoint>,
    timings: Timings,
    /// The count of set swaps at which it was asked for.
    epoch: u64,
    /// The tags that it names.
    tags: Vec<Tag>,
}

/// How a shared fetch ended for the one who started it.
enum Outcome {
    /// With a response for all, and the origin's status.
    Shared {
        stored: Arc<Stored>,
        status: StatusCode,
        /// Fields for him alone.
        own: HeaderMap,
        endpoint: Arc<Endpoint>,
        timings: Timings,
        /// Keeps the beginning of a body that is only relayed until he reads it himself.
        seat: Option<BodyReader>,
    },
    /// With a response for him alone.
    Private(Box<Answered>, WhyNotStored),
    /// With what was stored: the origin failed, and stale is better than nothing.
    Stale(Arc<Stored>),
    /// Without a response.
    Failed(Lost),
}

/// A journey without an answer: what the client gets, and for the access log where it failed.
pub struct Lost {
    refusal: Refusal,
    /// The endpoint at which it failed last.
    pub endpoint: Option<Arc<Endpoint>>,
    /// How long it stood in line.
    pub queue: Duration,
    /// How often it had been tried again.
    pub retries: u32,
}

impl From<Refusal> for Lost {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, endpoint: None, queue: Duration::ZERO, retries: 0 }
    }
}

/// A request that goes to the origin past the cache, as it is sent. Nothing is left in it of the buffer that it was read into:
/// hyper uses that again while the answer is waited for.
pub struct Outbound {
    head: RequestHead,
    body: RequestBody,
    /// The client's side of a WebSocket.
    tunnel: Option<OnUpgrade>,
    /// The client's fields, if it asks for a part of something that may be stored.
    part_of: Option<Box<HeaderMap>>,
    shows_cookies: bool,
    /// When it came.
    came: Instant,
}

impl Outbound {
    /// What goes out of `request`, which came at `came`.
    ///
    /// # Errors
    /// As [`Errand::origin_head`]; 413 when the body is larger than the site takes.
    pub fn of(errand: &Errand, mut request: Request<Incoming>, came: Instant) -> Result<Self, Refusal> {
        let present = errand.present;
        let websocket = present.has(Present::UPGRADE)
            && framing::wants_websocket(request.headers())
            && request.method() == Method::GET;
        let tunnel = websocket.then(|| hyper::upgrade::on(&mut request));
        let method = request.method().clone();
        let headers = request.headers_mut();
        // Without a key nothing of it may be shared, with one it is a GET, and of a HEAD there are no parts.
        let shared = errand.key.is_some();
        let part_of = (shared && present.has(Present::RANGE)).then(|| Box::new(headers.clone()));
        let shows_cookies = shared && headers.contains_key(header::COOKIE);
        let head = errand.origin_head(method, headers, websocket)?;
        let body = inbound::body(errand, request.into_body())?;
        Ok(Self { head, body, tunnel, part_of, shows_cookies, came })
    }
}

/// Passes the request to the origin and its answer to the client, past the cache.
async fn pass(errand: &Arc<Errand>, trail: Box<Trail>, request: Request<Incoming>) -> Response<OutBody> {
    match Outbound::of(errand, request, clock::mono()) {
        Ok(mut outbound) => send(errand, trail, &mut outbound).await,
        Err(refusal) => deliver::failed(trail, &refusal),
    }
}

/// Sends the request to the origin and its answer to the client.
pub async fn send(errand: &Arc<Errand>, mut trail: Box<Trail>, outbound: &mut Outbound) -> Response<OutBody> {
    match try_send(errand, &mut trail, outbound).await {
        Ok((response, came)) => deliver::origin(errand, trail, response, &errand.status, came),
        Err(refusal) => deliver::failed(trail, &refusal),
    }
}

/// What came, and when.
async fn try_send(
    errand: &Arc<Errand>,
    trail: &mut Trail,
    outbound: &mut Outbound,
) -> Result<(Response<OutBody>, Instant), Refusal> {
    let Outbound { head, body, tunnel, part_of, shows_cookies, came } = outbound;
    let body = match std::mem::replace(body, RequestBody::Empty) {
        RequestBody::Empty => RequestBody::Empty,
        upload @ RequestBody::Stream { .. } => {
            let server = &errand.snapshot.server;
            // Boxed, so that the many requests without a body do not carry the room of an upload about.
            let taken = Box::pin(errand.edge.spool.take_in(upload, &server.spool, server.limits.spool.0)).await?;
            *came = clock::mono();
            taken
        }
    };
    let journey = Travel { head, body, gone: None, in_line: trail.alone(), now: *came };
    let fetched = match travel(errand, journey).await {
        Ok(fetched) => fetched,
        Err(lost) => {
            trail.lost(&lost);
            return Err(lost.refusal);
        }
    };
    trail.travelled(&fetched.endpoint.addr, fetched.timings);
    if fetched.status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = tunnel.take()
    {
        return Ok((tunnel::open(client, fetched), clock::mono()));
    }
    let answered = clean(errand, fetched);
    obsolete::after(errand, &head.method, answered.status, &answered.head);
    if let Some(key) = &errand.key {
        answered.learn(errand, key, *shows_cookies);
    }
    if let Some(headers) = part_of.take()
        && storing::is_part_of_storable(&asked(errand, &headers), answered.status, &answered.head, answered.times())
    {
        fetch_whole(Box::new(Errand::clone(errand)), &headers);
    }
    let came = answered.came;
    let response = answered.into_response(errand);
    if !head.method.is_safe()
        && let Some(settling) = errand.edge.cache.disk().and_then(|disk| disk.settled())
    {
        // Who has changed something hears of it when no restart can bring back what was before; if the disk hangs, later. The
        // thread does not wait for it.
        settling.await;
    }
    Ok((response, came))
}

impl Answered {
    /// When it was asked for and came, by both clocks: the wall's is read for what may be stored, and only for that.
    fn times(&self) -> Times {
        Times { asked: self.asked, answered: clock::beside(self.came) }
    }

    /// What an answer past the cache says of a key that is known to be private: while it is asked for and stays so, nobody
    /// waits for anybody; once it may be stored, the next fetch is shared again.
    fn learn(&self, errand: &Errand, key: &[u8], shows_cookies: bool) {
        let private = errand.edge.cache.private();
        let tells = matches!(self.status.as_u16(), 200 | 203 | 204 | 300..=303 | 307 | 308 | 404 | 410);
        if !tells || !errand.anonymous {
            return;
        }
        if errand.privacy == Privacy::Unknown && !private.knows(key, self.came) {
            return;
        }
        let rule = errand.rule.as_deref();
        let said = policy::said(&self.head).filter(|_| storing::speaks_itself(&errand.site, rule));
        if let Privacy::Private(mark) = errand.privacy
            && said.is_some()
            && mark.said == said
        {
            // It says what the last one said.
            return;
        }
        if let Some(why) = storing::plainly(&errand.site, rule, &self.head) {
            return private.note(key, Mark { why, said }, self.came);
        }
        // What it says to those who asked otherwise shows when the next of them asks for all.
        let (mut head, headers) = (self.head.clone(), HeaderMap::new());
        let (verdict, _) =
            storing::judge(&asked(errand, &headers), self.status, &mut head, self.delimited, self.times());
        match verdict {
            Storable::No(why) => private.note(key, Mark { why: why.as_str(), said: None }, self.came),
            // With a visitor's cookies the page may be another than without.
            Storable::Yes(_) if !shows_cookies => private.forget(key),
            Storable::Yes(_) => {}
        }
    }

    fn into_response(mut self, errand: &Errand) -> Response<OutBody> {
        downstream::conceal(&mut self.head, errand.snapshot.cache.hide_shared);
        let mut response = Response::new(unhurried(self.body, errand));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.head;
        if let Some(cookie) = errand.way_back(self.endpoint.way) {
            response.headers_mut().append(http::header::SET_COOKIE, cookie);
        }
        response
    }
}

/// A body for one client, who may read slowly: it is read ahead, within bounds, so that he does not hold a thread.
fn unhurried(body: OriginBody, errand: &Errand) -> OutBody {
    let mut body = match body.into_whole() {
        Ok(whole) => return OutBody::whole(whole),
        Err(body) => body,
    };
    let len = http_body::Body::size_hint(&body).exact();
    let writer = Fill::relay(len, errand.upstream.standing().plan.buffer, Arc::clone(errand.edge.cache.fills()));
    let Some(reader) = StoredBody::Filling(writer.fill()).reader() else { return OutBody::origin(body) };
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            // Dropped unfinished, the writer tells the reader that the body broke off.
            let Ok(frame) = frame else { return };
            let Ok(data) = frame.into_data() else { continue };
            if writer.write(data).await == Write::Abandoned {
                return;
            }
        }
        // A length that was not met is told to the reader.
        let _ = writer.finish();
    });
    OutBody::stored(reader, len)
}

/// What was asked by a client with these headers, as far as it matters for storing the answer.
fn asked<'a>(errand: &'a Errand, headers: &'a HeaderMap) -> Asked<'a> {
    Asked {
        site: &errand.site,
        rule: errand.rule.as_deref(),
        policy: &errand.snapshot.cache,
        path: &errand.path,
        headers,
        no_store: cache_control::parse_request(headers).no_store,
    }
}

/// What goes on a journey.
struct Travel<'a> {
    head: &'a RequestHead,
    body: RequestBody,
    gone: Option<Gone<'a>>,
    in_line: &'a AtomicBool,
    now: Instant,
}

/// Makes the journey.
async fn travel(errand: &Arc<Errand>, Travel { head, body, gone, in_line, now }: Travel<'_>) -> Result<Fetched, Lost> {
    let bill = Bill::begin(&errand.meters);
    let request = || Arc::<Errand>::clone(errand) as Arc<dyn upstream::Request>;
    let mut watch = Watch::new(in_line, &request);
    match errand.upstream.fetch(head, body, &errand.asker, gone, &mut watch, now).await {
        Ok(fetched) => {
            bill.settle(fetched.timings.first_byte);
            Ok(fetched)
        }
        Err(error) => {
            if matches!(error, FetchError::Queue(_) | FetchError::Connect(_)) {
                bill.settle(Duration::ZERO);
            }
            debug!(site = %errand.site.name, error = crate::telemetry::chain(&error), "no answer from upstream");
            let refusal = Refusal::new(error.status(), error.why()).retry_after(error.retry_after());
            // A body that broke off leaves the connection in the middle of a request.
            let refusal = if matches!(error, FetchError::Client(_)) { refusal.closing() } else { refusal };
            let Watch { endpoint, queue, retries, .. } = watch;
            Err(Lost { refusal, endpoint, queue, retries })
        }
    }
}

/// What a journey costs, charged to the limits that count it. One that is not settled, because the client left or no answer
/// came, costs all the time since it began: else leaving would make it free.
struct Bill<'a> {
    meters: &'a [Meter],
    /// When it began; nothing, and the clock is not read, where nobody counts.
    began: Option<Instant>,
    known: Option<Duration>,
}

impl<'a> Bill<'a> {
    fn begin(meters: &'a [Meter]) -> Self {
        Self { meters, began: (!meters.is_empty()).then(clock::mono), known: None }
    }

    fn settle(mut self, took: Duration) {
        self.known = Some(took);
    }
}

impl Drop for Bill<'_> {
    fn drop(&mut self) {
        let Some(began) = self.began else { return };
        let took = self.known.unwrap_or_else(|| clock::mono().saturating_duration_since(began));
        self.meters.iter().for_each(|meter| meter.charge(took));
    }
}

fn clean(errand: &Errand, fetched: Fetched) -> Answered {
    let Fetched { status, headers: mut head, body, delimited, endpoint, epoch, asked, answered, timings } = fetched;
    let fields = &errand.snapshot.cache.tags;
    // Most answers have none: one look at the names is cheaper than searching for each.
    let mut tags = Vec::new();
    if head.keys().any(|name| fields.has(name)) {
        tags = tags::named(&head, fields.list(), (errand.scheme, errand.place()));
        for field in fields.list().iter().filter(|field| !tags::is_public(field)) {
            head.remove(field);
        }
    }
    Answered { status, head, body, delimited, asked, came: answered, endpoint, timings, epoch, tags }
}

/// Answers from the one fetch that all equal requests share.
pub async fn shared(mut errand: Box<Errand>, trail: Box<Trail>, request: Request<Incoming>) -> Response<OutBody> {
    let Some(key) = errand.key.clone() else { return pass(&Arc::from(errand), trail, request).await };
    if cache_control::parse_request(request.headers()).only_if_cached {
        return only_kept(&errand, &key, trail, request).await;
    }
    if !errand.anonymous {
        return authorized(errand, &key, trail, request).await;
    }
    let mut trail = match stale_while_out(&errand, trail, &request) {
        Ok(response) => return response,
        Err(unused) => unused,
    };
    let (mut failure, mut variant): (Option<Failure>, Option<Vec<u8>>) = (None, None);
    let private = errand.edge.cache.private().knows(&key, clock::mono());
    let mut rounds = if private { 0..0 } else { 0..TOGETHER };
    while rounds.next().is_some() {
        let (stored, status) = match errand.edge.cache.flights().join(&key, variant.as_deref()) {
            Joined::Leader(mut leader) => {
                let stored = match arrived(&errand, &key, request.headers()) {
                    Some((stored, Reuse::Fresh)) => stored,
                    other => {
                        if let Some((stored, _)) = other {
                            // It has to be asked about all the same, but need not be rendered again.
                            errand.found = Some(stored);
                            errand.status = CacheStatus::forwarded(Why::Stale);
                        } else if errand.edge.cache.is_on_disk_only(&key)
                            && let Some(kept) = read_back(&errand, &leader, &request).await
                        {
                            return from_disk(errand, trail, request, leader, kept).await;
                        }
                        return lead(errand.for_all(&key, request.headers()), trail, request, leader).await;
                    }
                };
                leader.share(Arc::clone(&stored));
                let status = CacheStatus::hit(stored.freshness.ttl(clock::mono()));
                (stored, status)
            }
            Joined::Follower(flight) => match follow(&errand, &mut trail, &request, flight).await {
                Followed::Response(stored) => (stored, errand.status.collapsed()),
                Followed::Again(why) => {
                    failure = why;
                    continue;
                }
                Followed::Other(theirs) if variant.is_none() => {
                    (failure, variant, rounds) = (None, Some(theirs), 0..TOGETHER);
                    continue;
                }
                Followed::Out => {
                    failure = None;
                    match stale_while_out(&errand, trail, &request) {
                        Ok(response) => return response,
                        Err(unused) => trail = unused,
                    }
                    break;
                }
                Followed::Other(_) | Followed::OnMyOwn => {
                    failure = None;
                    break;
                }
            },
        };
        match deliver::landed(&errand, trail, request.headers(), request.method(), &stored, &status) {
            Ok(response) => return response,
            Err(unused) => (trail, failure) = (unused, None),
        }
        break;
    }
    if let Some(Failure { status, why, retry_after }) = failure {
        // Twice the origin gave no answer: that all who wait ask it once more helps nobody.
        return deliver::failed(trail, &Refusal::new(status, why).retry_after(retry_after));
    }
    // Alone: the client's own conditions go along, and its answer is its own.
    errand.found = None;
    pass(&Arc::from(errand), trail, request).await
}

/// RFC 9111 5.2.1.7: nothing stored may be served, and the request wants nothing else.
#[must_use]
pub fn nothing_cached() -> Refusal {
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "only_if_cached")
}

/// Answers with what is kept on the disk, or not at all: the origin is not asked.
async fn only_kept(errand: &Errand, key: &[u8], trail: Box<Trail>, request: Request<Incoming>) -> Response<OutBody> {
    let (cache, headers) = (&errand.edge.cache, request.headers());
    let kept = match cache.flights().join(key, Some(READING)) {
        Joined::Leader(leader) => read_back(errand, &leader, &request).await,
        Joined::Follower(flight) => {
            // Another has read it by then, for all.
            flight.landed().await;
            cache.look(key).and_then(|shelf| shelf.select(headers).cloned())
        }
    };
    if let Some(kept) = kept {
        let shelf = Shelf::One(Arc::clone(&kept));
        let look = Look::at(Some(&shelf), headers, errand.present, errand.snapshot.cache.honour_client, clock::mono());
        if let Some((_, status)) = look.served() {
            return deliver::landed(errand, trail, headers, request.method(), &kept, &status.on_disk())
                .unwrap_or_else(|trail| deliver::failed(trail, &nothing_cached()));
        }
    }
    deliver::failed(trail, &nothing_cached())
}

/// Answers one who shows Authorization, and keeps the answer if it says that it is for all (RFC 9111 3.5). Nobody waits for it,
/// for it may be for him alone; but a purge sees it under way.
async fn authorized(
    mut errand: Box<Errand>,
    key: &[u8],
    trail: Box<Trail>,
    request: Request<Incoming>,
) -> Response<OutBody> {
    let headers = request.headers();
    if !asks_for_more(headers)
        && let Some(shown) = headers.get(header::AUTHORIZATION)
        && let Joined::Leader(leader) = errand.edge.cache.flights().join(key, Some(&[ASIDE, shown.as_bytes()].concat()))
    {
        return lead(Arc::from(errand), trail, request, leader).await;
    }
    errand.key = None;
    pass(&Arc::from(errand), trail, request).await
}

/// While nobody is there to ask, what is stored is better than waiting for somebody.
fn stale_while_out(
    errand: &Errand,
    trail: Box<Trail>,
    request: &Request<Incoming>,
) -> Result<Response<OutBody>, Box<Trail>> {
    match usable_stale(errand, request.headers()) {
        Some(stale) if errand.is_out() => {
            deliver::landed(errand, trail, request.headers(), request.method(), &stale, &stale_status(&stale))
        }
        _ => Err(trail),
    }
}

/// Waits for `what`; nothing, if what is stored may be served instead and an outage begins meanwhile: then what was asked for may
/// hang with its Zope for minutes.
async fn unless_out<T>(errand: &Errand, headers: &HeaderMap, what: impl Future<Output = T>) -> Option<T> {
    if errand.found.is_none() {
        return Some(what.await);
    }
    let mut what = pin!(what);
    loop {
        match tokio::time::timeout(LOOK_AGAIN, &mut what).await {
            Ok(done) => return Some(done),
            Err(_) if errand.is_out() && usable_stale(errand, headers).is_some() => return None,
            Err(_) => {}
        }
    }
}

/// What is kept on the disk for such requests; it is in memory then, for those who come later. The thread that reads serves no
/// requests, and who has waited too long for it asks the origin.
async fn read_back(errand: &Errand, leader: &Leader, request: &Request<Incoming>) -> Option<Arc<Stored>> {
    let cache = Arc::clone(&errand.edge.cache);
    let disk = Arc::clone(cache.disk()?);
    let key: Box<[u8]> = leader.key().into();
    let terms = KeptUnder { under: errand.site.terms, codings: errand.site.codings };
    let read = tokio::task::spawn_blocking(move || disk.read(&cache, &key, &terms));
    let shelf = tokio::time::timeout(READ_MAX, read).await.ok()?.ok()?.ok()?;
    if !leader.store_unless_purged(|| errand.edge.cache.restore(leader.key(), &shelf)) {
        return None;
    }
    shelf.select(request.headers()).cloned()
}

/// Answers with what was kept on the disk, if it may be served; otherwise the origin is asked about it.
async fn from_disk(
    mut errand: Box<Errand>,
    trail: Box<Trail>,
    request: Request<Incoming>,
    mut leader: Leader,
    kept: Arc<Stored>,
) -> Response<OutBody> {
    let shelf = Shelf::One(Arc::clone(&kept));
    let now = clock::mono();
    let look = Look::at(Some(&shelf), request.headers(), errand.present, errand.snapshot.cache.honour_client, now);
    let served = look.served().map(|(_, status)| status.on_disk());
    let refresh_it = look.reuse == Some(Reuse::StaleWhileRevalidate);
    errand.found = Some(Arc::clone(&kept));
    let out = || errand.is_out() && usable_stale(&errand, request.headers()).is_some();
    let Some(status) = served.or_else(|| out().then(|| stale_status(&kept))) else {
        errand.status = CacheStatus::forwarded(Why::Stale);
        let errand = errand.for_all(leader.key(), request.headers());
        return lead(errand, trail, request, leader).await;
    };
    leader.share(Arc::clone(&kept));
    drop(leader);
    let landed = deliver::landed(&errand, trail, request.headers(), request.method(), &kept, &status);
    match landed {
        Ok(response) => {
            if refresh_it {
                refresh(errand, request.headers());
            }
            response
        }
        Err(trail) => {
            errand.found = None;
            pass(&Arc::from(errand), trail, request).await
        }
    }
}

/// What another fetch has stored since this request looked, and what to do with it.
fn arrived(errand: &Errand, key: &[u8], headers: &HeaderMap) -> Option<(Arc<Stored>, Reuse)> {
    let shelf = errand.edge.cache.look(key)?;
    let stored = shelf.select(headers)?;
    let honour = errand.snapshot.cache.honour_client;
    let directives = cache_control::parse_request(headers);
    let reuse = reuse::decide(&stored.freshness, &directives, honour, clock::mono());
    Some((Arc::clone(stored), reuse))
}

/// What a follower got.
enum Followed {
    Response(Arc<Stored>),
    OnMyOwn,
    /// Nobody is there to ask any more, and what is stored may be served.
    Out,
    Again(Option<Failure>),
    /// A response for other requests; his own variant.
    Other(Vec<u8>),
}

async fn follow(errand: &Errand, trail: &mut Trail, request: &Request<Incoming>, flight: Arc<Flight>) -> Followed {
    errand.site.metrics.collapsed();
    trail.aboard(&flight);
    let began = clock::mono();
    let landing = unless_out(errand, request.headers(), flight.landed()).await;
    errand.site.metrics.collapse_waited(clock::mono().saturating_duration_since(began));
    let Some(landing) = landing else { return Followed::Out };
    match landing {
        Landing::Shared(stored) if stored.selection.matches(request.headers()) => match &errand.key {
            // It was purged while it arrived: whoever has not got it yet begins anew.
            Some(key) if !errand.edge.cache.is_current(key, &stored) => {
                errand.edge.cache.flights().bar(key, &flight);
                Followed::Again(None)
            }
            _ => Followed::Response(stored),
        },
        Landing::Shared(stored) => Followed::Other(stored.selection.variant(request.headers())),
        Landing::Private => Followed::OnMyOwn,
        Landing::Failed(why) => Followed::Again(why),
        Landing::Airborne => Followed::Again(None),
    }
}

async fn lead(
    errand: Arc<Errand>,
    mut trail: Box<Trail>,
    request: Request<Incoming>,
    leader: Leader,
) -> Response<OutBody> {
    let head = match errand.shared_head(request.headers()) {
        Ok(head) => head,
        Err(refusal) => return deliver::failed(trail, &refusal),
    };
    let (reply, outcome) = oneshot::channel();
    trail.aboard(leader.flight());
    let journey = Journey { errand: Arc::clone(&errand), client: request.headers().clone(), leader };
    tokio::spawn(journey.run(head, Some(reply)));
    let Some(outcome) = unless_out(&errand, request.headers(), outcome).await else {
        // The journey goes on for those who come later.
        return match stale_while_out(&errand, trail, &request) {
            Ok(response) => response,
            Err(trail) => pass(&errand, trail, request).await,
        };
    };
    match outcome {
        Ok(Outcome::Shared { stored, status, own, endpoint, timings, seat }) => {
            trail.travelled(&endpoint.addr, timings);
            let mut told = errand.status.stored();
            if status != stored.status {
                told = told.origin_status(status.as_u16());
            }
            let landed = deliver::landed(&errand, trail, request.headers(), request.method(), &stored, &told);
            drop(seat);
            match landed {
                Ok(mut response) => {
                    response.headers_mut().extend(own);
                    response
                }
                Err(trail) => pass(&errand, trail, request).await,
            }
        }
        Ok(Outcome::Private(answered, _)) if asks_for_more(request.headers()) => {
            // It was asked without the client's cookies, and for the whole, for the cache's sake; his own answer may be another.
            drop(answered);
            pass(&errand, trail, request).await
        }
        Ok(Outcome::Private(answered, why)) => {
            trail.travelled(&answered.endpoint.addr, answered.timings);
            let status = errand.status.detail(why.as_str());
            let now = answered.came;
            deliver::private(&errand, trail, &request, answered.into_response(&errand), &status, now)
        }
        Ok(Outcome::Stale(stored)) => {
            match deliver::landed(&errand, trail, request.headers(), request.method(), &stored, &stale_status(&stored))
            {
                Ok(response) => response,
                Err(trail) => deliver::failed(trail, &Refusal::new(StatusCode::BAD_GATEWAY, "internal")),
            }
        }
        Ok(Outcome::Failed(lost)) => {
            trail.lost(&lost);
            deliver::failed(trail, &lost.refusal)
        }
        // The journey's task is gone without a word: it panicked.
        Err(_) => deliver::failed(trail, &Refusal::new(StatusCode::BAD_GATEWAY, "internal")),
    }
}

/// Whether a request has more to it than a fetch for all asks for.
fn asks_for_more(headers: &HeaderMap) -> bool {
    headers.contains_key(header::COOKIE) || headers.contains_key(header::RANGE) || conditional::is_for_origin(headers)
}

/// Refreshes what is stored in the background, unless somebody is at it already. Not in an outage: for each page that is visited
/// one would stand in line then, and take the places of those who have nothing.
pub fn refresh(mut errand: Box<Errand>, client: &HeaderMap) {
    if errand.is_out() {
        return;
    }
    errand.asker.class = Class::Background;
    let Some(key) = errand.key.clone() else { return };
    let Joined::Leader(leader) = errand.edge.cache.flights().join(&key, None) else { return };
    if matches!(arrived(&errand, &key, client), Some((_, Reuse::Fresh))) {
        // Somebody's refresh has landed since this client's look-up. Nobody follows a flight of no time.
        return;
    }
    set_out(errand, &key, client, leader);
}

/// Fetches the whole for the cache, of which a client was given a part, unless somebody is at it already.
fn fetch_whole(errand: Box<Errand>, client: &HeaderMap) {
    // Where the whole was refused a moment ago, it is not asked for again with each part.
    let private = errand.edge.cache.private();
    let Some(key) = errand.key.clone().filter(|key| !private.knows(key, clock::mono())) else { return };
    let Joined::Leader(leader) = errand.edge.cache.flights().join(&key, None) else { return };
    if errand.edge.cache.look(&key).is_some_and(|shelf| shelf.select(client).is_some()) {
        return;
    }
    set_out(errand, &key, client, leader);
}

/// Sends a fetch on its way for which nobody waits yet.
fn set_out(errand: Box<Errand>, key: &[u8], client: &HeaderMap, leader: Leader) {
    let errand = errand.for_all(key, client);
    let Ok(head) = errand.shared_head(client) else { return };
    let journey = Journey { errand, client: client.clone(), leader };
    tokio::spawn(journey.run(head, None));
}

/// What is stored, if it may be served in place of an error to who asks with these `headers`.
fn usable_stale(errand: &Errand, headers: &HeaderMap) -> Option<Arc<Stored>> {
    let found = errand.found.as_ref()?;
    if errand.key.as_ref().is_some_and(|key| errand.edge.cache.is_gone(key, found)) {
        return None;
    }
    let policy = &errand.snapshot.cache;
    let wished = reuse::wished(&cache_control::parse_request(headers), policy.honour_client);
    let wished = wished.min(policy.bounds.grace_error);
    reuse::may_replace_an_error(&found.freshness, wished, clock::mono()).then(|| Arc::clone(found))
}

fn stale_status(stored: &Stored) -> CacheStatus {
    CacheStatus::hit(stored.freshness.ttl(clock::mono())).detail("stale-if-error")
}

/// A shared fetch under way.
struct Journey {
    errand: Arc<Errand>,
    /// The headers of the client for whom it began: what Vary selects by.
    client: HeaderMap,
    leader: Leader,
}

type Reply = Option<oneshot::Sender<Outcome>>;

fn tell(reply: Reply, outcome: Outcome) {
    if let Some(reply) = reply {
        // Who has left need not be told.
        let _ = reply.send(outcome);
    }
}

impl Journey {
    async fn run(mut self, head: RequestHead, mut reply: Reply) {
        let mut answer = self.ask(&head, &mut reply).await;
        if let Ok(answered) = &answer
            && answered.status == StatusCode::NOT_MODIFIED
        {
            if let Some(found) = self.meant(answered) {
                return self.revalidated(reply, answered, &found);
            }
            answer = match self.misunderstood() {
                Ok(head) => self.ask(&head, &mut reply).await,
                Err(refusal) => Err(refusal.into()),
            };
        }
        let answered = match answer {
            Ok(answered) => answered,
            Err(lost) => return self.failed(reply, lost),
        };
        if answered.status.is_server_error()
            && let Some(stale) = usable_stale(&self.errand, &self.client)
        {
            return self.land_stale(reply, stale);
        }
        if let Some(stale) = self.is_lost_scale(answered.status) {
            return self.land_stale(reply, stale);
        }
        if self.errand.found.is_some() {
            self.errand.site.metrics.revalidation(Revalidation::Modified);
        }
        let mut answered = answered;
        let (status, delimited, times) = (answered.status, answered.delimited, answered.times());
        let (verdict, _) =
            storing::judge(&asked(&self.errand, &self.client), status, &mut answered.head, delimited, times);
        self.count_rule(&answered.head, matches!(verdict, Storable::Yes(_)));
        match verdict {
            Storable::Yes(terms) if self.admit_place() => self.fill(reply, answered, terms).await,
            Storable::Yes(_) => self.keep_private(reply, answered, WhyNotStored::Size),
            Storable::No(why) => self.keep_private(reply, answered, why),
        }
    }

    async fn ask(&self, head: &RequestHead, reply: &mut Reply) -> Result<Answered, Lost> {
        // As long as it stands in line it is worth no more than those who wait for it. Nobody waits for a refresh.
        let gone = async {
            let Some(reply) = reply else { return std::future::pending().await };
            reply.closed().await;
            self.leader.deserted().await;
        };
        let mut gone = pin!(gone);
        let (body, gone, in_line) = (RequestBody::Empty, Some(gone.as_mut() as Gone<'_>), self.leader.in_line());
        let fetched = travel(&self.errand, Travel { head, body, gone, in_line, now: clock::mono() }).await?;
        Ok(clean(&self.errand, fetched))
    }

    /// Counts by the name that Plone gives the rule by which it made the answer's headers.
    fn count_rule(&self, head: &HeaderMap, stored: bool) {
        if let Some(rule) = head.get("x-cache-rule").and_then(|rule| rule.to_str().ok()) {
            self.errand.site.metrics.origin_rule(rule, stored);
        }
    }

    /// A scale of an image that Plone does not know any more, but pages that are stored elsewhere still show.
    fn is_lost_scale(&self, status: StatusCode) -> Option<Arc<Stored>> {
        let errand = &self.errand;
        let lost = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let found = errand.found.as_ref().filter(|_| lost && conduct::is_scale(&errand.path))?;
        let within = found.freshness.staleness(clock::mono()) < errand.snapshot.cache.bounds.grace_error;
        let gone = errand.key.as_ref().is_some_and(|key| errand.edge.cache.is_gone(key, found));
        (within && !gone && found.status.is_success()).then(|| Arc::clone(found))
    }

    fn admit_place(&self) -> bool {
        self.errand.edge.cache.admit_place(&self.errand.site.name, self.errand.scheme, self.errand.place())
    }

    fn failed(self, reply: Reply, lost: Lost) {
        if self.errand.found.is_some() {
            self.errand.site.metrics.revalidation(Revalidation::Error);
        }
        if let Some(stale) = usable_stale(&self.errand, &self.client) {
            return self.land_stale(reply, stale);
        }
        let Refusal { status, why, retry_after, .. } = lost.refusal;
        self.leader.fail(Failure { status, why, retry_after });
        tell(reply, Outcome::Failed(lost));
    }

    fn land_stale(mut self, reply: Reply, stale: Arc<Stored>) {
        let mut failed = stale.completed(stale.body.clone());
        failed.freshness.failed = Some(clock::mono());
        self.store(&Arc::new(failed), self.errand.upstream.epoch());
        self.leader.share(Arc::clone(&stale));
        tell(reply, Outcome::Stale(stale));
    }

    /// The answer is for the one who asked. What was stored before is not what the origin says now.
    fn keep_private(self, reply: Reply, answered: Answered, why: WhyNotStored) {
        self.errand.site.metrics.uncacheable(why.as_str());
        if why.is_tripwire() {
            self.errand.site.metrics.tripwire(why.as_str());
        }
        let cache = &self.errand.edge.cache;
        // What one is told who shows Authorization says nothing of what others are told.
        if self.errand.anonymous && !answered.status.is_server_error() {
            if self.errand.found.is_some() {
                cache.purge(self.leader.key());
            }
            cache.private().note(self.leader.key(), Mark { why: why.as_str(), said: None }, answered.came);
        }
        self.leader.keep_private();
        tell(reply, Outcome::Private(Box::new(answered), why));
    }

    /// Of what is stored, what the origin says is still good, and good for this client: one variant was asked about, or all.
    fn meant(&self, answered: &Answered) -> Option<Arc<Stored>> {
        let asked_about = self.errand.found.iter().chain(&self.errand.others);
        let several = asked_about.clone().nth(1).is_some();
        // RFC 9110 15.4.5: it names the entity tag, without which nobody could tell which of several is meant.
        if several && !answered.head.contains_key(header::ETAG) {
            return None;
        }
        asked_about.into_iter().find(|stored| validator::speaks_of(&stored.head.open(0), &answered.head)).cloned()
    }

    /// It speaks of something else than we asked about: what is stored cannot be trusted. It is forgotten, and asked for without
    /// a condition, to which a 304 is no answer.
    fn misunderstood(&mut self) -> Result<RequestHead, Refusal> {
        self.errand.edge.cache.purge(self.leader.key());
        let errand = Arc::make_mut(&mut self.errand);
        (errand.found, errand.others) = (None, Box::default());
        self.errand.shared_head(&self.client)
    }

    /// The origin says that `found` is still good.
    fn revalidated(mut self, reply: Reply, answered: &Answered, found: &Stored) {
        self.errand.site.metrics.revalidation(Revalidation::NotModified);
        let rules = &self.errand.snapshot.cache;
        let before = downstream::reveal(&found.head, &found.hidden);
        let mut head = validator::freshen(&before, &answered.head, rules.bounds.trust_origin);
        for name in storable::withheld(&head) {
            head.remove(name);
        }
        let _ = self.errand.site.conduct(self.errand.rule.as_deref()).speak(found.status, &mut head);
        let freshness = freshness::assess(found.status, &head, &policy::of(&head), &rules.bounds, answered.times());
        let hidden = downstream::conceal(&mut head, rules.hide_shared);
        let coded = found.coded.clone().filter(|_| coding::is_worth(found.status, &head, u64::MAX, 0));
        if coded.is_some() {
            coding::vary(&mut head);
        }
        let stored = Arc::new(Stored {
            status: found.status,
            head: deliver::keep(head),
            body: found.body.clone(),
            freshness,
            selection: found.selection.for_request(&self.client),
            hidden,
            tagged: found.tagged.again(self.errand.born),
            coded,
            kept: found.kept.clone(),
        });
        self.store(&stored, answered.epoch);
        // Of what is asked about each time nothing is ever a hit; its codings are made for those for whom it is asked about.
        Mill::make(&self.errand.edge.cache, self.leader.key(), &stored, &Method::GET, &self.client, in_the_background);
        self.leader.share(Arc::clone(&stored));
        let (status, endpoint, timings) = (answered.status, answered.endpoint.clone(), answered.timings);
        tell(reply, Outcome::Shared { stored, status, own: HeaderMap::new(), endpoint, timings, seat: None });
    }

    /// Stores it, unless another set serves by now: what the old one said may be of a storage that is no more.
    fn store(&self, stored: &Arc<Stored>, epoch: u64) {
        if epoch != self.errand.upstream.epoch() {
            return;
        }
        let cache = &self.errand.edge.cache;
        if cache.rules().canonical(self.leader.key()).is_some() {
            // It has just said that it stands for other URLs as well; the next to ask fetches it under the name of all.
            return;
        }
        let mut unwritten = None;
        self.leader.store_unless_purged(|| unwritten = cache.put_in_memory(self.leader.key(), stored));
        cache.have_written(self.leader.key(), unwritten);
    }

    /// Lets everybody read while the body arrives, and stores it at its end.
    async fn fill(mut self, reply: Reply, answered: Answered, terms: Terms) {
        let cache = &self.errand.edge.cache;
        let len = storable::announced(&answered.head).or_else(|| http_body::Body::size_hint(&answered.body).exact());
        let arrived = clock::beside(answered.came);
        let Answered { status, mut head, mut body, endpoint, timings, epoch, tags, .. } = answered;
        if status == StatusCode::OK {
            cache.rules().learn(self.leader.key(), no_vary_search::parse(&head));
        }
        let selection = Selection::of(&terms.vary, &self.client);
        let own = withhold(&mut head, &terms.withheld);
        let hidden = downstream::conceal(&mut head, self.errand.snapshot.cache.hide_shared);
        let coded = self.offer_codings(status, &mut head, len);
        let writer = Fill::start(len, self.errand.snapshot.cache.object_max, Arc::clone(cache.fills()));
        let body_so_far = StoredBody::Filling(writer.fill());
        let freshness = terms.freshness;
        let tagged = Tagged::new(self.errand.tags(&head, &tags), self.errand.born);
        let head = deliver::prepare(head, arrived);
        let kept = cache.disk().map(|_| Arc::new(Kept::under_terms(self.errand.site.terms)));
        let stored =
            Arc::new(Stored { status, head, body: body_so_far, freshness, selection, hidden, tagged, coded, kept });
        let seat = stored.body.reader();
        self.leader.share(Arc::clone(&stored));
        tell(reply, Outcome::Shared { stored: Arc::clone(&stored), status, own, endpoint, timings, seat });
        let mut read = clock::mono();
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    debug!(site = %self.errand.site.name, error = crate::telemetry::chain(&*error), "body broke off");
                    return;
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            if writer.ends_with(&data) {
                self.store_whole(&stored, &writer, &data, epoch);
            }
            match writer.write(data).await {
                Write::Accepted => read = clock::mono(),
                Write::Unread if clock::mono().saturating_duration_since(read) < UNREAD_MAX => {}
                Write::Unread | Write::Abandoned => return,
            }
        }
        drop(body);
        if len.is_none_or(|len| len == 0) {
            self.store_whole(&stored, &writer, &Bytes::new(), epoch);
        }
        // A length that was not met is told to the readers.
        let _ = writer.finish();
    }

    /// Stores the response, if `last` brings the rest of its body and all of it was kept.
    fn store_whole(&self, stored: &Stored, writer: &FillWriter, last: &Bytes, epoch: u64) {
        let Some(body) = writer.whole(last) else { return };
        let whole = Arc::new(stored.completed(body));
        self.store(&whole, epoch);
        // Whoever asked for it is likely to come again, and so are those who accept what he does.
        let cache = &self.errand.edge.cache;
        Mill::make(cache, self.leader.key(), &whole, &Method::GET, &self.client, in_the_background);
    }

    /// Says in the head that there will be codings, if the response is worth any.
    fn offer_codings(&self, status: StatusCode, head: &mut HeaderMap, len: Option<u64>) -> Option<Coded> {
        let offer = self.errand.site.codings;
        let least = self.errand.snapshot.cache.compress_min;
        if offer.is_empty() || !coding::is_worth(status, head, len.unwrap_or(u64::MAX), least) {
            return None;
        }
        coding::vary(head);
        Some(Coded::offering(offer))
    }
}

/// Work that blocks is done by a thread that serves no requests.
pub fn in_the_background(work: Box<dyn FnOnce() + Send>) {
    drop(tokio::task::spawn_blocking(work));
}

/// Takes out of a head what is for the one who asked.
fn withhold(head: &mut HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut own = HeaderMap::new();
    for name in names {
        for value in head.get_all(name) {
            own.append(name.clone(), value.clone());
        }
        head.remove(name);
    }
    own
}
