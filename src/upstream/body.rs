//! The bodies of a journey: what goes to the origin, and what comes back with the thread it occupies.

use crate::semantics::pace::Pace;
use crate::upstream::Timeouts;
use crate::upstream::lease::Lease;
use crate::upstream::patience::Patience;
use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

/// So many times the longest pause, an origin may let us wait in all for less than its least rate: long enough for a stream of
/// events to come to its next one, and an end for one that drips.
const DRIP_MAX: u32 = 10;

/// Why a body broke off.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// What the client did wrong while its body was being passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// It sent more than the site takes.
    TooLarge,
    /// It paused for too long.
    TooSlow,
    /// It left, or broke the framing.
    Broken,
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
    incoming: Incoming,
    journey: Option<Journey>,
    patience: Patience,
}

/// What a journey occupies.
pub(super) struct Journey {
    pub lease: Lease,
    /// The connection, if it may be used again.
    pub connection: Option<SendRequest<RequestBody>>,
    pub pool_max: usize,
}

/// The origin paused for longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the origin paused in the middle of its answer")]
pub struct OriginPaused;

impl OriginBody {
    pub(super) fn new(incoming: Incoming, journey: Journey, timeouts: &Timeouts) -> Self {
        let pace = Pace::new(timeouts.rate_min, timeouts.between_bytes.saturating_mul(DRIP_MAX));
        let patience = Patience::new(timeouts.between_bytes, pace);
        let mut body = Self { incoming, journey: Some(journey), patience };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    /// The answer has ended cleanly: the thread is free and the connection is idle.
    fn end(&mut self) {
        let Some(journey) = self.journey.take() else { return };
        if let Some(connection) = journey.connection {
            journey.lease.endpoint.pool.put(connection, journey.pool_max);
        }
    }

    /// Takes the thread out, for a tunnel that keeps it longer than this body.
    pub(super) fn into_lease(mut self) -> Option<Lease> {
        self.journey.take().map(|journey| journey.lease)
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.incoming.is_end_stream() {
                    this.end();
                } else {
                    this.patience.moved(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.journey = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(this.patience.poll_spent(cx));
                this.journey = None;
                Poll::Ready(Some(Err(Box::new(OriginPaused))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
