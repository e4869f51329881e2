//! A client's body on its way to the origin: bounded in size, in the pauses it makes, and in slowness.

use crate::edge::body::BodyError;
use crate::edge::errand::Errand;
use crate::edge::refusal::Refusal;
use crate::semantics::pace::Pace;
use crate::snapshot::Site;
use crate::upstream::ClientFault;
use crate::upstream::RequestBody;
use crate::upstream::patience::Patience;
use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

struct Inbound {
    incoming: Incoming,
    left: u64,
    patience: Patience,
    fault: Arc<OnceLock<ClientFault>>,
    /// Where its bytes are counted.
    site: Arc<Site>,
}

/// The body to pass on.
///
/// # Errors
/// 413 when it announces more than the site takes.
pub fn body(errand: &Errand, incoming: Incoming) -> Result<RequestBody, Refusal> {
    if incoming.is_end_stream() {
        return Ok(RequestBody::Empty);
    }
    let most = errand.site.body_max(&errand.path);
    if incoming.size_hint().lower() > most {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large").closing());
    }
    let fault = Arc::new(OnceLock::new());
    let limits = &errand.snapshot.server.limits;
    let patience = Patience::new(limits.body_idle, Pace::new(limits.rate_min.0, limits.body_idle));
    let site = Arc::clone(&errand.site);
    let inbound = Inbound { incoming, left: most, patience, fault: Arc::clone(&fault), site };
    Ok(RequestBody::Stream { body: inbound.boxed_unsync(), fault })
}

/// The client's fault, as hyper wants to hear of it: it breaks the connection to the origin.
#[derive(Debug, thiserror::Error)]
#[error("the client's body broke off: {0:?}")]
struct Broke(ClientFault);

impl Inbound {
    fn fail(&self, fault: ClientFault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let fault = *self.fault.get_or_init(|| fault);
        Poll::Ready(Some(Err(Box::new(Broke(fault)))))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            return match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of a request are dropped: nobody behind us expects any.
                    let Some(data) = frame.data_ref() else { continue };
                    this.patience.moved(data.len() as u64);
                    this.site.metrics.receive(data.len() as u64);
                    let Some(left) = this.left.checked_sub(data.len() as u64) else {
                        return this.fail(ClientFault::TooLarge);
                    };
                    this.left = left;
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(Some(Err(_))) => this.fail(ClientFault::Broken),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => {
                    ready!(this.patience.poll_spent(cx));
                    this.fail(ClientFault::TooSlow)
                }
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
