//! One journey: a thread, a connection, the request, the head of the answer.
//!
//! Nothing that may have reached an origin is sent again, but for a bodiless safe request: when its kept connection turned
//! out to be closed, when it was answered 503 and the operator wants that tried elsewhere, when the storage was gone. What was certainly not sent goes elsewhere, whatever its method.

use crate::clock;
use crate::semantics::framing;
use crate::semantics::wire::Answer;
use crate::semantics::wire::RequestHead;
use crate::upstream::CheckKind;
use crate::upstream::Plan;
use crate::upstream::asker::Asker;
use crate::upstream::body::ClientFault;
use crate::upstream::body::Journey;
use crate::upstream::body::OriginBody;
use crate::upstream::body::RequestBody;
use crate::upstream::connect;
use crate::upstream::connect::ConnectError;
use crate::upstream::connect::Socket;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::exchange::Connection;
use crate::upstream::exchange::Exchange;
use crate::upstream::exchange::Silence;
use crate::upstream::gate;
use crate::upstream::lease::Asked;
use crate::upstream::lease::Gone;
use crate::upstream::lease::Lease;
use crate::upstream::lease::QueueRefusal;
use crate::upstream::linger::Underway;
use crate::upstream::live::Standing;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::health;
use crate::upstream::machine::health::Evidence;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::wait::Wait;
use crate::upstream::request::Handle;
use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// An answer's head, with its body still to be read.
pub struct Fetched {
    /// Its status, 101 or 200 to 599.
    pub status: StatusCode,
    /// Its fields but those of this hop.
    pub headers: HeaderMap,
    /// Its body.
    pub body: OriginBody,
    /// Whether the body's end can be told from a connection that broke.
    pub delimited: bool,
    /// Who gave it.
    pub endpoint: Arc<Endpoint>,
    /// The count of set swaps at which the thread was granted.
    pub epoch: u64,
    /// When the request was sent.
    pub asked: Instant,
    /// When the head of the answer had come.
    pub answered: Instant,
    /// Where the time went.
    pub timings: Timings,
}

/// What is seen of a journey from outside: whether it stands in line, while it lasts; where it failed, when it has.
pub struct Watch<'a> {
    in_line: &'a AtomicBool,
    /// Whose journey it is, as operators see it.
    request: Handle<'a>,
    /// The endpoint at which it failed last.
    pub endpoint: Option<Arc<Endpoint>>,
    /// How long it stood in line, up to there.
    pub queue: Duration,
    /// How often it had been tried again.
    pub retries: u32,
}

impl<'a> Watch<'a> {
    /// A journey for `request`, of which is noted `in_line` whether it stands there.
    #[must_use]
    pub fn new(in_line: &'a AtomicBool, request: Handle<'a>) -> Self {
        Self { in_line, request, endpoint: None, queue: Duration::ZERO, retries: 0 }
    }

    fn failed_at(&mut self, endpoint: &Arc<Endpoint>, way: &Way<'_>) {
        self.endpoint = Some(Arc::clone(endpoint));
        (self.queue, self.retries) = (way.queued, way.retries);
    }
}

/// Where the time went until the head of the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// In the line.
    pub queue: Duration,
    /// From sending to the head.
    pub first_byte: Duration,
    /// How often it had to be tried again.
    pub retries: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No thread.
    #[error("no thread of the upstream is to be had: {0:?}")]
    Queue(QueueRefusal),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the answer.
    #[error("the connection broke before an answer came")]
    Broken(#[source] Silence),
    /// No answer in time.
    #[error("no answer came in time")]
    FirstByteTimeout,
    /// An answer that is none.
    #[error("the answer is malformed: {0}")]
    BadAnswer(&'static str),
    /// The client's body broke off.
    #[error("the client's body broke off: {0:?}")]
    Client(ClientFault),
}

impl FetchError {
    /// What the client sees.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Queue(_) | Self::Connect(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) | Self::BadAnswer(_) => StatusCode::BAD_GATEWAY,
            Self::FirstByteTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Client(ClientFault::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Client(ClientFault::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Self::Client(ClientFault::Broken) => StatusCode::BAD_REQUEST,
            Self::Client(ClientFault::Lost) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether nobody listens there.
    fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Io { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// The word for logs and metrics.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::Queue(refusal) => refusal.why(),
            Self::Connect(_) => "connect",
            Self::Broken(_) => "reset",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::BadAnswer(_) => "bad_answer",
            Self::Client(ClientFault::TooLarge) => "body_too_large",
            Self::Client(ClientFault::TooSlow) => "body_too_slow",
            Self::Client(ClientFault::Broken) => "body_broken",
            Self::Client(ClientFault::Lost) => "spool",
        }
    }

    /// When the client may come back, if that can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Queue(refusal) => Some(refusal.retry_after()),
            Self::Connect(_) => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

/// So often a request is tried again where nobody listens: enough for two endpoints to be known as down.
const REFUSED_MAX: u32 = 8;

impl From<Silence> for FetchError {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Late => Self::FirstByteTimeout,
            Silence::Interim => Self::BadAnswer("interim_flood"),
            Silence::NoAnswer(why) => Self::BadAnswer(why.word()),
            silence => Self::Broken(silence),
        }
    }
}

/// What is known on the way.
struct Way<'a> {
    asker: &'a Asker,
    standing: Arc<Standing>,
    head: &'a RequestHead,
    /// It changes nothing and has no body: sent twice, it does no harm.
    repeatable: bool,
    retries: u32,
    /// It waited for the storage to come back once.
    waited: bool,
    avoid: Option<EndpointId>,
    queued: Duration,
}

