//! A request that has been sent and is not answered yet. Zope renders to the end, whether the client is still there or not;
//! so the thread is taken until the answer comes, even if nobody wants it any more. Otherwise a visitor who presses reload
//! again and again would fill threads that are counted as free.
//!
//! It ends with the answer, when the connection breaks, when the endpoint is seen to be down, or when it has lasted as long
//! again as an answer may take.

use crate::clock;
use crate::semantics::wire::Answer;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::exchange::Exchange;
use crate::upstream::exchange::Silence;
use crate::upstream::lease::Lease;
use crate::upstream::machine::health::Evidence;
use crate::upstream::machine::health::State;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;

/// A request under way, with the thread it takes.
pub(super) struct Underway {
    sent: Option<(Exchange, Lease)>,
    longest: Duration,
    /// Its connection broke: nothing comes any more.
    broken: bool,
}

impl Underway {
    /// A request that was given to a connection. Once nobody wants its answer any more, it is waited for no longer than `longest`.
    pub fn new(exchange: Exchange, lease: Lease, longest: Duration) -> Self {
        Self { sent: Some((exchange, lease)), longest, broken: false }
    }

    /// The answer, if it comes before it is `due`, with what it occupies until its body has ended.
    ///
    /// Cancel-safe: dropped before that, it is waited for on behalf of the thread.
    ///
    /// # Errors
    /// [`Silence`].
    pub fn poll_answer(
        &mut self,
        due: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Answer, Exchange, Lease), Silence>> {
        let Some((exchange, _)) = &mut self.sent else { return Poll::Ready(Err(Silence::Closed)) };
        let answer = ready!(exchange.poll_answer(due, cx));
        let answer = match answer {
            Ok(answer) => answer,
            Err(silence) => {
                // Who is late may be at it still.
                self.broken = !matches!(silence, Silence::Late);
                return Poll::Ready(Err(silence));
            }
        };
        let Some((exchange, mut lease)) = self.sent.take() else { return Poll::Ready(Err(Silence::Closed)) };
        lease.answered = true;
        Poll::Ready(Ok((answer, exchange, lease)))
    }

    /// Ends it when there was no answer: gives the endpoint that gave none.
    pub fn unanswered(self) -> Option<Arc<Endpoint>> {
        self.sent.as_ref().map(|(_, lease)| Arc::clone(&lease.endpoint))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let Some((mut exchange, mut lease)) = self.sent.take().filter(|_| !self.broken) else { return };
        // Without a runtime everything is coming to its end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // What was sent of its body until now prolongs nothing any more.
        let due = (clock::mono() + self.longest).checked_sub(exchange.uploading()).unwrap_or_else(clock::mono);
        lease.endpoint.abandoned.fetch_add(1, Ordering::Relaxed);
        lease.abandoned();
        runtime.spawn(async move {
            let answered = {
                let mut fallen = pin!(lease.endpoint.fallen.notified());
                // From here on no fall is missed; one that has happened already is seen.
                fallen.as_mut().enable();
                if lease.endpoint.condition().health.state() == State::Down {
                    false
                } else {
                    tokio::select! {
                        answer = poll_fn(|cx| exchange.poll_answer(due, cx)) => answer.is_ok(),
                        () = fallen => false,
                    }
                }
            };
            if answered {
                lease.upstream().learn(&lease.endpoint, Evidence::Answered);
            }
            lease.answered = answered;
            lease.endpoint.abandoned.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
