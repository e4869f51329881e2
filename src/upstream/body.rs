//! The bodies of a journey: what goes to the origin, and what comes back with the thread it occupies.

use crate::clock;
use crate::semantics::pace::Pace;
use crate::upstream::Timeouts;
use crate::upstream::exchange::Exchange;
use crate::upstream::lease::Lease;
use crate::upstream::machine::stuck::Stage;
use crate::upstream::patience::Patience;
use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::combinators::UnsyncBoxBody;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

/// So many times the longest pause, an origin may let us wait in all for less than its least rate: long enough for a stream of
/// events to come to its next one, and an end for one that drips.
const DRIP_MAX: u32 = 10;

/// Why a body broke off.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// Why a client's body broke off that was being passed on; the origin is not to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// It sent more than the site takes.
    TooLarge,
    /// It paused for too long.
    TooSlow,
    /// It left, or broke the framing.
    Broken,
    /// None: it was taken in, and cannot be read again where it is kept.
    Lost,
}

/// The body of a request to an origin.
pub enum RequestBody {
    /// None.
    Empty,
    /// Passed on as it comes.
    Stream {
        /// The bytes.
        body: UnsyncBoxBody<Bytes, BodyError>,
        /// Filled by `body` when it breaks off through the client's fault.
        fault: Arc<OnceLock<ClientFault>>,
    },
}

impl RequestBody {
    /// What the client did wrong, if it did: to be asked before the body goes.
    #[must_use]
    pub fn fault(&self) -> Option<Arc<OnceLock<ClientFault>>> {
        match self {
            Self::Empty => None,
            Self::Stream { fault, .. } => Some(Arc::clone(fault)),
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream { body, .. } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { body, .. } => body.size_hint(),
        }
    }
}

/// The body of an origin's answer. It holds the endpoint's thread until it has ended, and then returns the connection.
pub struct OriginBody {
    /// All of it, if it came with the head.
    whole: Bytes,
    /// What is still under way.
    rest: Option<Box<Rest>>,
    /// It has ended, and did not break off.
    ended: bool,
}

/// A body that is still arriving.
struct Rest {
    journey: Journey,
    patience: Patience,
}

/// What a journey occupies.
pub(super) struct Journey {
    pub lease: Lease,
    pub exchange: Exchange,
    pub pool_max: usize,
}

/// The origin paused for longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the origin paused in the middle of its answer")]
pub struct OriginPaused;

impl OriginBody {
    /// The body of an answer whose head has come. After a change of protocol there is none, and what follows is a tunnel's.
    pub(super) fn new(mut journey: Journey, timeouts: &Timeouts, tunnel: bool, now: Instant) -> Self {
        if !tunnel && let Some(whole) = journey.exchange.at_hand() {
            journey.end(now);
            return Self { ended: whole.is_empty(), whole, rest: None };
        }
        journey.lease.heard(if tunnel { Stage::Tunnel } else { Stage::Body }, now);
        let pace = Pace::new(timeouts.rate_min, timeouts.between_bytes.saturating_mul(DRIP_MAX));
        let patience = Patience::new(timeouts.between_bytes, pace);
        Self { whole: Bytes::new(), rest: Some(Box::new(Rest { journey, patience })), ended: false }
    }

    /// All of it, if it is here.
    ///
    /// # Errors
    /// The body, if it has to be waited for.
    pub fn into_whole(self) -> Result<Bytes, Self> {
        if self.rest.is_none() { Ok(self.whole) } else { Err(self) }
    }

    /// The answer has ended cleanly.
    fn end(&mut self) {
        self.ended = true;
        if let Some(rest) = self.rest.take() {
            rest.journey.end(clock::mono());
        }
    }

    /// Takes the journey out, for a tunnel that lasts longer than this body.
    pub(super) fn into_journey(self) -> Option<Journey> {
        self.rest.map(|rest| rest.journey)
    }
}

impl Journey {
    /// The thread is free and the connection is idle.
    fn end(self, now: Instant) {
        if let Some(connection) = self.exchange.finish() {
            self.lease.endpoint.pool.put(connection, self.pool_max, now);
        }
        self.lease.end(now);
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(Rest { journey, patience }) = this.rest.as_deref_mut() else {
            let whole = std::mem::take(&mut this.whole);
            this.ended |= !whole.is_empty();
            return Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole))));
        };
        match journey.exchange.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                if journey.exchange.has_ended() {
                    this.end();
                } else {
                    patience.moved(data.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => {
                this.rest = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(patience.poll_spent(cx));
                this.rest = None;
                Poll::Ready(Some(Err(Box::new(OriginPaused))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.rest {
            Some(rest) => rest.journey.exchange.left(),
            None => Some(self.whole.len() as u64),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
