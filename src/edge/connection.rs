//! One client connection: from the accepted socket to hyper, watched until it closes.
//!
//! Knows nothing of requests: those are the service's. Every wait here has an end: the TLS handshake, the first byte, the
//! head, the pause between requests, a write that stands still.

use crate::clock;
use crate::edge::activity::Abuse;
use crate::edge::activity::Activity;
use crate::edge::activity::Bounds;
use crate::edge::activity::Closed;
use crate::edge::activity::Verdict;
use crate::edge::socket::Abrupt;
use crate::edge::socket::Watched;
use crate::edge::streams::Streams;
use http::Request;
use http::Response;
use http_body::Body;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::task::coop;
use tokio_util::sync::CancellationToken;

/// What every HTTP/2 connection begins with (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol bounds of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The phases' time-outs.
    pub bounds: Bounds,
    /// The most bytes of a request's head.
    pub header_bytes: usize,
    /// The most fields of a request's head.
    pub headers: usize,
    /// The most concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// The least bytes per second at which a client takes an answer; 0 asks for none.
    pub rate_min: u64,
}

/// Which protocol the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The client left, or we had said all.
    Normally,
    /// One of our time-outs.
    TimedOut(Closed),
    /// We have cut the client off.
    CutOff(Abuse),
    /// The client broke the protocol or the connection.
    Protocol(hyper::Error),
}

/// Reads the first bytes of a cleartext connection until it is sure whether they are the HTTP/2 preface.
///
/// # Errors
/// [`Closed::FirstByte`] when they do not come within `within`; `None` inside when the client left.
pub async fn sniff<S: AsyncRead + Unpin>(
    stream: &mut S,
    within: Duration,
) -> Result<Option<(Protocol, Vec<u8>)>, Closed> {
    let mut ahead = Vec::with_capacity(PREFACE.len());
    let read = async {
        loop {
            let mut byte = [0; 24];
            let room = PREFACE.len() - ahead.len();
            match stream.read(&mut byte[..room]).await {
                Ok(read) if read > 0 => ahead.extend_from_slice(&byte[..read]),
                _ => return None,
            }
            if ahead == PREFACE {
                return Some(Protocol::Http2);
            }
            if !PREFACE.starts_with(&ahead) {
                return Some(Protocol::Http1);
            }
        }
    };
    match tokio::time::timeout(within, read).await {
        Ok(protocol) => Ok(protocol.map(|protocol| (protocol, ahead))),
        Err(_) => Err(Closed::FirstByte),
    }
}

/// Serves one connection to its end. `stop` lets requests under way finish and takes no more.
pub fn serve<S, H, B>(
    stream: S,
    ahead: Vec<u8>,
    protocol: Protocol,
    activity: Arc<Activity>,
    limits: &Limits,
    service: H,
    stop: &CancellationToken,
) -> impl Future<Output = Ended>
where
    S: Abrupt + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: hyper::service::Service<Request<Incoming>, Response = Response<B>> + HttpService<Incoming, ResBody = B> + Unpin,
    <H as hyper::service::Service<Request<Incoming>>>::Future: Send + 'static,
    <H as hyper::service::Service<Request<Incoming>>>::Error: Into<Box<dyn Error + Send + Sync>>,
    <H as HttpService<Incoming>>::Error: Into<Box<dyn Error + Send + Sync>>,
    <H as HttpService<Incoming>>::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let io = TokioIo::new(Watched::new(stream, ahead, Arc::clone(&activity)));
    // Made here and not in the future: it would keep room for what it was made of as long as the connection lasts.
    let driven = match protocol {
        Protocol::Http1 => Driven::Http1(Box::pin(http1_builder(limits).serve_connection(io, service).with_upgrades())),
        Protocol::Http2 => {
            let streams = Streams::new(Arc::clone(&activity), limits.bounds.write_idle);
            Driven::Http2(Box::pin(http2_builder(limits, streams).serve_connection(io, service)))
        }
    };
    let bounds = &limits.bounds;
    async move {
        let ended = match driven {
            Driven::Http1(connection) => {
                watch(connection, http1::UpgradeableConnection::graceful_shutdown, &activity, bounds, stop).await
            }
            Driven::Http2(connection) => {
                watch(connection, http2::Connection::graceful_shutdown, &activity, bounds, stop).await
            }
        };
        activity.abuse().map_or(ended, Ended::CutOff)
    }
}

