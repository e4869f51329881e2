//! What hyper sends to a client: a stored body, one that is still arriving, an origin's stream, or nothing.
//!
//! Whatever way it ends, the connection's [`Activity`] and the request's [`Trail`] are told once.

use crate::cache::BodyReader;
use crate::clock;
use crate::edge::activity::Activity;
use crate::edge::activity::Moment;
use crate::edge::activity::Turn;
use crate::edge::trail::Trail;
use crate::upstream::OriginBody;
use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

/// Why a body could not be sent to its end. hyper then breaks the connection or the stream, so that the client knows.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// The body of a response.
pub struct OutBody {
    payload: Payload,
    /// What is left of a length that is known.
    left: Option<u64>,
    sent: u64,
    /// The payload said that it has ended.
    ended: bool,
    /// It broke off, and what came before is being sent.
    broken: Option<BodyError>,
    /// The request is over when this is dropped.
    watch: Option<RequestWatch>,
    /// Told when this is dropped.
    trail: Option<Box<Trail>>,
    /// Or it was told already: the body was at hand and small.
    told: Option<Instant>,
}

/// What an HTTP/2 stream is given at a time: one frame's worth.
const PIECE: usize = 16 * 1024;

enum Payload {
    Stored(BodyReader),
    /// Boxed, so that a hit does not carry the room of a journey about.
    Origin(Box<OriginBody>),
}

/// A request under way on a connection; dropped, it has ended.
pub struct RequestWatch {
    activity: Arc<Activity>,
    /// When it ended, if that is known without looking at the clock.
    ended: Option<Moment>,
    /// In HTTP/2.
    stream: Option<Box<Stream>>,
}

/// An HTTP/2 stream's body.
struct Stream {
    turn: Arc<Turn>,
    /// What the payload gave and the client has not had yet.
    rest: Bytes,
}

impl RequestWatch {
    /// Notes that a request began.
    #[must_use]
    pub fn begin(activity: &Arc<Activity>) -> Self {
        activity.request_began();
        let turn = activity.begin_turn(clock::mono);
        let stream = turn.map(|turn| Box::new(Stream { turn, rest: Bytes::new() }));
        Self { activity: Arc::clone(activity), ended: None, stream }
    }

    /// Takes `now` for the end: the answer is at hand and small.
    #[must_use]
    pub fn ending_at(mut self, now: Instant) -> Self {
        self.ended = Some(self.activity.moment(now));
        self
    }
}

impl Drop for RequestWatch {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(|| self.activity.moment(clock::mono()));
        self.activity.request_ended(ended);
    }
}

impl OutBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::stored(BodyReader::Done, Some(0))
    }

    /// One piece.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        let reader = if bytes.is_empty() { BodyReader::Done } else { BodyReader::Whole(bytes) };
        Self::stored(reader, Some(len))
    }

    /// A stored body, with its length if that is known yet.
    #[must_use]
    pub fn stored(reader: BodyReader, len: Option<u64>) -> Self {
        Self::of(Payload::Stored(reader), len)
    }

    /// An origin's body, passed on as it comes.
    #[must_use]
    pub fn origin(body: OriginBody) -> Self {
        let len = body.size_hint().exact();
        Self::of(Payload::Origin(Box::new(body)), len)
    }

    fn of(payload: Payload, left: Option<u64>) -> Self {
        Self { payload, left, sent: 0, ended: false, broken: None, watch: None, trail: None, told: None }
    }

    /// Ties the end of the request on its connection to the end of this body.
    #[must_use]
    pub fn watched(mut self, watch: RequestWatch) -> Self {
        self.watch(watch);
        self
    }

    /// The same, in place.
    pub fn watch(&mut self, watch: RequestWatch) {
        self.watch = Some(match self.told {
            Some(now) => watch.ending_at(now),
            None => watch,
        });
    }

    /// Writes `trail` when this body has ended.
    #[must_use]
    pub fn trailed(mut self, trail: Box<Trail>) -> Self {
        self.trail = Some(trail);
        self
    }

    /// Notes that the request's story was told at `now`, for this body is at hand and small enough to count as sent.
    pub fn told(&mut self, now: Instant) {
        self.told = Some(now);
    }

    /// The length of a body that is at hand, and of which nothing was taken yet.
    #[must_use]
    pub fn at_hand(&self) -> Option<u64> {
        matches!(self.payload, Payload::Stored(BodyReader::Whole(_) | BodyReader::Done)).then(|| self.left.unwrap_or(0))
    }

    /// The length, where it is known.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        self.left
    }

    /// Whether it is known that there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == Some(0)
    }

    /// The next piece. hyper hands a piece to an HTTP/2 stream as a whole, however small the client's window is, and then
    /// counts as done; in small ones it is seen whether the client takes them, and no more than one waits in each stream.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(stream) = self.watch.as_mut().and_then(|watch| watch.stream.as_mut()) else {
            return self.payload.poll(cx);
        };
        if stream.rest.is_empty() {
            match self.payload.poll(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => stream.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => {
                    stream.turn.ours();
                    return other;
                }
            }
        }
        stream.turn.clients();
        let piece = stream.rest.split_to(stream.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Payload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Stored(reader) => {
                reader.poll_next(cx).map(|piece| piece.map(|piece| piece.map(Frame::data).map_err(BodyError::from)))
            }
            Self::Origin(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = this.poll_piece(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.sent += data.len() as u64;
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(trail) = &mut this.trail {
                    trail.origin_failed();
                }
                // hyper breaks off at once, with what it holds unsent; so it is first made to wait, and sends it.
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        let stream = self.watch.as_ref().and_then(|watch| watch.stream.as_ref());
        if stream.is_some_and(|stream| !stream.rest.is_empty()) {
            return false;
        }
        match &self.payload {
            Payload::Stored(reader) => reader.is_done(),
            Payload::Origin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for OutBody {
    fn drop(&mut self) {
        if let Some(trail) = self.trail.take() {
            let (now, whole) = (clock::mono(), self.ended || self.is_end_stream() || self.left == Some(0));
            trail.finish(self.sent, whole, now);
            // Dropped after this, it tells the connection.
            self.watch = self.watch.take().map(|watch| watch.ending_at(now));
        }
    }
}
