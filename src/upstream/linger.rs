//! A request that has been sent and is not answered yet. Zope renders to the end, whether the client is still there or not;
//! so the thread is taken until the answer comes, even if nobody wants it any more. Otherwise a visitor who presses reload
//! again and again would fill threads that are counted as free.
//!
//! It ends with the answer, when the connection breaks, when the endpoint is seen to be down, or when it has lasted as long
//! again as an answer may take.

use crate::upstream::body::RequestBody;
use crate::upstream::lease::Lease;
use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

type Answer = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// A request under way, with the thread it takes.
pub(super) struct Underway {
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    lease: Option<Lease>,
    longest: Duration,
}

impl Underway {
    /// A request that was given to a connection; nobody waits for its answer longer than `longest` once he has left.
    pub fn new(answer: impl Future<Output = Answer> + Send + 'static, lease: Lease, longest: Duration) -> Self {
        Self { answer: Box::pin(answer), lease: Some(lease), longest }
    }

    /// The answer. Cancel-safe: it can be waited for again.
    pub async fn answer(&mut self) -> Answer {
        self.answer.as_mut().await
    }

    /// The answer has come: gives the thread to the one who reads it.
    pub fn arrived(mut self) -> Option<Lease> {
        self.lease.take()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        // Without a runtime everything is coming to its end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let answer = std::mem::replace(&mut self.answer, Box::pin(std::future::pending()));
        let longest = self.longest;
        lease.endpoint.abandoned.fetch_add(1, Ordering::Relaxed);
        runtime.spawn(async move {
            let answered = {
                let fallen = lease.endpoint.fallen.notified();
                tokio::select! {
                    answer = answer => answer.is_ok(),
                    () = fallen => false,
                    () = tokio::time::sleep(longest) => false,
                }
            };
            lease.answered = answered;
            lease.endpoint.abandoned.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