impl Way<'_> {
    /// A kept connection, if the request may be lost and there is one. What must not be sent twice goes on a fresh one: a kept
    /// one may be closed by the origin in the moment it is used, and nobody could tell whether the request had been read.
    fn kept(&self, lease: &Lease) -> Option<Box<Connection>> {
        if self.repeatable && self.retries == 0 {
            lease.endpoint.pool.take(self.standing.plan.idle, lease.granted)
        } else {
            None
        }
    }
}

impl Upstream {
    /// Makes the journey, from `now` on. `head` is as the origin shall see it; `gone` tells when nobody waits for the answer any more.
    ///
    /// Cancel-safe: dropped, it leaves the line; what has been sent keeps its thread until the origin has answered.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(
        self: &Arc<Self>,
        head: &RequestHead,
        body: RequestBody,
        asker: &Asker,
        gone: Option<Gone<'_>>,
        watch: &mut Watch<'_>,
        now: Instant,
    ) -> Result<Fetched, FetchError> {
        self.retries.earn();
        watch.in_line.store(true, Ordering::Relaxed);
        let (mut gone, mut now) = (gone, now);
        // Nobody but scales stands at the door. Boxed: the others need not carry the room for it about.
        let door = if asker.scale { Box::pin(self.at_the_door(&mut gone)).await.map(Some) } else { Ok(None) };
        let fetched = match door {
            Ok(inside) => {
                let came = now;
                if inside.is_some() {
                    now = clock::mono();
                }
                let mut fetched = self.travel(head, body, asker, gone, watch, now).await;
                if let Ok(fetched) = &mut fetched {
                    fetched.timings.queue += now.saturating_duration_since(came);
                }
                drop(inside);
                fetched
            }
            Err(refusal) => Err(FetchError::Queue(refusal)),
        };
        match &fetched {
            Ok(fetched) => {
                self.counters.first_byte(fetched.timings.first_byte);
                self.counters.queue_waited(asker.class.visitor(), fetched.timings.queue);
            }
            Err(error) => {
                self.counters.error(error.why());
                if let FetchError::Queue(refusal) = error {
                    self.counters.queue_rejected(refusal.reason());
                }
            }
        }
        fetched
    }

    /// Of scales of images only so many are asked for at once: each costs a CPU of the origin for long, and nobody reads less
    /// for want of one.
    async fn at_the_door(&self, gone: &mut Option<Gone<'_>>) -> Result<gate::Pass<'_>, QueueRefusal> {
        let standing = self.standing();
        let mut wait = {
            let desk = lock(&self.desk);
            let now = clock::mono();
            if self.scales.waiting() >= standing.plan.queue_max {
                return Err(QueueRefusal::Full { retry_after: desk.queue.service().unwrap_or_default() });
            }
            Wait::begin(now, desk.rules, desk.service(now))
        };
        let mut entering = pin!(self.scales.enter(|| self.standing().scales()));
        loop {
            let entering = tokio::time::timeout_at(wait.until().into(), entering.as_mut());
            let entered = match gone {
                None => entering.await,
                Some(gone) => tokio::select! {
                    biased;
                    entered = entering => entered,
                    () = gone.as_mut() => return Err(QueueRefusal::ClientGone),
                },
            };
            match entered {
                Ok(pass) => return Ok(pass),
                Err(_) => self.may_wait_on(&mut wait)?,
            }
        }
    }

    async fn travel(
        self: &Arc<Self>,
        head: &RequestHead,
        body: RequestBody,
        asker: &Asker,
        mut gone: Option<Gone<'_>>,
        watch: &mut Watch<'_>,
        mut now: Instant,
    ) -> Result<Fetched, FetchError> {
        let mut way = Way {
            asker,
            standing: self.standing(),
            head,
            repeatable: body.is_empty() && head.method.is_safe(),
            retries: 0,
            waited: false,
            avoid: None,
            queued: Duration::ZERO,
        };
        let fault = body.fault();
        let mut body = body;
        loop {
            let gone: Option<Gone<'_>> = match &mut gone {
                Some(gone) => Some(gone.as_mut()),
                None => None,
            };
            watch.in_line.store(true, Ordering::Relaxed);
            let lease = match self.ask(asker, watch.request, way.avoid, now).map_err(FetchError::Queue)? {
                Asked::Granted(lease) => lease,
                // Boxed: most requests do not wait, and need not carry the room for it about.
                Asked::Waiting(place) => Box::pin(self.wait(place, now, gone)).await.map_err(FetchError::Queue)?,
            };
            watch.in_line.store(false, Ordering::Relaxed);
            way.queued += lease.waited;
            if way.standing.member(lease.endpoint.id).is_none() {
                // It was not there when he came: a reload or a name has brought it meanwhile.
                way.standing = self.standing();
            }
            let kept = way.kept(&lease);
            let reused = kept.is_some();
            let connected = match kept {
                Some(connection) => Ok((connection, lease.granted)),
                // Boxed: most requests find a kept connection, and need not carry the room of a handshake about.
                None => Box::pin(self.connect(&lease, &way.standing.plan)).await,
            };
            let (connection, sent) = match connected {
                Ok(connected) => connected,
                Err(error) => {
                    let endpoint = Arc::clone(&lease.endpoint);
                    drop(lease);
                    watch.failed_at(&endpoint, &way);
                    self.may_try_again(&mut way, Some(&endpoint), error)?;
                    now = clock::mono();
                    continue;
                }
            };
            let exchange = Exchange::begin(connection, way.head, std::mem::replace(&mut body, RequestBody::Empty));
            // From here on the thread is taken, whoever leaves.
            let longest = way.standing.plan.timeouts.first_byte;
            let mut underway = Underway::new(exchange, lease, longest);
            match poll_fn(|cx| underway.poll_answer(sent + longest, cx)).await {
                Ok((answer, exchange, lease)) => {
                    let at = clock::mono();
                    let took = at.saturating_duration_since(lease.granted);
                    if !self.answered(&mut way, &lease, answer.status, took) {
                        let judged = judge(&way, &lease.endpoint, &answer);
                        judged.inspect_err(|_| watch.failed_at(&lease.endpoint, &way))?;
                        return Ok(tie(&way, lease, answer, exchange, at, took));
                    }
                }
                Err(silence) => {
                    let Some(endpoint) = underway.unanswered() else { return Err(FetchError::from(silence)) };
                    watch.failed_at(&endpoint, &way);
                    if let Some(fault) = fault.as_ref().and_then(|fault| fault.get()) {
                        return Err(FetchError::Client(*fault));
                    }
                    // A kept connection that closes under a request is the origin's right; a fresh one is not. Nor is it a right
                    // to be late, or to send one interim answer after the other.
                    let excused = reused && !matches!(silence, Silence::Late | Silence::Interim);
                    let error = FetchError::from(silence);
                    if !way.repeatable || !excused {
                        self.blame(&endpoint, &error, true);
                        return Err(error);
                    }
                    self.may_try_again(&mut way, None, error)?;
                }
            }
            now = clock::mono();
        }
    }

    /// Notes an answer; says whether the request is to be sent again instead of passing the answer on.
    fn answered(&self, way: &mut Way<'_>, lease: &Lease, status: StatusCode, took: Duration) -> bool {
        let endpoint = &lease.endpoint;
        self.learn(endpoint, Evidence::Answered);
        endpoint.sample(matches!(status.as_u16(), 500 | 502..=504), took);
        if way.asker.writes && !status.is_client_error() {
            self.pin(way.asker.who, endpoint.id);
        }
        if !way.repeatable || !status.is_server_error() {
            return false;
        }
        // A Zope that has lost its storage says 500 after minutes. Who asks again waits until the storage is back.
        if !way.waited && matches!(status.as_u16(), 500 | 503) && self.is_without_storage() {
            way.waited = true;
            self.counters.retry("storage");
            return true;
        }
        let plan = &way.standing.plan;
        let asked = plan.retry_503 && status == StatusCode::SERVICE_UNAVAILABLE;
        if !asked || way.retries >= plan.retry_max.max(1) || !self.another_open(endpoint.id) {
            return false;
        }
        if !self.retries.spend() {
            self.counters.retry_budget_exhausted();
            return false;
        }
        way.retries += 1;
        way.avoid = Some(endpoint.id);
        self.counters.retry("503");
        true
    }

    /// Whether a request is tried again after `error`; `unsent`: the endpoint that did not take it, if it was certainly not sent.
    fn may_try_again(&self, way: &mut Way<'_>, unsent: Option<&Endpoint>, error: FetchError) -> Result<(), FetchError> {
        if let Some(endpoint) = unsent {
            self.blame(endpoint, &error, false);
            way.avoid = Some(endpoint.id);
        }
        // To be refused takes no time and costs no thread, and who is refused so often is known to be down: then there is another
        // endpoint, or an outage to be waited for like everybody else.
        let refused = way.asker.patient && error.is_refused();
        if way.retries >= if refused { REFUSED_MAX } else { way.standing.plan.retry_max.max(1) } {
            return Err(error);
        }
        if unsent.is_some() && !refused && !self.retries.spend() {
            self.counters.retry_budget_exhausted();
            return Err(error);
        }
        way.retries += 1;
        self.counters.retry(error.why());
        Ok(())
    }

    /// `sent`: the request may have reached it.
    fn blame(&self, endpoint: &Endpoint, error: &FetchError, sent: bool) {
        endpoint.note_error(crate::telemetry::chain(error));
        if matches!(error, FetchError::FirstByteTimeout) {
            let plan = &self.standing().plan;
            endpoint.sample(true, plan.timeouts.first_byte);
            // Slow is not down: where checks tell, they decide.
            if plan.check.kind != CheckKind::Off {
                return;
            }
        }
        match health::broken(sent, !self.another_open(endpoint.id)) {
            Some(evidence) => self.learn(endpoint, evidence),
            None => endpoint.doubted.notify_one(),
        }
    }

    /// A fresh connection, and when it was made.
    async fn connect(&self, lease: &Lease, plan: &Plan) -> Result<(Box<Connection>, Instant), FetchError> {
        let began = clock::mono();
        let mut connection = connect::open(&lease.endpoint.addr, plan.secure.as_ref(), plan.timeouts.connect).await?;
        let now = clock::mono();
        self.counters.connected(now.saturating_duration_since(began));
        // Who closes at once, or speaks first, has not heard the request.
        if connection.is_quiet() { Ok((connection, now)) } else { Err(FetchError::Broken(Silence::Closed)) }
    }
}

