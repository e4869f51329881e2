//! One journey: a thread, a connection, the request, the head of the answer.
//!
//! Nothing that may have reached an origin is sent again, but for a bodiless safe request whose kept connection turned out
//! to be closed. What was certainly not sent goes elsewhere, whatever its method.

use crate::clock;
use crate::semantics::framing;
use crate::semantics::framing::Asked;
use crate::upstream::asker::Asker;
use crate::upstream::body::ClientFault;
use crate::upstream::body::Journey;
use crate::upstream::body::OriginBody;
use crate::upstream::body::RequestBody;
use crate::upstream::connect;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::lease::Lease;
use crate::upstream::lease::QueueRefusal;
use crate::upstream::live::Standing;
use crate::upstream::live::Upstream;
use crate::upstream::machine::health::Evidence;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use http::request::Parts;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Notify;

/// More interim answers to one request are a flood: 100, 103 and a few 102 are all that anybody has a use for.
const INTERIM_MAX: u32 = 64;

/// An answer's head, with its body still to be read.
pub struct Fetched {
    /// The answer.
    pub response: Response<OriginBody>,
    /// Who gave it.
    pub endpoint: Arc<Endpoint>,
    /// The count of set swaps at which the thread was granted.
    pub epoch: u64,
    /// When the request was sent.
    pub asked: Instant,
    /// Where the time went.
    pub timings: Timings,
    /// How often it had to be tried again.
    pub retries: u32,
}

/// Where the time went until the head of the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// In the line.
    pub queue: Duration,
    /// From sending to the head.
    pub first_byte: Duration,
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
    Broken(#[source] hyper::Error),
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
        }
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

/// What became of one attempt.
enum Attempt {
    Answered(Response<Incoming>, SendRequest<RequestBody>),
    /// The request is still whole: nothing of it was sent.
    NotSent(Request<RequestBody>, FetchError),
    /// It may have been sent.
    Lost(FetchError, bool),
}

impl Upstream {
    /// Makes the journey. `head` is as the origin shall see it.
    ///
    /// Cancel-safe: dropped, it leaves the line, or closes its connection so that the origin can notice.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(self: &Arc<Self>, head: Parts, body: RequestBody, asker: &Asker) -> Result<Fetched, FetchError> {
        self.retries.earn();
        let fetched = self.travel(head, body, asker).await;
        match &fetched {
            Ok(fetched) => {
                self.counters.first_byte(fetched.timings.first_byte);
                self.counters.queue_waited(asker.class.visitor(), fetched.timings.queue);
            }
            Err(error) => {
                self.counters.error(error.why());
                if matches!(error, FetchError::Queue(_)) {
                    self.counters.queue_rejected(error.why());
                }
            }
        }
        fetched
    }

    async fn travel(self: &Arc<Self>, head: Parts, body: RequestBody, asker: &Asker) -> Result<Fetched, FetchError> {
        let asked_for = Asked::of(&head.headers);
        let repeatable = body.is_empty() && head.method.is_safe();
        let fault = body.fault();
        let mut request = Request::from_parts(head, body);
        let mut retries = 0;
        let mut avoid = None;
        let mut queued = Duration::ZERO;
        let standing = self.standing();
        let plan = &standing.plan;
        loop {
            let lease = self.acquire(asker, avoid).await.map_err(FetchError::Queue)?;
            queued += lease.waited;
            let copy = repeatable.then(|| copy_of(&request));
            let sent = clock::mono();
            let attempt = self.attempt(&lease, request, repeatable && retries == 0, plan.timeouts.first_byte).await;
            let error = match attempt {
                Attempt::Answered(response, sender) => {
                    self.learn(&lease.endpoint, Evidence::Answered);
                    if asker.writes && !response.status().is_client_error() {
                        self.pin(asker.who, lease.endpoint.id);
                    }
                    let first_byte = clock::mono().saturating_duration_since(sent);
                    let timings = Timings { queue: queued, first_byte };
                    return settle(&standing, lease, response, sender, asked_for, sent, timings, retries);
                }
                Attempt::NotSent(whole, error) => {
                    request = whole;
                    error
                }
                Attempt::Lost(error, reused) => {
                    if let Some(fault) = fault.as_ref().and_then(|fault| fault.get()) {
                        return Err(FetchError::Client(*fault));
                    }
                    // A kept connection that closes under a request is the origin's right; a fresh one is not.
                    let Some(copy) = copy.filter(|_| reused) else {
                        self.blame(&lease.endpoint, &error);
                        return Err(error);
                    };
                    request = copy;
                    error
                }
            };
            if matches!(error, FetchError::Connect(_)) {
                self.blame(&lease.endpoint, &error);
                avoid = Some(lease.endpoint.id);
            }
            if retries >= plan.retry_max.max(1) {
                return Err(error);
            }
            if matches!(error, FetchError::Connect(_)) && !self.retries.spend() {
                self.counters.retry_budget_exhausted();
                return Err(error);
            }
            retries += 1;
            self.counters.retry(error.why());
        }
    }

    fn blame(&self, endpoint: &Endpoint, error: &FetchError) {
        endpoint.note_error(crate::telemetry::chain(error));
        self.learn(endpoint, Evidence::Broken);
    }

    /// One attempt on a kept connection, if `kept` allows it and there is one, or on a fresh one. What must not be sent twice
    /// goes on a fresh one: a kept one may be closed by the origin in the moment it is used, and nobody could tell whether
    /// the request had been read.
    async fn attempt(
        &self,
        lease: &Lease,
        mut request: Request<RequestBody>,
        kept: bool,
        first_byte: Duration,
    ) -> Attempt {
        let standing = self.standing();
        let plan = &standing.plan;
        let endpoint = &lease.endpoint;
        while kept && let Some(mut sender) = endpoint.pool.take(plan.idle) {
            if sender.ready().await.is_err() {
                continue;
            }
            match send(sender, request, first_byte, true).await {
                // It closed in the same moment: the next one, or a fresh one.
                Attempt::NotSent(whole, _) => request = whole,
                other => return other,
            }
        }
        let began = clock::mono();
        match connect::open(&endpoint.addr, plan.secure.as_ref(), plan.timeouts.connect).await {
            Ok(sender) => {
                self.counters.connected(clock::mono().saturating_duration_since(began));
                send(sender, request, first_byte, false).await
            }
            Err(error) => Attempt::NotSent(request, error.into()),
        }
    }
}