/// A connection of either protocol, in hyper's hands.
enum Driven<A, B> {
    Http1(Pin<Box<A>>),
    Http2(Pin<Box<B>>),
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // hyper's own head timer is off: the watchdog does its work without a timer per request.
    // Asked for a hundred fields or fewer, hyper would take memory for them anew with each head; its own bound is a hundred,
    // and a lower one is the intake's.
    if limits.headers > 100 {
        builder.max_headers(limits.headers);
    }
    builder
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(8192))
        .max_header_size(limits.header_bytes)
        .keep_alive(true)
        .half_close(false);
    builder
}

fn http2_builder(limits: &Limits, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_frame_size(16 * 1024)
        .max_send_buf_size(128 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// What ends the driving of a connection for a moment.
enum Event {
    Ended(Result<(), hyper::Error>),
    /// The watchdog's moment has come.
    Due,
    /// It shall stop.
    Stop,
}

/// Drives `connection` until it ends, a time-out of ours is due, or `stop` has let it finish.
async fn watch<C>(
    mut connection: Pin<Box<C>>,
    finish: impl Fn(Pin<&mut C>),
    activity: &Activity,
    bounds: &Bounds,
    stop: &CancellationToken,
) -> Ended
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut watchdog = pin!(tokio::time::sleep(Duration::ZERO));
    let mut stopped = pin!(stop.cancelled());
    let mut stopping = false;
    // Who is to be woken by both: while they wait for nothing else, a look at whether they are due is all that a request costs.
    let mut waiting: Option<Waker> = None;
    arm(&mut watchdog, activity, bounds);
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            if waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                if !watchdog.is_elapsed() && (stopping || !stop.is_cancelled()) {
                    return Poll::Pending;
                }
            } else {
                // A task that has used up its turn waits for no timer: it is polled again, and does so then.
                waiting = coop::has_budget_remaining().then(|| cx.waker().clone());
            }
            if watchdog.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Due);
            }
            if !stopping && stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            Poll::Pending
        });
        match event.await {
            Event::Ended(ended) => return ended.map_or_else(Ended::Protocol, |()| Ended::Normally),
            Event::Due => {
                if let Some(why) = arm(&mut watchdog, activity, bounds) {
                    if why == Closed::WriteStalled {
                        activity.give_up();
                    }
                    return Ended::TimedOut(why);
                }
            }
            Event::Stop => {
                stopping = true;
                finish(connection.as_mut());
            }
        }
        // The timer that was set anew is waited for anew.
        waiting = None;
    }
}

/// Sets the watchdog to the moment of the next look; gives the reason when the connection is due now.
fn arm(watchdog: &mut Pin<&mut tokio::time::Sleep>, activity: &Activity, bounds: &Bounds) -> Option<Closed> {
    match activity.verdict(bounds, clock::mono()) {
        Verdict::Close(why) => Some(why),
        Verdict::AskAgainAt(at) => {
            watchdog.as_mut().reset(at.into());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;
    use std::time::Instant;

    /// A connection whose first turn uses up all that a task may do at a time, and that is silent from then on.
    #[derive(Default)]
    struct Busy {
        polled: bool,
    }

    impl Future for Busy {
        type Output = Result<(), hyper::Error>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            if !std::mem::replace(&mut self.polled, true) {
                while pin!(coop::consume_budget()).poll(cx).is_ready() {}
            }
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_busy_at_first_is_closed_in_time_when_it_idles_and_hears_that_it_shall_stop() {
        let moment = Duration::from_millis(50);
        let bounds = Bounds { first_byte: moment, head: moment, idle: moment, write_idle: moment };
        let (activity, stop) = (Arc::new(Activity::new(Instant::now(), false, 0)), CancellationToken::new());
        let closed = {
            let (activity, stop) = (Arc::clone(&activity), stop.clone());
            tokio::spawn(async move { watch(Box::pin(Busy::default()), |_| {}, &activity, &bounds, &stop).await })
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it is closed in time").unwrap();
        assert!(matches!(ended, Ended::TimedOut(Closed::FirstByte)), "{ended:?}");
        let long = Duration::from_secs(60);
        let bounds = Bounds { first_byte: long, head: long, idle: long, write_idle: long };
        let (told, heard) = tokio::sync::oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let stopping = stop.clone();
        let watched = tokio::spawn(async move {
            let finish = move |_: Pin<&mut Busy>| told.lock().unwrap().take().unwrap().send(()).unwrap();
            watch(Box::pin(Busy::default()), finish, &activity, &bounds, &stopping).await
        });
        tokio::task::yield_now().await;
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("it is told in time").unwrap();
        watched.abort();
    }
}