/// Judges the head.
fn judge(way: &Way<'_>, endpoint: &Endpoint, answer: &Answer) -> Result<(), FetchError> {
    framing::response(answer.status, answer.framed, way.head.asked).map_err(|why| {
        endpoint.note_error(format!("malformed answer: {why}"));
        FetchError::BadAnswer(why)
    })
}

/// Ties body, thread and connection together.
fn tie(
    way: &Way<'_>,
    lease: Lease,
    answer: Answer,
    exchange: Exchange,
    answered: Instant,
    first_byte: Duration,
) -> Fetched {
    // A member of another standing is not counted: the reload has taken it away.
    if let Some(member) = way.standing.member(lease.endpoint.id) {
        member.counters.response(answer.status);
    }
    let plan = &way.standing.plan;
    let timings = Timings { queue: way.queued, first_byte, retries: way.retries };
    let (endpoint, epoch, asked) = (Arc::clone(&lease.endpoint), lease.epoch, lease.granted);
    let journey = Journey { lease, exchange, pool_max: plan.threads };
    let tunnel = answer.status == StatusCode::SWITCHING_PROTOCOLS;
    let body = OriginBody::new(journey, &plan.timeouts, tunnel, answered);
    let Answer { status, headers, framed, .. } = answer;
    let delimited = framed.is_delimited(status);
    Fetched { status, headers, body, delimited, endpoint, epoch, asked, answered, timings }
}

impl Fetched {
    /// The head's fields, and the origin's side of a tunnel: its socket, what has already come through it, and the thread that
    /// it occupies for as long as it lasts.
    #[must_use]
    pub fn into_tunnel(self) -> (HeaderMap, Option<(Socket, Bytes, Lease)>) {
        let journey = self.body.into_journey().map(|Journey { mut lease, exchange, .. }| {
            // How long a tunnel lasts says nothing about how long answers take, nor its end that the endpoint works.
            lease.answered = false;
            let (socket, ahead) = exchange.into_socket();
            (socket, ahead, lease)
        });
        (self.headers, journey)
    }
}