/// The interim answers (1xx) to one request. They are passed over; an origin that has no end of them is cut off.
#[derive(Default)]
struct Interim {
    heard: AtomicU32,
    flood: Notify,
}

impl Interim {
    fn one(&self) {
        if self.heard.fetch_add(1, Ordering::Relaxed) == INTERIM_MAX {
            self.flood.notify_one();
        }
    }
}

async fn send(
    mut sender: SendRequest<RequestBody>,
    mut request: Request<RequestBody>,
    first_byte: Duration,
    reused: bool,
) -> Attempt {
    let interim = Arc::new(Interim::default());
    let heard = Arc::clone(&interim);
    hyper::ext::on_informational(&mut request, move |_| heard.one());
    let answer = tokio::time::timeout(first_byte, sender.try_send_request(request));
    // Both arms are cancel-safe: dropped, the answer's future closes its connection.
    let answer = tokio::select! {
        biased;
        () = interim.flood.notified() => return Attempt::Lost(FetchError::BadAnswer("interim_flood"), false),
        answer = answer => answer,
    };
    match answer {
        Ok(Ok(response)) => Attempt::Answered(response, sender),
        Ok(Err(mut error)) => {
            if let Some(whole) = error.take_message() {
                Attempt::NotSent(whole, FetchError::Broken(error.into_error()))
            } else {
                let error = error.into_error();
                let lost = if error.is_parse() { FetchError::BadAnswer("parse") } else { FetchError::Broken(error) };
                Attempt::Lost(lost, reused)
            }
        }
        Err(_) => Attempt::Lost(FetchError::FirstByteTimeout, false),
    }
}

/// A bodiless request once more.
fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Judges the head and ties body, thread and connection together.
#[expect(clippy::too_many_arguments, reason = "the one place where a journey's parts come together")]
fn settle(
    standing: &Standing,
    lease: Lease,
    response: Response<Incoming>,
    sender: SendRequest<RequestBody>,
    asked_for: Asked,
    asked: Instant,
    timings: Timings,
    retries: u32,
) -> Result<Fetched, FetchError> {
    let (parts, incoming) = response.into_parts();
    if let Err(why) = framing::response(parts.status, &parts.headers, asked_for) {
        lease.endpoint.note_error(format!("malformed answer: {why}"));
        return Err(FetchError::BadAnswer(why));
    }
    let closes = parts.version != Version::HTTP_11
        || parts.status == StatusCode::SWITCHING_PROTOCOLS
        || parts
            .headers
            .get_all(header::CONNECTION)
            .iter()
            .any(|line| crate::semantics::cache_control::contains_token(line.as_bytes(), b"close"));
    // A member of another standing is not counted: the reload has taken it away.
    if let Some(member) = standing.member(lease.endpoint.id) {
        member.counters.response(parts.status);
    }
    let plan = &standing.plan;
    let (endpoint, epoch) = (Arc::clone(&lease.endpoint), lease.epoch);
    let journey = Journey { lease, connection: (!closes).then_some(sender), pool_max: plan.threads };
    let body = OriginBody::new(incoming, journey, plan.timeouts.between_bytes);
    let response = Response::from_parts(parts, body);
    Ok(Fetched { response, endpoint, epoch, asked, timings, retries })
}

impl Fetched {
    /// The origin's side of a tunnel, and the thread it occupies for as long as the tunnel lasts.
    #[must_use]
    pub fn into_tunnel(mut self) -> (hyper::upgrade::OnUpgrade, http::response::Parts, Option<Lease>) {
        let upgrade = self.response.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
        let (parts, body) = self.response.into_parts();
        let mut carrier = Response::from_parts(http::Response::new(()).into_parts().0, ());
        if let Some(upgrade) = upgrade {
            carrier.extensions_mut().insert(upgrade);
        }
        (hyper::upgrade::on(carrier), parts, body.into_lease())
    }
}
